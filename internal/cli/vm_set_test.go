package cli

import (
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

func (d *fakeDaemon) SetVM(_ context.Context, req *connect.Request[bangerv1.SetVMRequest]) (*connect.Response[bangerv1.SetVMResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	nat := "as it is"
	if req.Msg.Nat != nil {
		nat = map[bool]string{true: "on", false: "off"}[*req.Msg.Nat]
	}
	if req.Msg.TtlMs != nil {
		d.called("set %s: ttl %d ms", vm.Name, *req.Msg.TtlMs)
	}
	d.called("set %s: name %q, %d vcpu, %d MiB, disk %d, overlay %d, nat %s", vm.Name, req.Msg.Name, req.Msg.Vcpu,
		req.Msg.MemoryMib, req.Msg.DiskBytes, req.Msg.OverlayBytes, nat)
	name := vm.Name
	if req.Msg.Name != "" {
		name = req.Msg.Name
	}
	return connect.NewResponse(&bangerv1.SetVMResponse{Vm: &bangerv1.VM{Id: vm.Id, Name: name, State: vm.State}}), nil
}

func TestSet(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("a-vm", "running")
	d.add("b-vm", "stopped")
	for _, c := range []struct {
		args         string
		code         int
		call, stderr string
	}{
		{"a-vm b-vm --vcpu 2 --memory 1G --disk-size 2G --nat=false", 0, `set b-vm: name "", 2 vcpu, 1024 MiB, disk 2147483648, overlay 0, nat off`, ""},
		{"a-vm --name new", 0, `set a-vm: name "new", 0 vcpu, 0 MiB, disk 0, overlay 0, nat as it is`, `vm "a-vm" is "new" now`},
		{"b-vm --system-overlay-size 1G", 0, `set b-vm: name "", 0 vcpu, 0 MiB, disk 0, overlay 1073741824, nat as it is`, ""},
		{"a-vm --ttl 1d", 0, `set a-vm: ttl 86400000 ms`, ""},
		{"a-vm --ttl none", 0, `set a-vm: ttl 0 ms`, ""},
		{"a-vm --ttl 5", 2, "", `--ttl "5" is not a time such as`},
		{"a-vm", 2, "", "nothing to change"},
		{"a-vm b-vm --name new", 2, "", "--name is for one VM, not for 2"},
		{"a-vm --name New", 2, "", "not valid"},
		{"a-vm --vcpu 0", 2, "", "--vcpu 0"},
		{"a-vm --disk-size 5", 2, "", "--disk-size: size"},
		{"none --vcpu 1", 3, "", "does not exist"},
	} {
		w := newWorld(t, d, "")
		w.expect(t, w.run(append([]string{"vm", "set"}, strings.Fields(c.args)...)...), c.code, "", c.stderr)
		if c.call != "" && !d.did(c.call) {
			t.Errorf("%s: no %q in %q", c.args, c.call, d.calls)
		}
	}
}

func TestPrune(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("up", "running")
	d.add("down", "stopped")
	d.add("fresh", "created")
	d.add("still", "paused")
	w := newWorld(t, d, "")
	w.expect(t, w.run("vm", "prune"), 2, "", "banger vm prune -f")
	for answer, code := range map[string]int{"\n": 130, "n\n": 130, "": 130, "yes": 0, "Y\n": 0} {
		w := newWorld(t, d, answer)
		w.app.IO.InTTY = true
		d.calls = nil
		w.expect(t, w.run("vm", "prune"), code, "", "Delete 2 VMs and all that is on their disks? [y/N] ")
		if deleted := d.did("delete down") && d.did("delete fresh"); deleted != (code == 0) || d.did("delete up") || d.did("delete still") {
			t.Errorf("answer %q: %v", answer, d.calls)
		}
	}
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "prune", "-f"), 0, "down\nfresh\n", "")
	w = newWorld(t, newFakeDaemon(t), "")
	w.expect(t, w.run("vm", "prune"), 0, "", "no VM is stopped")
	w = newWorld(t, newFakeDaemon(t), "")
	w.expect(t, w.run("vm", "prune", "--json"), 0, "[]\n", "")
}

// One that cannot be deleted is named, and the others are deleted.
func TestPruneFailsInPart(t *testing.T) {
	d := newFakeDaemon(t)
	bad := d.add("bad", "stopped")
	d.add("good", "stopped")
	d.onDelete = func() { bad.State = "running" } // somebody has started it
	w := newWorld(t, d, "")
	w.expect(t, w.run("vm", "prune", "-f"), 4, "good\n", `vm "bad" is running`)
}
