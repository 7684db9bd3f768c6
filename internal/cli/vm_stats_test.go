package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/api/vm/v1/vmv1connect"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/unixsock"
)

// fakeSupervisor answers for a VM of a fakeDaemon: each look is a second after the
// one before, in which half a second was worked.
type fakeSupervisor struct {
	vmv1connect.UnimplementedSupervisorHandler
	looks    atomic.Int64
	noGuest  bool
	unwell   error
	onLooked func(int64)
}

func (f *fakeSupervisor) Stats(context.Context, *connect.Request[vmv1.StatsRequest]) (*connect.Response[vmv1.StatsResponse], error) {
	n := f.looks.Add(1)
	if f.onLooked != nil {
		f.onLooked(n)
	}
	s := &vmv1.StatsResponse{
		TakenNs: n * int64(time.Second), VmmCpuMs: n * 400, SupervisorCpuMs: n * 100, VmmMemoryBytes: 200 << 20,
		SupervisorMemoryBytes: 20 << 20, DiskBytes: 30 << 20, NetworkInBytes: 5 << 10, NetworkOutBytes: 6 << 10,
		Guest: &vmv1.GuestUsage{CpuMs: n * 250, MemoryTotalBytes: 512 << 20, MemoryAvailableBytes: 412 << 20, Processes: 42,
			WorkUsedBytes: 1 << 20, WorkTotalBytes: 8 << 30, OverlayUsedBytes: 2 << 20, OverlayTotalBytes: 4 << 30},
	}
	if f.noGuest {
		s.Guest, s.GuestError = nil, "the VM is paused"
	}
	return connect.NewResponse(s), nil
}

func (f *fakeSupervisor) Health(context.Context, *connect.Request[vmv1.HealthRequest]) (*connect.Response[vmv1.HealthResponse], error) {
	if f.unwell != nil {
		return nil, connect.NewError(connect.CodeInternal, f.unwell)
	}
	return connect.NewResponse(&vmv1.HealthResponse{LatencyUs: 1500, Build: "1.0+abc", Kernel: "6.1", Init: "systemd", Ready: "system", UptimeMs: 61_000}), nil
}

// supervise serves f as the supervisor of vm.
func supervise(t *testing.T, vm *bangerv1.VM, f *fakeSupervisor) {
	t.Helper()
	l, err := unixsock.Listen(layout.Instance(vm.Dir).Socket())
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(vmv1connect.NewSupervisorHandler(f))
	server := &http.Server{Handler: mux}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) })
	t.Cleanup(func() { server.Close(); serving.Wait() })
}

func TestStats(t *testing.T) {
	d := newFakeDaemon(t)
	supervise(t, d.add("dev", "running"), new(fakeSupervisor))
	supervise(t, d.add("still", "paused"), &fakeSupervisor{noGuest: true})
	d.add("off", "stopped")
	d.add("broken", "running")
	w := newWorld(t, d, "")
	w.expect(t, w.run("vm", "stats"), 0, ""+
		"NAME    CPU    HOST MEM  GUEST MEM    /root    SYSTEM   HOST DISK  NET IN  NET OUT  PROCS\n"+
		"dev     50.0%  220M      100M / 512M  1M / 8G  2M / 4G  30M        5K      6K       42\n"+
		"still   50.0%  220M      -            -        -        30M        5K      6K       paused\n"+
		"broken  -      -         -            -        -        -          -       -        running\n", "")
	w = newWorld(t, d, "")
	w.run("vm", "stats", "--json", "dev")
	var got []statsView
	if err := json.Unmarshal(w.out.Bytes(), &got); err != nil || len(got) != 1 || *got[0].CPUPercent != 50 || *got[0].Guest.CPUPercent != 25 {
		t.Errorf("%s: %v", w.out.String(), err)
	}
	for args, code := range map[string]int{"off": 4, "none": 3, "--interval 1ms": 2} {
		w := newWorld(t, d, "")
		w.expect(t, w.run(append([]string{"vm", "stats"}, strings.Fields(args)...)...), code, "", "")
	}
}

// A live table is drawn over itself, and ends when its VMs have.
func TestStatsWatch(t *testing.T) {
	d := newFakeDaemon(t)
	vm := d.add("dev", "running")
	supervise(t, vm, &fakeSupervisor{onLooked: func(n int64) {
		if n == 3 {
			d.mu.Lock()
			vm.State = "stopped"
			d.mu.Unlock()
		}
	}})
	w := newWorld(t, d, "")
	w.app.IO.OutTTY = true
	w.app.IO.Size = func() (int, int) { return 20, 24 }
	w.expect(t, w.run("vm", "stats", "--watch", "--interval", "200ms", "dev"), 0, "", "")
	if got := w.out.String(); strings.Count(got, "\x1b[2A\x1b[J") != 2 || strings.Contains(got, "GUEST MEM") {
		t.Errorf("%q", got)
	}
}

func TestHealth(t *testing.T) {
	d := newFakeDaemon(t)
	vm := d.add("dev", "running")
	f := new(fakeSupervisor)
	supervise(t, vm, f)
	w := newWorld(t, d, "")
	w.expect(t, w.run("vm", "health", "dev"), 0, "dev: agent 1.0+abc answers in 1.5 ms · ready: system · kernel 6.1 · init systemd · up 1m1s\n", "")
	vm.FailedUnits = []string{"a.service"}
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "health", "dev"), 1, "", "banger exec dev -- systemctl status a.service")
	f.unwell = banger.Errorf(banger.CodeFailed, "the guest sent garbage")
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "health", "dev"), 1, "", `vm "dev": the guest sent garbage`)
	d.add("off", "stopped")
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "health", "off"), 4, "", "banger vm start off")
}

func (d *fakeDaemon) DiskUsage(context.Context, *connect.Request[bangerv1.DiskUsageRequest]) (*connect.Response[bangerv1.DiskUsageResponse], error) {
	return connect.NewResponse(&bangerv1.DiskUsageResponse{FreeBytes: 10 * banger.GiB, TotalBytes: 40 * banger.GiB, Uses: []*bangerv1.DiskUse{
		{Kind: "vm", Name: "dev", Bytes: 100 * banger.MiB}, {Kind: "vm", Name: "old", Bytes: 50 * banger.MiB, Reclaimable: true},
		{Kind: "image", Name: "debian-bookworm", Bytes: 300 * banger.MiB}, {Kind: "template", Name: strings.Repeat("ab", 32), Bytes: banger.MiB},
	}}), nil
}

func TestDf(t *testing.T) {
	d := newFakeDaemon(t)
	w := newWorld(t, d, "")
	w.expect(t, w.run("df"), 0, ""+
		"TYPE       COUNT  SIZE  RECLAIMABLE\n"+
		"VMs        2      150M  50M\n"+
		"images     1      300M  0B\n"+
		"templates  1      1M    0B\n"+
		"all        4      451M  50M\n", "free: 10G of 40G")
	w = newWorld(t, d, "")
	w.expect(t, w.run("df", "-v"), 0, ""+
		"TYPE      NAME             SIZE  RECLAIMABLE\n"+
		"vm        dev              100M  no\n"+
		"vm        old              50M   yes\n"+
		"image     debian-bookworm  300M  no\n"+
		"template  abababababab     1M    no\n", "")
	w = newWorld(t, d, "")
	w.run("df", "--json")
	var view dfView
	if err := json.Unmarshal(w.out.Bytes(), &view); err != nil || len(view.Uses) != 4 || view.FreeBytes != 10*banger.GiB {
		t.Errorf("%s: %v", w.out.String(), err)
	}
}
