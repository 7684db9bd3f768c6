package daemon_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/daemon/daemontest"
)

func TestLife(t *testing.T) {
	h := newHost(t).start()
	c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "dev", Vcpu: 2, MemoryMib: 300})
	if c.err != nil {
		t.Fatal(c.err)
	}
	if c.spec == nil || c.spec.Vcpu != 2 || c.spec.MemoryMib != 300 || c.spec.Driver != "qemu" || c.spec.Accel != "tcg" || !c.spec.Nat {
		t.Errorf("spec: %v", c.spec)
	}
	if got := strings.Join(c.stages, " "); got != "disks boot agent system" {
		t.Errorf("stages: %s", got)
	}
	if c.vm.State != "running" || c.vm.Ready != "system" || c.vm.VmmPid == 0 || c.vm.StartedUnixMs == 0 {
		t.Errorf("vm: %v", c.vm)
	}
	for _, ref := range []string{"dev", c.vm.Id, c.vm.Id[:5]} {
		if vm := h.mustGet(ref); vm.Id != c.vm.Id {
			t.Errorf("%s is %v", ref, vm)
		}
	}
	link, err := h.client.LinkVM(t.Context(), connect.NewRequest(&bangerv1.LinkVMRequest{Ref: "dev"}))
	if err != nil || !strings.HasSuffix(link.Msg.LinkSocket, "/link.sock") {
		t.Errorf("link: %v, %v", link, err)
	}
	h.consistent()
	wantError(t, h.deleteVM("dev", false), banger.CodeWrongState, "is running", "banger vm stop dev")
	if err := h.stopVM("dev"); err != nil {
		t.Fatal(err)
	}
	vm := h.mustGet("dev")
	if vm.State != "stopped" || vm.Reason != "guest powered off" || vm.Ready != "" || vm.VmmPid != 0 {
		t.Errorf("stopped: %v", vm)
	}
	if err := h.stopVM("dev"); err != nil {
		t.Errorf("a second stop: %v", err)
	}
	_, err = h.client.LinkVM(t.Context(), connect.NewRequest(&bangerv1.LinkVMRequest{Ref: "dev", TimeoutMs: 1000}))
	wantError(t, apierr.FromConnect(err), banger.CodeWrongState, "is stopped", "banger vm start dev")
	if c := h.startVM("dev"); c.err != nil || c.vm.State != "running" {
		t.Fatalf("start: %+v", c)
	}
	if c := h.startVM("dev"); c.err != nil || c.vm.State != "running" {
		t.Fatalf("start of a running one: %+v", c)
	}
	h.consistent()
	if err := h.deleteVM("dev", true); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
	_, err = h.get("dev")
	wantError(t, err, banger.CodeNotFound, `vm "dev" does not exist`, "banger vm list")
}

func TestCreateWithoutStart(t *testing.T) {
	h := newHost(t).start()
	no := false
	c := h.create(t.Context(), &bangerv1.CreateVMRequest{NoStart: true, Nat: &no, DiskBytes: banger.GiB})
	if c.err != nil || c.vm.State != "created" || c.vm.Name == "" || c.vm.Nat || c.vm.Driver != "" {
		t.Fatalf("%+v", c)
	}
	for _, file := range []string{"spec.json", "work.ext4", "overlay.ext4"} {
		info, err := os.Stat(filepath.Join(c.vm.Dir, file))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	if info, _ := os.Stat(c.vm.Dir); info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v", info.Mode())
	}
	hosts, _ := os.ReadFile(h.home.KnownHosts())
	if !strings.Contains(string(hosts), c.vm.Name+".vm ssh-ed25519 ") || !strings.Contains(string(hosts), c.vm.Id+".vm ") {
		t.Errorf("known_hosts: %s", hosts)
	}
	if c := h.startVM(c.vm.Id); c.err != nil || c.vm.State != "running" {
		t.Fatalf("%+v", c)
	}
	if err := h.deleteVM(c.vm.Name, true); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}

