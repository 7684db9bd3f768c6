package supervisor

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/layout"
	"google.golang.org/protobuf/proto"
)

// spareSpec is the spec of a spare in dir, of the template in from.
func spareSpec(t *testing.T, dir, from layout.Instance) *vmv1.Spec {
	t.Helper()
	boot, err := proto.Marshal(&agentv1.Boot{Id: "spare", Hostname: "spare", Template: true})
	if err != nil {
		t.Fatal(err)
	}
	return &vmv1.Spec{
		Id: "spare", Name: "spare", Vcpu: 1, MemoryMib: 64, Driver: "fake", Accel: "tcg", Boot: boot, Template: from.Dir(),
	}
}

// launchSpare makes a template and a spare of it, whose owner is the pipe.
func launchSpare(t *testing.T) (dir layout.Instance, cmd *exec.Cmd, owner *os.File) {
	t.Helper()
	from := instance(t)
	if err := MakeTemplate(t.Context(), from, Options{Drivers: fakeDrivers(slog.New(slog.DiscardHandler)), Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	dir = layout.Instance(t.TempDir())
	if err := writeSpec(dir.Spec(), spareSpec(t, dir, from), false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir.Spare(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	held, owner, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	cmd = exec.Command(os.Args[0], "supervise", dir.Dir(), "--spare")
	cmd.Stdin, cmd.Stderr = held, t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { owner.Close(); endVMM(dir); cmd.Process.Kill(); cmd.Wait() })
	await(t, dir, func(r *vmv1.StatusResponse) bool { return r.State == stateSpare })
	return dir, cmd, owner
}

// claimed is the spec that a spare is claimed with.
func claimed(t *testing.T, dir layout.Instance) *vmv1.Spec {
	t.Helper()
	spec, err := loadSpec(dir)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := proto.Marshal(&agentv1.Boot{Id: "spare", Hostname: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	spec.Name, spec.Boot, spec.Nat = "dev", boot, true
	return spec
}

func claimWith(dir layout.Instance, spec *vmv1.Spec) (*vmv1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	answer, err := client(dir).Claim(ctx, connect.NewRequest(&vmv1.ClaimRequest{Spec: spec}))
	if err != nil {
		return nil, err
	}
	return answer.Msg.Status, nil
}

// TestSpare: once claimed it is any VM, and outlives its owner and its supervisor.
func TestSpare(t *testing.T) {
	dir, cmd, owner := launchSpare(t)
	spec := claimed(t, dir)
	var all sync.WaitGroup
	answers := make(chan *vmv1.StatusResponse, 4)
	for range cap(answers) {
		all.Go(func() {
			if status, err := claimWith(dir, spec); err == nil {
				answers <- status
			}
		})
	}
	all.Wait()
	close(answers)
	status := <-answers
	if !ready(status) || status.Origin != originSpare || status.FailedUnits[0] != "a.service" || <-answers != nil {
		t.Fatalf("claimed: %v; or more than once", status)
	}
	owner.Close()
	echo(t, dir)
	if now, err := loadSpec(dir); err != nil || now.Name != "dev" {
		t.Errorf("its spec: %v, %v", now, err)
	}
	if _, err := os.Stat(dir.Spare()); err == nil {
		t.Error("it is still marked as a spare")
	}
	vmm := identity(t, dir)
	cmd.Process.Kill()
	cmd.Wait()
	launch(t, dir, "--adopt")
	if status := await(t, dir, ready); int(status.VmmPid) != vmm {
		t.Errorf("status %v, VMM was %d", status, vmm)
	}
	echo(t, dir)
	if _, err := claimWith(dir, spec); err == nil {
		t.Error("a VM was claimed")
	}
	if stop, err := client(dir).Stop(t.Context(), connect.NewRequest(&vmv1.StopRequest{})); err != nil || !stop.Msg.Clean {
		t.Errorf("stop: %v, %v", stop, err)
	}
}

// TestSpareEnds: what nobody owns, what cannot be claimed and what loses its VMM
// ends, and no VMM is left.
func TestSpareEnds(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, dir layout.Instance, cmd *exec.Cmd, owner *os.File){
		"Unowned": func(_ *testing.T, _ layout.Instance, _ *exec.Cmd, owner *os.File) { owner.Close() },
		"Told":    func(_ *testing.T, _ layout.Instance, cmd *exec.Cmd, _ *os.File) { cmd.Process.Signal(syscall.SIGTERM) },
		"VMMDies": func(t *testing.T, dir layout.Instance, _ *exec.Cmd, _ *os.File) {
			syscall.Kill(identity(t, dir), syscall.SIGKILL)
		},
		"OtherMachine": func(t *testing.T, dir layout.Instance, _ *exec.Cmd, _ *os.File) {
			spec := claimed(t, dir)
			spec.Vcpu = 2
			if status, err := claimWith(dir, spec); err == nil || !strings.Contains(err.Error(), "another machine") {
				t.Errorf("claimed: %v, %v", status, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, cmd, owner := launchSpare(t)
			vmm := identity(t, dir)
			end(t, dir, cmd, owner)
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case <-ended:
			case <-time.After(limit):
				t.Fatal("the supervisor lives")
			}
			if err := syscall.Kill(vmm, 0); err == nil {
				t.Error("the VMM is left")
			}
			if e := exitOf(t, dir); !e.Failed {
				t.Errorf("exit %+v", e)
			}
			if _, err := os.Stat(dir.Spare()); err != nil {
				t.Error("it is not marked as a spare any more")
			}
		})
	}
}
