package doctor

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/config"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/vmhost"
)

// options are of a host on which everything is well, with an empty home.
func options(t *testing.T) Options {
	t.Helper()
	root := t.TempDir()
	home, err := layout.FromEnv(func(string) string { return root })
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{home.Config, home.VMs()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return Options{
		Home: home, Host: config.Host{CPUs: 8, MemoryBytes: 16 * banger.GiB}, Getenv: os.Getenv,
		Log: slog.New(slog.DiscardHandler), Probe: answer(vmhost.Found{
			QEMU: vmhost.QEMU{Path: "/usr/bin/qemu", Version: "9"}, KVM: vmhost.KVM{Usable: true, Reason: "it ran"},
			Accel: "kvm", Confinement: []string{"seccomp"},
		}),
	}
}

func answer(found vmhost.Found) func(context.Context) (vmhost.Found, error) {
	return func(context.Context) (vmhost.Found, error) { return found, nil }
}

// want checks one check of a report.
func want(t *testing.T, r Report, name string, status Status, words ...string) {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name != name {
			continue
		}
		if c.Status != status {
			t.Errorf("%s is %s: %s", name, c.Status, c.Found)
		}
		for _, w := range words {
			if !strings.Contains(c.Found+"\n"+c.Fix, w) {
				t.Errorf("%s does not say %q: %+v", name, w, c)
			}
		}
		return
	}
	t.Errorf("no check %q in\n%s", name, r)
}

func TestHealthyHost(t *testing.T) {
	r := Run(t.Context(), options(t))
	for _, name := range []string{"config", "state directory", "daemon", "names in .vm", "qemu", "kvm", "confinement", "default image", "templates", "spares", "leftovers"} {
		want(t, r, name, OK)
	}
	want(t, r, "vm defaults", OK, "2 vcpu (auto)", "2048 MiB memory (auto)", "8G disk (builtin)", "nat true (builtin)")
	seen := map[string]bool{}
	for _, c := range r.Checks {
		if c.Found == "" || seen[c.Name] || strings.Contains(c.Found, "\n") {
			t.Errorf("%+v", c)
		}
		seen[c.Name] = true
	}
	for _, name := range []string{"mmdebstrap", "mkfs.ext4", "git", "ssh", "user namespaces", "landlock", "seccomp", "cgroup delegation", "disk space", "reflink"} {
		if !seen[name] {
			t.Errorf("no check %q", name)
		}
	}
}

func TestWhatFailsSaysHowToMendIt(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil  func(*Options)
		check  string
		status Status
		words  []string
	}{
		"config": {func(o *Options) { os.WriteFile(o.Home.ConfigFile(), []byte("x = 1\n"), 0o600) },
			"config", Fail, []string{"line 1", "edit " /* the file */}},
		"open directory": {func(o *Options) { os.Chmod(o.Home.State, 0o755) },
			"state directory", Warn, []string{"chmod 700 "}},
		"no qemu": {func(o *Options) { o.Probe = answer(vmhost.Found{}) },
			"qemu", Fail, []string{"sudo apt-get install qemu-system-x86"}},
		"broken qemu": {func(o *Options) {
			o.Probe = answer(vmhost.Found{QEMU: vmhost.QEMU{Path: "/q", Problem: "it is sick", Hint: "heal it"}})
		}, "qemu", Fail, []string{"it is sick", "heal it"}},
		"no kvm": {func(o *Options) {
			o.Probe = answer(vmhost.Found{QEMU: vmhost.QEMU{Path: "/q"}, KVM: vmhost.KVM{Reason: "forbidden", Hint: "join kvm"}, Accel: "tcg"})
		}, "kvm", Warn, []string{"emulation", "forbidden", "join kvm"}},
		"kvm is a must": {func(o *Options) {
			os.WriteFile(o.Home.ConfigFile(), []byte("accel = \"kvm\"\n"), 0o600)
			o.Probe = answer(vmhost.Found{QEMU: vmhost.QEMU{Path: "/q"}, KVM: vmhost.KVM{Reason: "forbidden"}})
		}, "kvm", Fail, []string{"the config asks for it"}},
		"a damaged template": {func(o *Options) {
			os.MkdirAll(o.Home.Template(strings.Repeat("ab", 32)).Dir(), 0o700)
		}, "templates", Warn, []string{"abababababab: its manifest is damaged", "banger template prune"}},
		"less confinement": {func(o *Options) {
			o.Probe = answer(vmhost.Found{QEMU: vmhost.QEMU{Path: "/q"}, Unconfined: []string{"landlock"}, Accel: "tcg"})
		}, "confinement", Warn, []string{"contained by emulation", "landlock"}},
		"confinement is a must": {func(o *Options) {
			os.WriteFile(o.Home.ConfigFile(), []byte("require_confinement = true\n"), 0o600)
			o.Probe = answer(vmhost.Found{QEMU: vmhost.QEMU{Path: "/q"}, Unconfined: []string{"landlock"}})
		}, "confinement", Fail, []string{"landlock", "require_confinement = false"}},
		"no probe": {func(o *Options) {
			o.Probe = func(context.Context) (vmhost.Found, error) { return vmhost.Found{}, errors.New("boom") }
		}, "qemu", Fail, []string{"boom"}},
		"image": {func(o *Options) {
			os.WriteFile(o.Home.ConfigFile(), []byte("default_image_name = \"nobodys\"\n"), 0o600)
		}, "default image", Fail, []string{"nobodys", "default_image_name = "}},
		"store": {func(o *Options) { os.WriteFile(o.Home.Store(), []byte(strings.Repeat("x", 4096)), 0o600) },
			"store", Fail, []string{"damaged", "mv "}},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			tc.spoil(&o)
			r := Run(t.Context(), o)
			want(t, r, tc.check, tc.status, tc.words...)
			if r.Failed() != strings.Contains(r.String(), "\nfail") && r.Checks[0].Status != Fail {
				t.Errorf("Failed() = %v of\n%s", r.Failed(), r)
			}
		})
	}
}

func TestRepair(t *testing.T) {
	o := options(t)
	db, err := store.Open(o.Home.Store(), o.Log)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	junk := filepath.Join(o.Home.VMs(), layout.TempPrefix+banger.NewID())
	if err := os.MkdirAll(filepath.Join(junk, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	want(t, Run(t.Context(), o), "leftovers", Warn, junk, "banger doctor --repair")
	if _, err := os.Stat(junk); err != nil {
		t.Fatal("it was removed without being asked")
	}
	o.Repair = true
	want(t, Run(t.Context(), o), "leftovers", OK, "removed", junk)
	if _, err := os.Stat(junk); err == nil {
		t.Error("it is still there")
	}
	o.Repair = false
	want(t, Run(t.Context(), o), "leftovers", OK, "none")
}
