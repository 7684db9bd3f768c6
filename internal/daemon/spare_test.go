package daemon_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/daemon"
	"github.com/banger-dev/banger/internal/daemon/daemontest"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
)

// spareMiB is more than a spare takes, and less than two.
const spareMiB = 100

// newSpareHost makes a host that may keep n spares, with a template once its
// daemon runs.
func newSpareHost(t *testing.T, n int) *host {
	h := newHost(t)
	cfg := fmt.Sprintf("qemu_bin = %q\n[spares]\nmemory = \"%dM\"\n", filepath.Join(bin, "qemu-system-x86_64"), n*spareMiB)
	if err := os.WriteFile(h.home.ConfigFile(), []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) status() *bangerv1.StatusResponse {
	h.t.Helper()
	r, err := h.client.Status(h.t.Context(), connect.NewRequest(&bangerv1.StatusRequest{}))
	if err != nil {
		h.t.Fatal(err)
	}
	return r.Msg
}

// awaitSpares waits until n wait.
func (h *host) awaitSpares(n int32) *host {
	h.t.Helper()
	h.eventually(fmt.Sprintf("%d spares wait", n), func() bool { return h.status().Spares == n })
	return h
}

// spareDirs are the directories of spares.
func (h *host) spareDirs() []string {
	found, err := filepath.Glob(filepath.Join(h.home.VMs(), "*", filepath.Base(layout.Instance("x").Spare())))
	if err != nil {
		h.t.Fatal(err)
	}
	return found
}

func TestAVMFromASpare(t *testing.T) {
	h := newSpareHost(t, 2).start()
	h.mustWarm(usualMiB)
	h.awaitSpares(2)
	if made := h.templates()[0]; made.Spares != 2 {
		t.Errorf("the template has %d spares", made.Spares)
	}
	if vms := h.list(); len(vms) != 0 {
		t.Errorf("a spare is listed: %v", vms)
	}
	c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "dev", MemoryMib: usualMiB})
	if c.err != nil {
		t.Fatal(c.err)
	}
	wantOrigin(t, c.vm, "spare")
	wantCopy(t, c.vm)
	if c.spec.GetName() != "dev" || c.vm.State != string(banger.StateRunning) || c.vm.Ready != "system" || c.vm.SpareError != "" {
		t.Errorf("spec %v, vm %v", c.spec, c.vm)
	}
	for _, other := range []*bangerv1.CreateVMRequest{
		{Name: "cold", MemoryMib: usualMiB, Cold: true}, {Name: "shape", MemoryMib: usualMiB / 2},
	} {
		if c := h.create(t.Context(), other); c.err != nil || c.vm.Origin != "boot" {
			t.Errorf("%s began by %q: %v", other.Name, c.vm.GetOrigin(), c.err)
		}
	}
	// It is a VM like any other: it outlives daemons, spares do not.
	h.awaitSpares(2)
	h.kill()
	h.start()
	wantOrigin(t, h.mustGet("dev"), "spare")
	if vm := h.mustGet("dev"); vm.State != string(banger.StateRunning) || vm.SupervisorPid == 0 {
		t.Errorf("after a new daemon: %v", vm)
	}
	h.eventually("the old spares are gone", func() bool { return len(h.spareDirs()) == 0 })
	if err := h.stopVM("dev"); err != nil {
		t.Fatal(err)
	}
	if c := h.startVM("dev"); c.err != nil || c.vm.Origin != "boot" {
		t.Errorf("started again by %q: %v", c.vm.GetOrigin(), c.err)
	}
	for _, name := range []string{"dev", "cold", "shape"} {
		if err := h.deleteVM(name, true); err != nil {
			t.Error(err)
		}
	}
	h.nothingLeft()
}

// Ten commands at once get three spares, each at most one.
func TestNoSpareIsClaimedTwice(t *testing.T) {
	h := newSpareHost(t, 3).start()
	h.mustWarm(usualMiB)
	for i := range 3 {
		h.runUsual(fmt.Sprintf("first-%d", i))
	}
	h.awaitSpares(3)
	var all sync.WaitGroup
	results := make([]created, 10)
	for i := range results {
		all.Go(func() {
			results[i] = h.create(context.Background(), &bangerv1.CreateVMRequest{MemoryMib: usualMiB})
		})
	}
	all.Wait()
	ids, pids, spares := map[string]bool{}, map[int32]bool{}, 0
	for _, c := range results {
		if c.err != nil {
			t.Fatal(c.err)
		}
		ids[c.vm.Id] = true
		if c.vm.Origin == "spare" {
			spares++
		}
	}
	for _, vm := range h.list() {
		h.eventually("it is followed", func() bool { return h.mustGet(vm.Id).SupervisorPid != 0 })
		pids[h.mustGet(vm.Id).SupervisorPid] = true
	}
	if len(ids) != 10 || len(pids) != 13 || spares < 3 {
		t.Errorf("%d VMs, %d supervisors, %d of ten from spares", len(ids), len(pids), spares)
	}
	h.consistent()
}

func TestAClaimThatFailsIsNotSeen(t *testing.T) {
	for what, env := range map[string]string{
		"refused": "", "killed": "BANGER_FAULT=" + daemontest.PointClaimWritten + "=kill-self",
		"daemon's": "BANGER_FAULT=create.claim=error", "late": "BANGER_FAULT=create.claimed=error",
	} {
		t.Run(what, func(t *testing.T) {
			h := newSpareHost(t, 1).start(env)
			h.mustWarm(usualMiB)
			h.awaitSpares(1)
			name := "dev"
			if env == "" {
				name = daemontest.Unclaimable
			}
			vm := h.runUsual(name)
			wantOrigin(t, vm, "template")
			if vm.SpareError == "" || vm.Name != name || vm.State != string(banger.StateRunning) {
				t.Errorf("the VM is %v", vm)
			}
			if vms := h.list(); len(vms) != 1 {
				t.Errorf("VMs: %v", vms)
			}
			if err := h.deleteVM(name, true); err != nil {
				t.Error(err)
			}
			h.shutdown()
			h.start()
			h.nothingLeft()
		})
	}
}

