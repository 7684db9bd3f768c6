package identity

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// hostsMark ends the one line of /etc/hosts that is ours; all others are the
// image's or the person's.
const hostsMark = "# banger"

// hostsBase is a hosts file for an image that has none.
const hostsBase = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// writeNames writes hostname and hosts.
func writeNames(etc, name string) error {
	hosts := hostsBase
	// An image's hosts file is small; one that is not is left out of it.
	if old, err := os.ReadFile(filepath.Join(etc, "hosts")); err == nil && strings.TrimSpace(string(old)) != "" {
		hosts = string(old)
	}
	return errors.Join(
		replaceFile(etc, "hostname", name+"\n", 0o644),
		replaceFile(etc, "hosts", withName(hosts, name), 0o644),
	)
}

// withName is hosts with name as a name of this machine, and no other of ours.
func withName(hosts, name string) string {
	var b strings.Builder
	for line := range strings.Lines(hosts) {
		if strings.HasSuffix(strings.TrimSpace(line), hostsMark) {
			continue
		}
		b.WriteString(line)
		if !strings.HasSuffix(line, "\n") {
			b.WriteByte('\n')
		}
	}
	b.WriteString("127.0.1.1\t" + name + "\t" + hostsMark + "\n")
	return b.String()
}

// writeResolvConf makes resolv.conf a file with these servers; in an image it
// is often a link to what a resolver that does not run would write.
func writeResolvConf(etc string, servers []string) error {
	if len(servers) == 0 {
		return nil
	}
	var b strings.Builder
	for _, s := range servers {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return err
		}
		b.WriteString("nameserver " + addr.String() + "\n")
	}
	return replaceFile(etc, "resolv.conf", b.String(), 0o644)
}

// replaceFile makes dir/name a file with this text, whatever it was before.
func replaceFile(dir, name, text string, mode os.FileMode) error {
	path := filepath.Join(dir, name)
	info, err := os.Lstat(path)
	if err == nil && info.Mode().IsRegular() {
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			return nil
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, "."+name+"-")
	if err != nil {
		return err
	}
	_, err = temp.WriteString(text)
	err = errors.Join(err, temp.Chmod(mode), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		os.Remove(temp.Name())
	}
	return err
}