func TestBadRequests(t *testing.T) {
	h := newHost(t).start()
	h.run("taken")
	for name, tc := range map[string]struct {
		req   *bangerv1.CreateVMRequest
		code  banger.Code
		words []string
	}{
		"name":         {&bangerv1.CreateVMRequest{Name: "Bad_Name"}, banger.CodeUsage, []string{`vm name "Bad_Name" is not valid`}},
		"taken":        {&bangerv1.CreateVMRequest{Name: "taken"}, banger.CodeWrongState, []string{`vm "taken" already exists`, "try:"}},
		"image":        {&bangerv1.CreateVMRequest{Image: "debian-bookwrm"}, banger.CodeNotFound, []string{"debian-bookwrm", "banger image list --available"}},
		"kernel":       {&bangerv1.CreateVMRequest{Kernel: "linux-0"}, banger.CodeNotFound, []string{"linux-0"}},
		"vcpu":         {&bangerv1.CreateVMRequest{Vcpu: -1}, banger.CodeUsage, []string{"vcpu", "4 CPUs"}},
		"many vcpu":    {&bangerv1.CreateVMRequest{Vcpu: 5}, banger.CodeUsage, []string{"5 vcpu", "--vcpu 1 to 4"}},
		"small memory": {&bangerv1.CreateVMRequest{MemoryMib: 64}, banger.CodeUsage, []string{"64 MiB", "too little", "at least 128M"}},
		"much memory":  {&bangerv1.CreateVMRequest{MemoryMib: 1 << 20}, banger.CodeUsage, []string{"more than this host has"}},
		"small disk":   {&bangerv1.CreateVMRequest{DiskBytes: 1}, banger.CodeUsage, []string{"--disk-size 1B", "64M"}},
		"overlay":      {&bangerv1.CreateVMRequest{OverlayBytes: -5}, banger.CodeUsage, []string{"--system-overlay-size"}},
		"driver":       {&bangerv1.CreateVMRequest{Driver: "xen"}, banger.CodeUsage, []string{"xen"}},
		"accel":        {&bangerv1.CreateVMRequest{Accel: "hvf"}, banger.CodeUsage, []string{"hvf"}},
		"kvm":          {&bangerv1.CreateVMRequest{Accel: "kvm"}, banger.CodeUnavailable, []string{"KVM is not usable: this is a test", "--accel tcg"}},
		"grade":        {&bangerv1.CreateVMRequest{WaitFor: "lunch"}, banger.CodeUsage, []string{"lunch"}},
	} {
		c := h.create(t.Context(), tc.req)
		t.Run(name, func(t *testing.T) { wantError(t, c.err, tc.code, tc.words...) })
	}
	if err := h.deleteVM("taken", true); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}

func TestHostWithoutWhatItNeeds(t *testing.T) {
	h := newHost(t).start(daemontest.FreeVar + "=0M")
	c := h.create(t.Context(), &bangerv1.CreateVMRequest{})
	wantError(t, c.err, banger.CodeUnavailable, "no space", "try:")
	os.WriteFile(h.home.ConfigFile(), []byte("qemu_bin = \"/no/such/qemu\"\n"), 0o600)
	c = h.create(t.Context(), &bangerv1.CreateVMRequest{})
	wantError(t, c.err, banger.CodeUnavailable, "/no/such/qemu", "try: edit")
	os.WriteFile(h.home.ConfigFile(), []byte("qemu = \"x\"\n"), 0o600)
	c = h.create(t.Context(), &bangerv1.CreateVMRequest{})
	wantError(t, c.err, banger.CodeUsage, "config.toml, line 1", "qemu_bin")
	h.nothingLeft()
}

