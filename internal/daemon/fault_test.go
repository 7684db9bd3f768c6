package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/daemon"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/store"
)

// prepare brings a host to where an operation of kind can begin on "dev", with
// a daemon that ends, or errs, at a point of it.
func prepare(h *host, kind store.Kind, rule string) {
	h.t.Helper()
	if kind != store.KindCreate {
		h.start()
		h.run("dev")
		var err error
		switch kind {
		case store.KindStart:
			err = h.stopVM("dev")
		case store.KindResume:
			err = h.pauseVM("dev")
		}
		if err != nil {
			h.t.Fatal(err)
		}
		h.kill()
	}
	h.start("BANGER_FAULT=" + rule)
}

// grownTo is what a set makes of a disk, in bytes.
const grownTo = 9 * banger.GiB

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// operate does the operation, which may fail or lose its daemon.
func operate(h *host, kind store.Kind) error {
	switch kind {
	case store.KindCreate:
		return h.create(context.Background(), &bangerv1.CreateVMRequest{Name: "dev"}).err
	case store.KindStart:
		return h.startVM("dev").err
	case store.KindStop:
		return h.stopVM("dev")
	case store.KindPause:
		return h.pauseVM("dev")
	case store.KindResume:
		return h.resumeVM("dev")
	case store.KindKill:
		return h.killVM("dev", 0)
	case store.KindSet:
		return h.set(&bangerv1.SetVMRequest{Ref: "dev", Name: "dev", DiskBytes: grownTo})
	default:
		return h.deleteVM("dev", true)
	}
}

// each calls f for every step of every operation.
func each(t *testing.T, action string, f func(t *testing.T, h *host, kind store.Kind, point string)) {
	for kind, steps := range daemon.FaultPoints() {
		for _, step := range steps {
			point := string(kind) + "." + step
			t.Run(point, func(t *testing.T) {
				h := newHost(t)
				prepare(h, kind, point+"="+action)
				f(t, h, kind, point)
			})
		}
	}
}

func TestDaemonKilledAtEveryStep(t *testing.T) {
	each(t, "kill-self", func(t *testing.T, h *host, kind store.Kind, point string) {
		err := operate(h, kind)
		if h.awaitEnd() == nil {
			t.Fatalf("the daemon passed %s and lives (%v)", point, err)
		}
		wantError(t, err, banger.CodeUnavailable, "the daemon ended in the middle of this", "try: ")
		h.start()
		switch kind {
		case store.KindCreate, store.KindDelete:
			h.eventually("the VM is gone", func() bool { return len(h.list()) == 0 })
			h.nothingLeft()
			h.run("dev") // the name is free, and everything works
		case store.KindSet:
			h.eventually("what was begun is finished", func() bool { return h.mustGet("dev").DiskBytes == grownTo })
			if vm := h.mustGet("dev"); fileSize(t, layout.Instance(vm.Dir).Work()) != grownTo || vm.State != "running" {
				t.Errorf("%v", vm)
			}
		case store.KindPause, store.KindResume:
			h.eventually("the guest runs, or stands still", func() bool {
				state := banger.State(h.mustGet("dev").State)
				return state == banger.StateRunning || state == banger.StatePaused
			})
			if err := errors.Join(h.pauseVM("dev"), h.resumeVM("dev")); err != nil {
				t.Error(err)
			}
		case store.KindStop, store.KindKill:
			h.eventually("the VM is stopped", func() bool {
				state := h.mustGet("dev").State
				return state == string(banger.StateStopped) || point == "stop.begun" && state == string(banger.StateRunning)
			})
			if c := h.startVM("dev"); c.err != nil {
				t.Error(c.err)
			}
		case store.KindStart:
			h.eventually("the VM is settled", func() bool {
				vm := h.mustGet("dev")
				return vm.State == string(banger.StateStopped) || vm.State == string(banger.StateRunning) && vm.Ready == "system"
			})
			if c := h.startVM("dev"); c.err != nil {
				t.Error(c.err)
			}
		}
		h.consistent()
	})
}

func TestErrorAtEveryStep(t *testing.T) {
	each(t, "error", func(t *testing.T, h *host, kind store.Kind, point string) {
		err := operate(h, kind)
		// A stop that cannot write its last step has stopped all the same.
		if err == nil && kind != store.KindStop && kind != store.KindKill {
			t.Errorf("the client heard of success")
		}
		if err != nil && !strings.Contains(err.Error(), "injected fault at "+point) {
			t.Errorf("the error does not say why: %v", err)
		}
		if kind == store.KindCreate {
			h.nothingLeft()
			return
		}
		h.kill()
		h.start()
		if kind == store.KindDelete {
			h.eventually("the VM is gone", func() bool { return len(h.list()) == 0 })
			h.nothingLeft()
			return
		}
		h.consistent()
	})
}

// At each step where they live, the supervisor and the VMM are killed at once.
func TestProcessesKilledAtEveryStep(t *testing.T) {
	for kind, steps := range daemon.FaultPoints() {
		for _, step := range steps {
			point := fmt.Sprintf("%s.%s", kind, step)
			t.Run(point, func(t *testing.T) {
				h := newHost(t)
				prepare(h, kind, point+"=kill-peer")
				err := operate(h, kind)
				vms := h.list()
				switch {
				case kind == store.KindPause || kind == store.KindResume:
					if err != nil && banger.CodeOf(err) != banger.CodeWrongState {
						t.Errorf("%s: %v", kind, err)
					}
				case kind == store.KindDelete || kind == store.KindStop || kind == store.KindKill:
					if err != nil {
						t.Errorf("%s: %v", kind, err)
					}
				case err != nil && banger.CodeOf(err) != banger.CodeFailed:
					t.Errorf("%s: %v", kind, err)
				}
				states := []string{"running", "paused", "stopped", "error"}
				if len(vms) > 1 || len(vms) == 1 && !slices.Contains(states, vms[0].State) {
					t.Errorf("left: %v", vms)
				}
				h.consistent()
				for _, vm := range vms {
					if err := h.deleteVM(vm.Id, true); err != nil {
						t.Error(err)
					}
				}
				h.nothingLeft()
			})
		}
	}
}
