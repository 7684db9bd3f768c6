package apt

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	banger "github.com/banger-dev/banger"
)

// Where the host keeps what choose looks at.
const (
	hostEtc       = "/etc/apt"
	hostOSRelease = "/etc/os-release"
)

// debianKeyrings are the places of Debian's archive keys, newest first.
var debianKeyrings = [...]string{
	"/usr/share/keyrings/debian-archive-keyring.pgp",
	"/usr/share/keyrings/debian-archive-keyring.gpg",
}

// validURI keeps a mirror from being more than one word of a sources file.
var validURI = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:/[^\s\[\]]+$`)

// choose finds archives for suite: the mirror that the user named, else those
// of the host, else those of the host's own release with the name of this one
// in its place (Debian keeps its releases side by side), else the ones that
// mmdebstrap would take.
func choose(ctx context.Context, suite string, o Options) ([]source, error) {
	if o.Mirror != "" {
		return mirrorSources(suite, o)
	}
	host := hostSources(hostEtc)
	if found := serving(host, suite, suite); found != nil {
		return found, nil
	}
	if own := debianCodename(hostOSRelease); own != "" {
		if found := serving(host, own, suite); found != nil {
			return found, nil
		}
	}
	if found := serving(mmdebstrapSources(ctx, suite), suite, suite); found != nil {
		return found, nil
	}
	return nil, banger.Errorf(banger.CodeUnavailable,
		"no archive of Debian %s is known: neither the host's apt sources nor mmdebstrap name one", suite).
		WithHint("apt-get install mmdebstrap debian-archive-keyring, or set mirror = \"URL of a Debian mirror\" in config.toml")
}

func mirrorSources(suite string, o Options) ([]source, error) {
	if !validURI.MatchString(o.Mirror) {
		return nil, banger.Errorf(banger.CodeUsage, "mirror %q is not a URL", o.Mirror)
	}
	keyring := o.Keyring
	for _, name := range debianKeyrings {
		if _, err := os.Stat(name); err == nil && keyring == "" {
			keyring = name
		}
	}
	return []source{{
		uris:       []string{o.Mirror},
		suites:     []string{suite, suite + "-updates"},
		components: []string{"main"},
		signedBy:   keyring,
	}}, nil
}

// debianCodename returns the codename of the host's release, "" if the host is
// not Debian.
func debianCodename(osRelease string) string {
	text, err := os.ReadFile(osRelease)
	if err != nil {
		return ""
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[key] = strings.Trim(value, `"'`)
	}
	if values["ID"] != "debian" {
		return ""
	}
	return values["VERSION_CODENAME"]
}

// mmdebstrapSources asks mmdebstrap which archives it takes for suite when it
// is told nothing, keys included. The answer is what it wrote when its first
// hook runs; the hook ends the run before anything is fetched or installed.
func mmdebstrapSources(ctx context.Context, suite string) []source {
	dir, err := os.MkdirTemp("", "banger-sources-")
	if err != nil {
		return nil
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--quiet", "--mode=chrootless", "--variant=custom",
		`--setup-hook=cp "$1/etc/apt/sources.list" "$BANGER_OUT"; exit 1`, suite, dir+"/root")
	out := dir + "/sources.list"
	cmd.Env = append(os.Environ(), "BANGER_OUT="+out)
	cmd.WaitDelay = time.Second
	// The run always fails, by the hook; the file says if it got that far.
	_ = cmd.Run()
	text, err := os.ReadFile(out)
	if err != nil {
		return nil
	}
	return parseLines(string(text))
}