func TestAmbiguousReference(t *testing.T) {
	h := newHost(t).start()
	seen := map[byte]*bangerv1.VM{}
	for {
		c := h.create(t.Context(), &bangerv1.CreateVMRequest{NoStart: true})
		if c.err != nil {
			t.Fatal(c.err)
		}
		if other := seen[c.vm.Id[0]]; other != nil {
			_, err := h.get(c.vm.Id[:1])
			wantError(t, err, banger.CodeUsage, "ambiguous", other.Name, c.vm.Name)
			return
		}
		seen[c.vm.Id[0]] = c.vm
	}
}

func TestGuestThatIsNotReadyInTime(t *testing.T) {
	h := newHost(t).start()
	for name, waiting := range map[string]string{daemontest.Hang: "the agent to answer", daemontest.AgentOnly: "its init system to settle"} {
		c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: name, TimeoutMs: 500, Ephemeral: true})
		wantError(t, c.err, banger.CodeTimeout, `vm "`+name+`" is not ready after 500ms`, waiting, "it is kept", "banger vm logs "+name, "delete -f "+name)
		if consoleOf(c.err) != daemontest.GuestSays {
			t.Errorf("console: %q", consoleOf(c.err))
		}
		if vm := h.mustGet(name); vm.State != "running" || vm.Ephemeral {
			t.Errorf("kept: %v", vm)
		}
	}
	c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: daemontest.AgentOnly + "2", WaitFor: "agent"})
	if c.err != nil || c.vm.Ready != "agent" {
		t.Errorf("%+v", c)
	}
	_, err := h.client.LinkVM(t.Context(), connect.NewRequest(&bangerv1.LinkVMRequest{Ref: daemontest.Hang, TimeoutMs: 100}))
	wantError(t, apierr.FromConnect(err), banger.CodeTimeout, "does not answer")
	h.consistent()
	for _, vm := range h.list() {
		if err := h.deleteVM(vm.Id, true); err != nil {
			t.Error(err)
		}
	}
	h.nothingLeft()
}

func TestGuestThatDies(t *testing.T) {
	h := newHost(t).start()
	c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: daemontest.Dies})
	wantError(t, c.err, banger.CodeFailed, "killed by signal 9", "it is kept", "banger vm logs dies")
	if consoleOf(c.err) != daemontest.GuestSays {
		t.Errorf("console: %q", consoleOf(c.err))
	}
	if vm := h.mustGet(daemontest.Dies); vm.State != "error" || vm.Reason != "killed by signal 9" {
		t.Errorf("%v", vm)
	}
	h.consistent()
	if err := h.deleteVM(daemontest.Dies, false); err != nil {
		t.Error(err)
	}
	c = h.create(t.Context(), &bangerv1.CreateVMRequest{Name: daemontest.NoStart})
	wantError(t, c.err, banger.CodeUnavailable, "cannot be started: no such machine", "banger doctor")
	h.nothingLeft()
}

func TestDegradedIsReady(t *testing.T) {
	h := newHost(t).start()
	vm := h.run(daemontest.Degraded)
	if vm.Ready != "system" || len(vm.FailedUnits) != 1 || vm.FailedUnits[0] != "broken.service" {
		t.Errorf("%v", vm)
	}
}

func TestCancelUndoes(t *testing.T) {
	h := newHost(t).start()
	for name, req := range map[string]*bangerv1.CreateVMRequest{
		"image": {Name: "a", Image: daemontest.StuckImage},
		"boot":  {Name: daemontest.Hang},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan created, 1)
		go func() { done <- h.create(ctx, req) }()
		h.eventually(name+" has begun", func() bool {
			vms := h.list()
			return len(vms) == 1 && (name == "image" || vms[0].State == "running")
		})
		cancel()
		if c := <-done; banger.CodeOf(c.err) != banger.CodeInterrupted {
			t.Errorf("%s: %v", name, c.err)
		}
		h.eventually(name+" is undone", func() bool { return len(h.list()) == 0 })
		h.nothingLeft()
	}
}

