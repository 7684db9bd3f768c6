// Package apt fetches Debian packages through the host's apt-get, as any user
// and apart from the host's own package state: with directories of its own, its
// locks there, and an empty list of installed packages. apt verifies the
// archive's signature and each package's hash; nothing unsigned is ever taken,
// whatever the host's configuration allows.
package apt

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
)

// Options are what a user may choose.
type Options struct {
	// Mirror is the URL of a Debian archive. Empty: found (see the host's apt
	// sources).
	Mirror string
	// Keyring is the file of keys that Mirror is signed with. Empty: Debian's.
	Keyring string
}

// Progress takes the state of a transfer: what is done, and how much of it, 0
// to 1.
type Progress func(what string, fraction float64)

// Archive is the private apt directory of one suite, held by a lock until
// Close.
type Archive struct {
	suite string
	dir   layout.Apt
	debs  string
	lock  *lockfile.Lock
	log   *slog.Logger
	// problem is what apt complained of when it last fetched the lists.
	problem string
}

// Package is one version of a package, as the archive's signed list has it.
type Package struct {
	Name, Version, Filename string
	// Size of the .deb in bytes.
	Size    int64
	SHA256  string
	Depends []string
}

var (
	validSuite   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	validPackage = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}$`)
)

// Config names what Open needs.
type Config struct {
	Home    layout.Home
	Suite   string
	Arch    string
	Options Options
	Log     *slog.Logger
	// Waiting, if set, is called once if another process holds the suite.
	Waiting func()
}

// Open takes the private directory of a suite, waiting for whoever has it now,
// and writes its configuration.
func Open(ctx context.Context, c Config) (*Archive, error) {
	if !validSuite.MatchString(c.Suite) {
		return nil, banger.Errorf(banger.CodeUsage, "suite %q is not valid", c.Suite)
	}
	dir := c.Home.AptSuite(c.Suite)
	lock, err := lockfile.Acquire(ctx, layout.Lock(dir.Dir()), c.Waiting)
	if err != nil {
		return nil, err
	}
	a := &Archive{
		suite: c.Suite, dir: dir, lock: lock, log: c.Log,
		debs: filepath.Join(c.Home.Debs(), c.Suite),
	}
	if err := a.configure(ctx, c); err != nil {
		lock.Release()
		return nil, err
	}
	return a, nil
}

// Close lets the next one have the directory.
func (a *Archive) Close() { a.lock.Release() }

func (a *Archive) configure(ctx context.Context, c Config) error {
	sources, err := choose(ctx, c.Suite, c.Options)
	if err != nil {
		return err
	}
	for _, dir := range []string{
		filepath.Join(a.dir.State(), "lists", "partial"),
		filepath.Join(a.dir.Cache(), "archives", "partial"),
		a.debs,
	} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	for name, text := range map[string][]byte{
		a.dir.Status():      nil,
		a.dir.Sources():     stanzas(sources, c.Arch),
		a.dir.Preferences(): []byte(preferences),
		a.dir.Config():      configText(a.dir, c.Arch),
	} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// preferences takes packages only from archives that say they are Debian's: a
// third party's archive among the host's sources may carry the same suite name.
const preferences = `Package: *
Pin: release o=Debian
Pin-Priority: 500

Package: *
Pin: release o=*
Pin-Priority: -1
`

// configText is read after the host's own configuration, so that proxies and
// credentials stay, and everything that must not stay is set or cleared here:
// hooks, the host's directories, permission to take what is not signed. The
// parsed lists are kept (36 MB): it saves each question 0.3 s.
func configText(dir layout.Apt, arch string) []byte {
	return fmt.Appendf(nil, `#clear APT::Update;
#clear APT::Architectures;
#clear DPkg;
Dir::State %q;
Dir::State::status %q;
Dir::Cache %q;
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist %q;
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences %q;
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture %q;
APT::Architectures {%q;};
APT::Default-Release "";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
`, dir.State(), dir.Status(), dir.Cache(), dir.Sources(), dir.Preferences(), arch, arch)
}

// Update fetches the archive's lists. A complaint of apt is not final: lists
// that were verified before are kept, and Show says if they do not serve.
func (a *Archive) Update(ctx context.Context, report Progress) error {
	out, err := a.run(ctx, report, "apt-get", "update")
	if err != nil && !isExit(err) {
		return err
	}
	if a.problem = complaint(out.stderr); a.problem != "" {
		a.log.Warn("apt-get update", "suite", a.suite, "problem", a.problem)
		if isFull(out.stderr) {
			return a.failure("apt-get update", out.stderr)
		}
	}
	return nil
}

// Show returns the version of package name that apt would install.
func (a *Archive) Show(ctx context.Context, name string) (Package, error) {
	if !validPackage.MatchString(name) {
		return Package{}, banger.Errorf(banger.CodeUsage, "package name %q is not valid", name)
	}
	// Only the policy knows pins: show alone would also list a package that no
	// archive may give.
	policy, err := a.run(ctx, nil, "apt-cache", "policy", name)
	if err != nil && !isExit(err) {
		return Package{}, err
	}
	version := candidate(policy.stdout)
	if version == "" {
		if a.problem != "" {
			return Package{}, a.failure("apt-get update", a.problem)
		}
		return Package{}, banger.Errorf(banger.CodeNotFound, "Debian %s has no package %s", a.suite, name)
	}
	out, err := a.run(ctx, nil, "apt-cache", "show", name+"="+version)
	if err != nil {
		if isExit(err) {
			return Package{}, a.failure("apt-cache show "+name, out.stderr)
		}
		return Package{}, err
	}
	return parsePackage(out.stdout)
}

// candidate finds the version that apt would install in its policy's words.
func candidate(policy string) string {
	for line := range strings.Lines(policy) {
		if version, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && version != "(none)" {
			return version
		}
	}
	return ""
}

// parsePackage reads the first stanza of a package list.
func parsePackage(text string) (Package, error) {
	var p Package
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" {
			break
		}
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Filename":
			p.Filename = filepath.Base(value)
		case "SHA256":
			p.SHA256 = value
		case "Size":
			p.Size, _ = strconv.ParseInt(value, 10, 64)
		case "Depends":
			for dependency := range strings.SplitSeq(value, ",") {
				if name := strings.Fields(dependency); len(name) > 0 {
					p.Depends = append(p.Depends, name[0])
				}
			}
		}
	}
	if !validPackage.MatchString(p.Name) || p.Version == "" || p.Size <= 0 {
		return Package{}, banger.Errorf(banger.CodeFailed, "the archive's entry of package %q is not complete", p.Name)
	}
	return p, nil
}
