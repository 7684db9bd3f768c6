package cli

import (
	"strings"
	"testing"

	banger "github.com/banger-dev/banger"
)

func TestBuildsDiffer(t *testing.T) {
	old := banger.Build{Version: "1", Commit: "a", Time: "2026-01-01T00:00:00Z"}
	young := banger.Build{Version: "2", Commit: "b", Time: "2026-02-01T00:00:00Z"}
	dev := banger.Build{Version: "dev", Commit: "unknown", Time: "unknown"}
	for name, tc := range map[string]struct {
		ours, theirs banger.Build
		want         string
	}{
		"newer":       {young, old, "this program (2+b) is newer than the daemon (1+a); try: banger daemon restart"},
		"older":       {old, young, "the daemon (2+b) is newer than this program (1+a)"},
		"ours no age": {dev, old, "the daemon (1+a) is of another build than this program (dev+unknown); try: banger daemon restart"},
		"theirs":      {young, dev, "the daemon (dev+unknown) is of another build"},
	} {
		if got := differ(tc.ours, tc.theirs); !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestUsageNamesTheNextStep runs what a person may mistype: each is one line,
// in words of our own, with what to do instead.
func TestUsageNamesTheNextStep(t *testing.T) {
	d := newFakeDaemon(t)
	for want, args := range map[string][]string{
		`--vcpu "abc" is not a number; try: banger vm create --help`:                       {"vm", "create", "--vcpu", "abc"},
		`--timeout "abc" is not a time such as 90s or 5m; try: banger vm create --help`:    {"vm", "create", "--timeout", "abc"},
		`--vcpu 0 is not between 1 and 255; try: --vcpu 1`:                                 {"vm", "create", "--vcpu", "0"},
		`--memory: memory "0" is less than 1 MiB; try: 512M or 8G`:                         {"vm", "create", "--memory", "0"},
		`--driver "xen" is not one of auto, qemu; try: --driver auto`:                      {"vm", "create", "--driver", "xen"},
		`up to 63 characters, not starting with -; try: a name such as `:                   {"vm", "create", "--name", "No_No"},
		`"crate" is not a command of banger vm; try: banger vm create`:                     {"vm", "crate"},
		`"start" is not a command of banger; try: banger vm start, or banger daemon start`: {"start", "dev"},
		`"nope" is not a command of banger vm; try: banger vm --help`:                      {"vm", "nope"},
		`--tail -1 is not a number of lines; try: banger vm logs --help`:                   {"vm", "logs", "--tail", "-1", "dev"},
		`--tail -3 is not a number of lines; try: banger daemon logs --help`:               {"daemon", "logs", "--tail", "-3"},
		`unknown flag: --alow; try: banger vm create --help`:                               {"vm", "create", "--alow", "example.org"},
		`--allow: rule "a b" is not understood`:                                            {"vm", "create", "--allow", "a b"},
		`there is nothing to allow; try: either --nat=false, or --allow and --policy`:      {"vm", "create", "--allow", "a.b", "--nat=false"},
		`policy /no/such/file cannot be read`:                                              {"vm", "create", "--policy", "/no/such/file"},
		`what may it reach? FILE, learn, open, none or --allow is missing`:                 {"vm", "policy", "set", "dev"},
	} {
		w := newWorld(t, d, "")
		w.expect(t, w.run(args...), 2, "", want)
	}
}