func TestForcedDeleteInterruptsCreate(t *testing.T) {
	h := newHost(t).start()
	done := make(chan created, 1)
	go func() {
		done <- h.create(context.Background(), &bangerv1.CreateVMRequest{Name: daemontest.Hang})
	}()
	h.eventually("it runs", func() bool { vm, err := h.get(daemontest.Hang); return err == nil && vm.State == "running" })
	if err := h.deleteVM(daemontest.Hang, true); err != nil {
		t.Error(err)
	}
	wantError(t, (<-done).err, banger.CodeInterrupted, "is being deleted")
	h.nothingLeft()
}

func TestOneNameOneVM(t *testing.T) {
	h := newHost(t).start()
	var wg sync.WaitGroup
	results := make([]created, 8)
	for i := range results {
		wg.Go(func() { results[i] = h.create(context.Background(), &bangerv1.CreateVMRequest{Name: "dev"}) })
	}
	wg.Wait()
	won := 0
	for _, c := range results {
		if c.err == nil {
			won++
		} else {
			wantError(t, c.err, banger.CodeWrongState, "already exists")
		}
	}
	if won != 1 {
		t.Errorf("%d creates of one name succeeded", won)
	}
	h.consistent()
}

func TestOperationsAreSerialisedPerVM(t *testing.T) {
	h := newHost(t).start()
	h.run("dev")
	hang := make(chan created, 1)
	go func() {
		hang <- h.create(context.Background(), &bangerv1.CreateVMRequest{Name: daemontest.Hang, TimeoutMs: 20_000})
	}()
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() { h.stopVM("dev") })
		wg.Go(func() { h.startVM("dev") })
	}
	wg.Wait() // none of them waited for the one that hangs
	if vm := h.mustGet("dev"); vm.State != "running" && vm.State != "stopped" {
		t.Errorf("%v", vm)
	}
	if err := h.deleteVM("dev", true); err != nil {
		t.Error(err)
	}
	h.eventually("the other is known", func() bool { _, err := h.get(daemontest.Hang); return err == nil })
	if err := h.deleteVM(daemontest.Hang, true); err != nil {
		t.Error(err)
	}
	<-hang
	h.nothingLeft()
}

func TestSupervisorThatDoesNotObey(t *testing.T) {
	h := newHost(t).start()
	h.run(daemontest.Stubborn)
	if err := h.deleteVM(daemontest.Stubborn, true); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
	// One that does not even answer.
	vm := h.run("dev")
	if err := syscall.Kill(int(vm.SupervisorPid), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := h.deleteVM("dev", true); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}

func TestLease(t *testing.T) {
	h := newHost(t)
	h.env = []string{"BANGER_TEST_GRACE=700ms"}
	h.start()
	// Nobody ever holds it.
	if c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "lonely", Ephemeral: true}); c.err != nil {
		t.Fatal(c.err)
	}
	h.eventually("it is deleted", func() bool { return len(h.list()) == 0 })
	// Held across a daemon's death, given back at the end.
	if c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "held", Ephemeral: true}); c.err != nil {
		t.Fatal(c.err)
	}
	release := h.lease("held")
	h.kill()
	h.start()
	release()
	release = h.lease("held")
	held := time.NewTimer(2 * time.Second)
	<-held.C // longer than the grace
	if vm := h.mustGet("held"); vm.State != "running" {
		t.Errorf("%v", vm)
	}
	release()
	h.eventually("it is deleted", func() bool { return len(h.list()) == 0 })
	// Nobody comes back after a daemon's death.
	if c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "orphan", Ephemeral: true}); c.err != nil {
		t.Fatal(c.err)
	}
	h.kill()
	h.start()
	h.eventually("it is deleted", func() bool { return len(h.list()) == 0 })
	h.nothingLeft()
}

// lease holds a VM until the returned function is called.
func (h *host) lease(ref string) (release func()) {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	stream, err := h.client.Lease(ctx, connect.NewRequest(&bangerv1.LeaseRequest{Ref: ref}))
	if err != nil || !stream.Receive() {
		h.t.Fatalf("lease: %v, %v", err, stream.Err())
	}
	return func() { cancel(); stream.Close() }
}
