package probe

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-dev/banger/internal/confine"
	"github.com/banger-dev/banger/internal/driver/drivertest"
	"github.com/banger-dev/banger/internal/driver/qemu"
	"github.com/banger-dev/banger/internal/layout"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == confine.Command {
		fmt.Fprintln(os.Stderr, confine.Main(os.Args[2:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// The payloads are right: under QEMU's emulation they must always do.
func TestPayloads(t *testing.T) {
	bin, err := qemu.FindBinary("")
	if err != nil {
		t.Fatal(err)
	}
	real, _ := drivertest.Kernel(t)
	for name, kernel := range map[string]string{"tiny kernel": "", "real kernel": real} {
		out, err := trial{bin: bin, accel: "tcg", kernel: kernel, seccomp: true}.run(t.Context())
		if err != nil || !out.booted {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
	}
}

func TestRun(t *testing.T) {
	home := layout.Home{State: filepath.Join(t.TempDir(), "state")}
	o := Options{Home: home, Log: slog.New(slog.DiscardHandler)}
	first, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", first)
	if first.QEMU.Path == "" || first.QEMU.Version == "" || first.QEMU.Problem != "" || first.KVM.Reason == "" {
		t.Errorf("%+v", first)
	}
	if want := map[bool]string{true: "kvm", false: "tcg"}[first.KVM.Usable]; first.Accel != want {
		t.Errorf("accel %q, KVM usable: %v", first.Accel, first.KVM.Usable)
	}
	again, err := Run(t.Context(), o)
	if err != nil || again.Probed != first.Probed {
		t.Errorf("probed again: %v, %v", again, err)
	}
	o.Kernel = os.Args[0] // another kernel is another question
	if other, err := Run(t.Context(), o); err != nil || other.Probed == first.Probed || other.KVM.Usable {
		t.Errorf("%+v, %v", other, err)
	}
	if err := os.WriteFile(home.Probe(), []byte("{half"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Kernel = ""
	if other, err := Run(t.Context(), o); err != nil || other.Probed == first.Probed {
		t.Errorf("a damaged record was used: %+v, %v", other, err)
	}
}

func TestNoQEMU(t *testing.T) {
	home := layout.Home{State: t.TempDir()}
	r, err := Run(t.Context(), Options{Home: home, QEMUBin: "/no/such/qemu", Log: slog.New(slog.DiscardHandler)})
	if err != nil || r.QEMU.Problem == "" || !strings.Contains(r.QEMU.Hint, "apt-get install") || r.Accel != "tcg" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := os.Stat(home.Probe()); err == nil {
		t.Error("the lack of QEMU was kept: an installation would go unseen")
	}
}
