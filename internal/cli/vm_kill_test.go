package cli

import (
	"context"
	"testing"

	"connectrpc.com/connect"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

func (d *fakeDaemon) KillVM(_ context.Context, req *connect.Request[bangerv1.KillVMRequest]) (*connect.Response[bangerv1.KillVMResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	d.called("kill %s %d", vm.Name, req.Msg.Signal)
	return connect.NewResponse(&bangerv1.KillVMResponse{Vm: &bangerv1.VM{Id: vm.Id, Name: vm.Name, State: "stopped"}}), nil
}

func (d *fakeDaemon) PauseVM(_ context.Context, req *connect.Request[bangerv1.PauseVMRequest]) (*connect.Response[bangerv1.PauseVMResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	d.called("pause %s", vm.Name)
	return connect.NewResponse(&bangerv1.PauseVMResponse{Vm: &bangerv1.VM{Id: vm.Id, Name: vm.Name, State: "paused"}}), nil
}

func (d *fakeDaemon) ResumeVM(_ context.Context, req *connect.Request[bangerv1.ResumeVMRequest]) (*connect.Response[bangerv1.ResumeVMResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	d.called("resume %s", vm.Name)
	return connect.NewResponse(&bangerv1.ResumeVMResponse{Vm: &bangerv1.VM{Id: vm.Id, Name: vm.Name, State: "running"}}), nil
}

func TestSignalNumber(t *testing.T) {
	for text, want := range map[string]int{
		"KILL": 9, "sigterm": 15, "TERM": 15, "10": 10, "RTMIN+4": 38, "SIGRTMAX-1": 63, "RTMIN": 34,
		"": 0, "0": 0, "65": 0, "-1": 0, "NOPE": 0, "RTMIN+31": 0, "RTMINx": 0, "RTMIN4": 0, "RTMAX+1": 0,
	} {
		got, ok := signalNumber(text)
		if ok != (want != 0) || ok && got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, ok, want)
		}
	}
}

func TestKillPauseResume(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("a-vm", "running")
	d.add("b-vm", "paused")
	for _, c := range []struct {
		args  []string
		code  int
		out   string
		calls []string
	}{
		{[]string{"vm", "kill", "a-vm", "b-vm", "a-vm"}, 0, "a-vm\nb-vm\n", []string{"kill a-vm 9", "kill b-vm 9"}},
		{[]string{"vm", "kill", "-s", "hup", "a-vm", "none"}, 3, "a-vm\n", []string{"kill a-vm 1"}},
		{[]string{"vm", "kill", "-s", "perhaps", "a-vm"}, 2, "", nil},
		{[]string{"vm", "pause", "a-vm"}, 0, "a-vm\n", []string{"pause a-vm"}},
		{[]string{"vm", "resume", "b-vm", "a-vm"}, 0, "b-vm\na-vm\n", []string{"resume b-vm", "resume a-vm"}},
	} {
		w := newWorld(t, d, "")
		w.expect(t, w.run(c.args...), c.code, c.out, "")
		for _, call := range c.calls {
			if !d.did(call) {
				t.Errorf("%v: no %q in %v", c.args, call, d.calls)
			}
		}
	}
}
