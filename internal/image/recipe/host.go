package recipe

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	banger "github.com/banger-dev/banger"
)

// host is what matters of the machine and of who builds.
type host struct {
	uid  int
	user string
	// etc is where subuid and subgid are.
	etc string
	// isolated: root may make mount and PID namespaces here. In many
	// containers it may not.
	isolated bool
}

func thisHost() (host, error) {
	h := host{uid: os.Getuid(), etc: "/etc"}
	if h.uid == 0 {
		h.isolated = exec.Command("unshare", isolation[1:]...).Run() == nil
		return h, nil
	}
	u, err := user.Current()
	if err != nil {
		return h, banger.Errorf(banger.CodeUnavailable, "user %d has no name: %w", h.uid, err)
	}
	h.user = u.Username
	return h, nil
}

// Check reports whether this host can build images for who calls it: nil, or
// unavailable with the command that mends it.
func Check() error {
	h, err := thisHost()
	if err != nil {
		return err
	}
	return h.check()
}

func (h host) check() error {
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return banger.Errorf(banger.CodeUnavailable, "mmdebstrap, which builds images, is not installed").
			WithHint("%s", h.sudo("apt-get install mmdebstrap"))
	}
	if h.uid == 0 {
		return nil
	}
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(program); err != nil {
			return banger.Errorf(banger.CodeUnavailable, "%s, which an image build without root needs, is not installed", program).
				WithHint("%s", h.sudo("apt-get install uidmap"))
		}
	}
	return h.checkIDs()
}

// idsWanted is how many ids a Debian system expects: up to nobody, 65534.
const idsWanted = 65536

// checkIDs looks for the ranges that mmdebstrap will take.
func (h host) checkIDs() error {
	next := int64(100000)
	missing := []string{}
	for _, name := range []string{"subuid", "subgid"} {
		has, end := h.ids(filepath.Join(h.etc, name))
		next = max(next, end)
		if !has {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	args := ""
	for _, name := range missing {
		args += fmt.Sprintf("--add-%ss %d-%d ", name, next, next+idsWanted-1)
	}
	return banger.Errorf(banger.CodeUnavailable, "user %q has no %d ids in /etc/%s, which an image build without root needs",
		h.user, idsWanted, strings.Join(missing, " and /etc/")).
		WithHint("%s", h.sudo("usermod "+args+h.user))
}

// ids reports whether the first range of the user is large enough, and the end
// of the last range of anybody.
func (h host) ids(path string) (has bool, end int64) {
	f, err := os.Open(path)
	if err != nil {
		return false, 0
	}
	defer f.Close()
	first := true
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 {
			continue
		}
		start, err1 := strconv.ParseInt(fields[1], 10, 33)
		count, err2 := strconv.ParseInt(fields[2], 10, 33)
		if err1 != nil || err2 != nil {
			continue
		}
		end = max(end, start+count)
		if fields[0] == h.user && first {
			first, has = false, count >= idsWanted
		}
	}
	return has, end
}

func (h host) sudo(command string) string {
	if h.uid == 0 {
		return command
	}
	return "sudo " + command
}

// allowNamespaces returns the command that lets users make user namespaces, by
// the switch that is off here.
func (h host) allowNamespaces(sysctls string) string {
	for _, s := range []struct{ key, off, on string }{
		{"kernel.unprivileged_userns_clone", "0", "1"},
		{"kernel.apparmor_restrict_unprivileged_userns", "1", "0"},
		{"user.max_user_namespaces", "0", "15000"},
	} {
		value, err := os.ReadFile(filepath.Join(sysctls, strings.ReplaceAll(s.key, ".", "/")))
		if err == nil && strings.TrimSpace(string(value)) == s.off {
			return h.sudo("sysctl -w " + s.key + "=" + s.on)
		}
	}
	return "running it where user namespaces are allowed"
}

func (h host) mode() string {
	if h.uid == 0 {
		return "root"
	}
	return "unshare"
}

// mounts reports whether the build may mount. As root outside a namespace of
// its own it must not: a build that is killed would leave mounts of the host's
// /dev and /sys in the tree that is then removed.
func (h host) mounts() bool { return h.uid != 0 || h.isolated }

// isolation runs what follows in mount and PID namespaces that end with it.
var isolation = [...]string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "true"}

// wrapperScript starts the build. It leaves the number of its process group in
// the lock file (fd 3). A watcher reads from a pipe (fd 4) that only the builder
// can write to: when the builder is gone, however it went, the watcher ends the
// whole group. The limit of open files is lowered because some programs try to
// close every number below it, for seconds.
const wrapperScript = `echo $$ >&3
(trap "" HUP INT TERM; exec >/dev/null 2>&1 3>&-; read -r _ <&4; kill -KILL 0) &
exec 4<&-
ulimit -n 1024 2>/dev/null
umask 022
exec "$@"`

// wrapper is the command line before mmdebstrap's.
func (h host) wrapper() []string {
	argv := []string{"sh", "-c", wrapperScript, "sh"}
	if h.isolated {
		argv = append(argv, isolation[:len(isolation)-1]...)
	}
	return argv
}

// environment is ours, with the directories of system programs, which a user's
// PATH often lacks, and the host's proxy, which mmdebstrap's apt does not see.
func (h host) environment(ctx context.Context) []string {
	var env []string
	for _, entry := range os.Environ() {
		switch name, _, _ := strings.Cut(entry, "="); name {
		case "APT_CONFIG", "TMPDIR", "PATH", "SOURCE_DATE_EPOCH":
		default:
			env = append(env, entry)
		}
	}
	env = append(env, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin:/usr/bin:/bin")
	for _, scheme := range []string{"http", "https"} {
		if proxy := aptProxy(ctx, scheme); proxy != "" && os.Getenv(scheme+"_proxy") == "" {
			env = append(env, scheme+"_proxy="+proxy)
		}
	}
	return env
}

// aptProxy returns the proxy in the host's apt configuration, "" if none.
func aptProxy(ctx context.Context, scheme string) string {
	out, err := exec.CommandContext(ctx, "apt-config", "dump", "--format", "%v%n", "Acquire::"+scheme+"::Proxy").Output()
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(first)
}
