package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/banger-dev/banger/internal/vmdns"
)

// nameTime bounds the question whether this host finds the names of VMs.
const nameTime = 2 * time.Second

// names tests whether programs of this host find VMs by NAME.vm, and says what
// makes them do so.
func (e *examiner) names(ctx context.Context) {
	at := e.cfg.Network.DNS(os.Getuid())
	switch {
	case e.status == nil:
		e.ok("names in .vm", "the daemon answers them at %s while it runs; it does not, so they are not tested", at)
		return
	case e.status.DnsAddress == "":
		e.add(Warn, "names in .vm", "dns_port = 5378 under [network] in "+e.Home.ConfigFile()+", then banger daemon restart",
			"VMs are reached by their addresses only: %s", or(e.status.DnsError, "this daemon does not answer names"))
		return
	}
	if found, err := netip.ParseAddrPort(e.status.DnsAddress); err == nil {
		at = found
	}
	ctx, cancel := context.WithTimeout(ctx, nameTime)
	defer cancel()
	addrs, err := e.LookupHost(ctx, vmdns.ProbeName)
	if err == nil && slices.Contains(addrs, at.Addr().String()) {
		e.ok("names in .vm", "this host finds VMs by NAME.vm, answered at %s", at)
		return
	}
	how, fix := lookAt(e.Root, os.Getuid()).advice(at)
	e.add(Warn, "names in .vm", fix, "this host does not find VMs by NAME.vm: they are answered at %s, and %s", at, how)
}

// resolver is who resolves names on this host, as far as files tell.
type resolver struct {
	// conf is /etc/resolv.conf.
	conf string
	// resolved, dnsmasq and manager say that systemd-resolved, dnsmasq and
	// NetworkManager are what programs ask, or what writes conf.
	resolved, dnsmasq, manager bool
	// everywhere says that systemd-resolved has servers in its config: it asks one
	// of those for all names, also for those of a domain that another one is for.
	everywhere bool
	root       bool
}

// lookAt reads the files below root.
func lookAt(root string, uid int) resolver {
	conf := filepath.Join(root, "etc/resolv.conf")
	data, err := os.ReadFile(conf)
	r := resolver{root: uid == 0}
	if err != nil {
		return r
	}
	r.conf = string(data)
	there := func(path string) bool { _, err := os.Stat(filepath.Join(root, path)); return err == nil }
	target, err := os.Readlink(conf)
	linked := err == nil && strings.Contains(target, "systemd/resolve")
	servers := nameservers(r.conf)
	local := slices.ContainsFunc(servers, func(s string) bool { return s == "127.0.0.1" || s == "127.0.1.1" || s == "::1" })
	r.resolved = there("run/systemd/resolve") && (linked || slices.Contains(servers, "127.0.0.53"))
	r.everywhere = resolvedServers(root)
	r.manager = there("run/NetworkManager") && (strings.Contains(r.conf, "NetworkManager") || there("etc/NetworkManager/dnsmasq.d") && local)
	r.dnsmasq = local && (there("etc/dnsmasq.d") || there("etc/NetworkManager/dnsmasq.d"))
	return r
}

// resolvedServers reports whether the config of systemd-resolved, but for the file
// that we advise, names servers.
func resolvedServers(root string) bool {
	dir := filepath.Join(root, "etc/systemd")
	more, _ := filepath.Glob(filepath.Join(dir, "resolved.conf.d", "*.conf")) // the pattern is good
	for _, path := range append(more, filepath.Join(dir, "resolved.conf")) {
		data, err := os.ReadFile(path)
		if err != nil || filepath.Base(path) == adviceFile {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if servers, ok := strings.CutPrefix(strings.TrimSpace(line), "DNS="); ok && servers != "" {
				return true
			}
		}
	}
	return false
}

// adviceFile is what the files that we advise are called.
const adviceFile = "banger.conf"

func nameservers(conf string) (list []string) {
	for line := range strings.Lines(conf) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "nameserver" {
			list = append(list, fields[1])
		}
	}
	return list
}

// advice is what resolves names here, and the one command that has it ask at for
// those of VMs.
func (r resolver) advice(at netip.AddrPort) (how, fix string) {
	sudo := "sudo "
	if r.root {
		sudo = ""
	}
	hosts := fmt.Sprintf("banger hosts | %stee -a /etc/hosts", sudo)
	rule := fmt.Sprintf("server=/vm/%s#%d", at.Addr(), at.Port())
	switch {
	case r.resolved && r.everywhere:
		return "the servers in the config of systemd-resolved are asked for all names, so that a list of the VMs of now is all that there is", hosts
	case r.resolved:
		return "systemd-resolved does not ask there", fmt.Sprintf(
			`%[1]smkdir -p /etc/systemd/resolved.conf.d && printf '[Resolve]\nDNS=%[2]s\nDomains=~vm\n' | %[1]stee /etc/systemd/resolved.conf.d/banger.conf && %[1]ssystemctl restart systemd-resolved`, sudo, at)
	case r.manager && r.dnsmasq:
		return "NetworkManager's dnsmasq does not ask there", fmt.Sprintf(
			`echo '%[2]s' | %[1]stee /etc/NetworkManager/dnsmasq.d/banger.conf && %[1]ssystemctl reload NetworkManager`, sudo, rule)
	case r.manager:
		return "NetworkManager writes /etc/resolv.conf", fmt.Sprintf(
			`%[1]sapt-get install dnsmasq-base && printf '[main]\ndns=dnsmasq\n' | %[1]stee /etc/NetworkManager/conf.d/banger.conf && echo '%[2]s' | %[1]stee /etc/NetworkManager/dnsmasq.d/banger.conf && %[1]ssystemctl restart NetworkManager`, sudo, rule)
	case r.dnsmasq:
		return "dnsmasq does not ask there", fmt.Sprintf(
			`echo '%[2]s' | %[1]stee /etc/dnsmasq.d/banger.conf && %[1]ssystemctl restart dnsmasq`, sudo, rule)
	case at.Port() == 53 && r.conf != "":
		// Written anew in place: it may be a mount, which nothing can be moved over.
		return "/etc/resolv.conf does not name that", fmt.Sprintf(
			`%[1]ssh -c 'c=$(cat /etc/resolv.conf); printf "nameserver %[2]s\n%%s\n" "$c" > /etc/resolv.conf'`, sudo, at.Addr())
	}
	return "/etc/resolv.conf cannot name a port, so that a list of the VMs of now is all that there is", hosts
}

// systemLookup finds a name as programs of this host do.
func systemLookup(ctx context.Context, name string) ([]string, error) {
	return net.DefaultResolver.LookupHost(ctx, name)
}