// shutdown has the daemon end by itself.
func (h *host) shutdown() {
	h.t.Helper()
	if _, err := h.client.Shutdown(h.t.Context(), connect.NewRequest(&bangerv1.ShutdownRequest{})); err != nil {
		h.t.Fatal(err)
	}
	if err := h.awaitEnd(); err != nil {
		h.t.Errorf("the daemon ended: %v", err)
	}
}

func TestSparesEndWithTheirDaemon(t *testing.T) {
	h := newSpareHost(t, 2).start()
	h.mustWarm(usualMiB)
	h.awaitSpares(2)
	h.shutdown()
	if dirs, _ := os.ReadDir(h.home.VMs()); len(dirs) != 0 {
		t.Errorf("directories are left: %v", dirs)
	}
	if found := process.Working(h.home.VMs(), anyProgram); len(found) != 0 {
		t.Errorf("processes are left: %+v", found)
	}
	// Killed, it leaves the removal to the next; the spares have ended by then.
	h.start()
	h.runUsual("dev")
	h.awaitSpares(2)
	h.kill()
	h.eventually("only the VM's processes are left", func() bool {
		return len(process.Working(h.home.VMs(), anyProgram)) == 2
	})
	h.start()
	h.eventually("the spares are removed", func() bool { return len(h.spareDirs()) == 0 })
	h.consistent()
}

func TestDaemonKilledAtEveryStepOfASpare(t *testing.T) {
	for _, point := range daemon.SpareFaultPoints() {
		t.Run(point, func(t *testing.T) {
			h := newSpareHost(t, 1).start("BANGER_FAULT=" + point + "=kill-self")
			if _, _, err := h.warm(context.Background(), usualMiB); err == nil && strings.HasPrefix(point, "create.") {
				h.awaitSpares(1)
				h.create(context.Background(), &bangerv1.CreateVMRequest{Name: "dev", MemoryMib: usualMiB})
			}
			if h.awaitEnd() == nil {
				t.Fatal("the daemon lives")
			}
			h.start()
			h.nothingLeft()
			h.mustWarm(usualMiB)
			h.awaitSpares(1)
			wantOrigin(t, h.runUsual("dev"), "spare")
			h.consistent()
		})
	}
}

func TestSparesAreBounded(t *testing.T) {
	h := newSpareHost(t, 4).start()
	h.mustWarm(usualMiB)
	h.awaitSpares(2)
	for i := range 8 {
		h.runUsual(fmt.Sprintf("dev-%d", i))
	}
	if most := h.awaitSpares(4).status().MaxSpares; most != 4 {
		t.Errorf("at most %d", most)
	}
	h.prune(true)
	h.awaitSpares(0)
	h.eventually("they are removed", func() bool { return len(h.spareDirs()) == 0 })
	h.consistent()
}

// A host on which no spare can be made runs VMs as before, and gives up trying.
func TestSparesThatCannotBeMade(t *testing.T) {
	h := newSpareHost(t, 2).start(daemontest.SpareVar + "=" + daemontest.SpareFails)
	h.mustWarm(usualMiB)
	for i := range 3 {
		wantOrigin(t, h.runUsual(fmt.Sprintf("dev-%d", i)), "template")
	}
	h.eventually("it is tried", func() bool { return strings.Contains(h.log.String(), "this host has no spares") })
	h.eventually("they are removed", func() bool { return len(h.spareDirs()) == 0 })
	if said := strings.Count(h.log.String(), "this host has no spares"); said == 0 || said > 2*3 {
		t.Errorf("tried %d times", said)
	}
	h.consistent()
}

// A spare whose processes end is replaced.
func TestASpareThatEndsIsReplaced(t *testing.T) {
	h := newSpareHost(t, 1).start()
	h.mustWarm(usualMiB)
	h.awaitSpares(1)
	old := h.spareDirs()[0]
	h.endIn(filepath.Dir(old)) // and not what replaces it
	h.eventually("another waits", func() bool {
		dirs := h.spareDirs()
		return len(dirs) == 1 && dirs[0] != old && h.status().Spares == 1
	})
	wantOrigin(t, h.runUsual("dev"), "spare")
}

// What a VM is deleted in the background for: it is gone when the answer comes,
// also if the daemon is killed then.
func TestDeleteInTheBackground(t *testing.T) {
	h := newHost(t).start()
	drop := func(ref string) {
		t.Helper()
		_, err := h.client.DeleteVM(t.Context(), connect.NewRequest(&bangerv1.DeleteVMRequest{Ref: ref, Force: true, Background: true}))
		if err != nil {
			t.Fatal(apierr.FromConnect(err))
		}
	}
	h.run("dev")
	drop("dev")
	if vms := h.list(); len(vms) != 0 {
		t.Errorf("listed: %v", vms)
	}
	h.run("dev")
	drop("dev")
	h.kill()
	h.start()
	h.nothingLeft()
	// One that cannot be ended is there again.
	h.run(daemontest.Stubborn)
	drop(daemontest.Stubborn)
	h.eventually("it is ended by force", func() bool { return len(process.Working(h.home.VMs(), anyProgram)) == 0 })
	h.nothingLeft()
}
