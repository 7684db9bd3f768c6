package archtest

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/banger-dev/banger"

// rule forbids imports of the packages in from, with the reason.
type rule struct {
	from   []string // packages, or trees ending in /...
	allow  []string // of our own module: nothing else may be imported
	forbid []string // of any module, with /... for trees
	reason string
}

var rules = []rule{
	{
		from:   []string{""},
		allow:  []string{},
		reason: "the nouns import only the standard library, so that everything may import them",
	},
	{
		from:   []string{"internal/cli/...", "cmd/banger"},
		allow:  []string{"", "api/...", "internal/cli/...", "internal/config", "internal/layout", "internal/policy/...", "internal/unixsock", "internal/atomicfile", "internal/trace", "internal/treetar"},
		reason: "the command line is a client like any other: what it can do, an API client can do",
	},
	{
		from:   []string{"api/..."},
		allow:  []string{"", "api/...", "internal/layout", "internal/unixsock", "internal/lockfile", "internal/trace/..."},
		reason: "the client library is light and knows no part of the host side",
	},
	{
		from:   []string{"internal/agent/...", "cmd/banger-agent"},
		allow:  []string{"", "api/agent/v1", "api/stream", "internal/linkwire", "internal/treetar", "internal/agent/..."},
		reason: "the agent is small and starts under emulation: it shares only its contracts",
	},
	{
		from:   []string{"internal/daemon/..."},
		forbid: []string{module + "/internal/driver/...", module + "/internal/network/...", module + "/internal/supervisor/...", module + "/internal/guestlink/..."},
		reason: "the daemon is never on a VM's path: it speaks to supervisors",
	},
	{
		from:   []string{"internal/driver/...", "internal/network/...", "internal/image/...", "internal/kernel/...", "internal/disk/...", "internal/guestlink/..."},
		forbid: []string{module + "/internal/daemon/...", module + "/internal/supervisor/...", module + "/internal/cli/...", module + "/internal/store/..."},
		reason: "parts know nothing of who puts them together",
	},
	{
		from:   []string{"internal/policy/..."},
		allow:  []string{"", "internal/policy/..."},
		reason: "what may be reached is decided in one pure place, which the daemon, the supervisor and the command line share",
	},
	{
		from:   []string{"internal/layout", "internal/unixsock", "internal/linkwire", "internal/fault", "internal/lockfile", "internal/atomicfile", "internal/logfile", "internal/heartbeat", "internal/trace"},
		allow:  []string{"", "internal/layout"},
		reason: "the ground floor stands on the nouns alone",
	},
}

// gvisorOwner is the one package that may import gVisor's network stack.
const gvisorOwner = module + "/internal/network"

type listed struct {
	ImportPath string
	Doc        string
	Name       string
	Imports    []string
	GoFiles    []string
}

func TestImports(t *testing.T) {
	for _, pkg := range packages(t) {
		for _, r := range rules {
			if matchesAny(pkg.ImportPath, ours(r.from)) {
				check(t, pkg, r)
			}
		}
		for _, path := range pkg.Imports {
			foreign := strings.HasPrefix(path, "gvisor.dev/") || strings.HasPrefix(path, "github.com/containers/gvisor-tap-vsock")
			if foreign && pkg.ImportPath != gvisorOwner {
				t.Errorf("%s imports %s: only internal/network does, so that it can be replaced", pkg.ImportPath, path)
			}
		}
	}
}

func check(t *testing.T, pkg listed, r rule) {
	t.Helper()
	for _, path := range pkg.Imports {
		own := path == module || strings.HasPrefix(path, module+"/")
		if r.allow != nil && own && !matchesAny(path, ours(r.allow)) {
			t.Errorf("%s imports %s: %s", pkg.ImportPath, path, r.reason)
		}
		if matchesAny(path, r.forbid) {
			t.Errorf("%s imports %s: %s", pkg.ImportPath, path, r.reason)
		}
	}
	if slices.Contains(r.from, "") {
		for _, path := range pkg.Imports {
			if strings.Contains(path, ".") {
				t.Errorf("%s imports %s: %s", pkg.ImportPath, path, r.reason)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, pkg := range packages(t) {
		if strings.HasSuffix(pkg.ImportPath, "connect") || strings.HasPrefix(pkg.ImportPath, module+"/api/") && strings.HasSuffix(pkg.ImportPath, "/v1") {
			continue // generated: the .proto file is the reference
		}
		if pkg.Doc == "" && len(pkg.GoFiles) > 0 {
			t.Errorf("%s has no package comment", pkg.ImportPath)
		}
	}
}

func TestNoVagueNames(t *testing.T) {
	for _, pkg := range packages(t) {
		if slices.Contains([]string{"util", "utils", "common", "helpers", "misc", "shared"}, pkg.Name) {
			t.Errorf("%s: a package is named for what it gives", pkg.ImportPath)
		}
	}
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Name,Imports,GoFiles", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg listed
		if err := dec.Decode(&pkg); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, pkg)
	}
	if len(all) < 10 {
		t.Fatalf("go list found only %d packages", len(all))
	}
	return all
}

func ours(names []string) []string {
	full := make([]string, len(names))
	for i, name := range names {
		full[i] = strings.TrimSuffix(module+"/"+name, "/")
	}
	return full
}

func matchesAny(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		tree, isTree := strings.CutSuffix(pattern, "/...")
		return path == tree || isTree && strings.HasPrefix(path, tree+"/")
	})
}
