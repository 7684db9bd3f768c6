package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/client"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
)

const (
	// statsApart is the time between the two looks that a processor's share is
	// told from.
	statsApart = 500 * time.Millisecond
	// leastInterval is how often --watch may look: each look is a call into every
	// guest.
	leastInterval = 200 * time.Millisecond
	// statsTime bounds the wait for one VM: its supervisor waits 2 s for the guest.
	statsTime = 5 * time.Second
)

// vmStatsOptions are the flags of vm stats.
type vmStatsOptions struct {
	app      *App
	refs     []string
	watch    bool
	interval time.Duration
}

func (a *App) newVMStats(run func(context.Context, *vmStatsOptions) error) *cobra.Command {
	opts := &vmStatsOptions{app: a}
	if run == nil {
		run = runVMStats
	}
	cmd := &cobra.Command{
		Use: "stats [NAME...]", Short: "Show what VMs use: processor, memory, disks, network", Args: cobra.ArbitraryArgs,
		Long: "Shows what the running VMs use, or the named ones.\n\n" +
			"CPU is of one processor of the host; HOST MEM what is resident there for VMM and\n" +
			"supervisor; GUEST MEM, /root and SYSTEM (its changes) are used / limit as the guest\n" +
			"says; HOST DISK is what its disks really take; NET counts since the last start.\n" +
			"--watch shows it again and again, until interrupted or until no named VM runs.",
		Example:           examples("banger vm stats", "banger vm stats --watch dev", "banger vm stats --json dev | jq .[0].cpu_percent"),
		ValidArgsFunction: a.completeVMs(active),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.refs = args
			if opts.interval < leastInterval {
				return usagef(cmd, "--interval %s is less than %s", opts.interval, leastInterval)
			}
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.watch, "watch", "w", false, "go on: a live table, JSON lines with --json")
	cmd.Flags().DurationVar(&opts.interval, "interval", time.Second, "time between two looks of --watch")
	return cmd
}

func runVMStats(ctx context.Context, opts *vmStatsOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	only, err := opts.named(ctx, c)
	if err != nil {
		return err
	}
	before, err := opts.look(ctx, c, only)
	if err != nil {
		return err
	}
	pause, show := statsApart, a.showStats
	if opts.watch {
		live := &liveTable{app: a}
		pause, show = opts.interval, live.show
	}
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		now, err := opts.look(ctx, c, only)
		if err != nil {
			return err
		}
		if err := show(views(before, now)); err != nil || !opts.watch {
			return err
		}
		if len(now) == 0 && only != nil {
			return nil
		}
		before = now
	}
}

// named are the ids of the VMs that were asked for; nil means all. One that cannot be
// shown is an error.
func (o *vmStatsOptions) named(ctx context.Context, c *client.Client) (map[string]bool, error) {
	if len(o.refs) == 0 {
		return nil, nil
	}
	vms, err := c.ListVMs(ctx)
	if err != nil {
		return nil, err
	}
	only := map[string]bool{}
	for _, ref := range o.refs {
		vm, err := resolve(vms, ref)
		if err != nil {
			return nil, err
		}
		if err := mustRun(vm); err != nil && banger.State(vm.State) != banger.StatePaused {
			return nil, err
		}
		only[vm.Id] = true
	}
	return only, nil
}

// statsSample is one VM at one moment.
type statsSample struct {
	vm    *bangerv1.VM
	stats *vmv1.StatsResponse
	err   error
}

// look asks all VMs at once. One that ends meanwhile is left out.
func (o *vmStatsOptions) look(ctx context.Context, c *client.Client, only map[string]bool) ([]*statsSample, error) {
	vms, err := c.ListVMs(ctx)
	if err != nil {
		return nil, err
	}
	var samples []*statsSample
	var all sync.WaitGroup
	for _, vm := range vms {
		state := banger.State(vm.State)
		if state != banger.StateRunning && state != banger.StatePaused || only != nil && !only[vm.Id] {
			continue
		}
		s := &statsSample{vm: vm}
		samples = append(samples, s)
		all.Go(func() { s.ask(ctx) })
	}
	all.Wait()
	return samples, ctx.Err()
}

func (s *statsSample) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, statsTime)
	defer cancel()
	supervisor, done := supervisorOf(s.vm)
	defer done()
	res, err := supervisor.Stats(ctx, connect.NewRequest(&vmv1.StatsRequest{}))
	if err != nil {
		s.err = fromSupervisor(s.vm, err)
		return
	}
	s.stats = res.Msg
}

// statsView is what a VM uses, in JSON. What the guest did not say is null.
type statsView struct {
	VM                    string          `json:"vm"`
	VMID                  string          `json:"vm_id"`
	State                 string          `json:"state"`
	CPUPercent            *float64        `json:"cpu_percent"`
	VMMMemoryBytes        int64           `json:"vmm_memory_bytes"`
	SupervisorMemoryBytes int64           `json:"supervisor_memory_bytes"`
	HostDiskBytes         int64           `json:"host_disk_bytes"`
	NetworkInBytes        uint64          `json:"network_in_bytes"`
	NetworkOutBytes       uint64          `json:"network_out_bytes"`
	Flows                 int64           `json:"flows"`
	Guest                 *guestStatsView `json:"guest"`
	Error                 string          `json:"error,omitempty"`
}

type guestStatsView struct {
	CPUPercent   *float64 `json:"cpu_percent"`
	MemoryUsed   int64    `json:"memory_used_bytes"`
	MemoryTotal  int64    `json:"memory_total_bytes"`
	Processes    int64    `json:"processes"`
	RootUsed     int64    `json:"work_used_bytes"`
	RootTotal    int64    `json:"work_total_bytes"`
	OverlayUsed  int64    `json:"system_overlay_used_bytes"`
	OverlayTotal int64    `json:"system_overlay_total_bytes"`
}

// views compares two looks.
func views(before, now []*statsSample) []statsView {
	earlier := map[string]*vmv1.StatsResponse{}
	for _, s := range before {
		earlier[s.vm.Id] = s.stats
	}
	out := make([]statsView, 0, len(now))
	for _, s := range now {
		v := statsView{VM: s.vm.Name, VMID: s.vm.Id, State: s.vm.State}
		if s.err != nil {
			v.Error = s.err.Error()
		} else {
			v.fill(earlier[s.vm.Id], s.stats)
		}
		out = append(out, v)
	}
	return out
}

func (v *statsView) fill(then, now *vmv1.StatsResponse) {
	v.VMMMemoryBytes, v.SupervisorMemoryBytes = now.VmmMemoryBytes, now.SupervisorMemoryBytes
	v.HostDiskBytes, v.Flows, v.Error = now.DiskBytes, now.Flows, now.GuestError
	v.NetworkInBytes, v.NetworkOutBytes = now.NetworkInBytes, now.NetworkOutBytes
	v.CPUPercent = share(then, now, func(s *vmv1.StatsResponse) int64 { return s.GetVmmCpuMs() + s.GetSupervisorCpuMs() })
	if g := now.Guest; g != nil {
		v.Guest = &guestStatsView{
			MemoryUsed: g.MemoryTotalBytes - g.MemoryAvailableBytes, MemoryTotal: g.MemoryTotalBytes, Processes: g.Processes,
			RootUsed: g.WorkUsedBytes, RootTotal: g.WorkTotalBytes, OverlayUsed: g.OverlayUsedBytes, OverlayTotal: g.OverlayTotalBytes,
		}
		if then.GetGuest() != nil {
			v.Guest.CPUPercent = share(then, now, func(s *vmv1.StatsResponse) int64 { return s.GetGuest().GetCpuMs() })
		}
	}
}

// share is the part of one processor between two looks, in percent; nil if there was
// none before, or another run.
func share(then, now *vmv1.StatsResponse, cpuMS func(*vmv1.StatsResponse) int64) *float64 {
	elapsed := now.TakenNs - then.GetTakenNs()
	spent := cpuMS(now) - cpuMS(then)
	if then == nil || elapsed <= 0 || spent < 0 {
		return nil
	}
	percent := float64(spent) * float64(time.Millisecond) / float64(elapsed) * 100
	return &percent
}

// showStats prints one look.
func (a *App) showStats(views []statsView) error {
	switch {
	case a.json:
		return a.printJSON(views)
	case a.quiet:
		for _, v := range views {
			if err := a.println(v.VMID); err != nil {
				return err
			}
		}
		return nil
	}
	return a.table(a.statsRows(views))
}

func (a *App) statsRows(views []statsView) [][]string {
	rows := [][]string{{"NAME", "CPU", "HOST MEM", "GUEST MEM", "/root", "SYSTEM", "HOST DISK", "NET IN", "NET OUT", "PROCS"}}
	for _, v := range views {
		row := []string{a.shown(v.VM), "-", "-", "-", "-", "-", "-", "-", "-", "-"}
		if v.CPUPercent != nil {
			row[1] = fmt.Sprintf("%.1f%%", *v.CPUPercent)
		}
		if v.VMMMemoryBytes > 0 {
			row[2], row[6] = banger.FormatSize(v.VMMMemoryBytes+v.SupervisorMemoryBytes), banger.FormatSize(v.HostDiskBytes)
			row[7], row[8] = banger.FormatSize(int64(v.NetworkInBytes)), banger.FormatSize(int64(v.NetworkOutBytes))
		}
		if g := v.Guest; g != nil {
			row[3], row[4], row[5] = used(g.MemoryUsed, g.MemoryTotal), used(g.RootUsed, g.RootTotal), used(g.OverlayUsed, g.OverlayTotal)
			row[9] = fmt.Sprint(g.Processes)
		} else {
			row[9] = v.State
		}
		rows = append(rows, row)
	}
	return rows
}

func used(n, limit int64) string {
	return banger.FormatSize(n) + " / " + banger.FormatSize(limit)
}

// liveTable shows looks one over the other on a terminal, and else one after the
// other.
type liveTable struct {
	app   *App
	lines int // of the last one
}

func (l *liveTable) show(views []statsView) error {
	a := l.app
	if a.json {
		for _, v := range views {
			if err := json.NewEncoder(a.IO.Out).Encode(v); err != nil {
				return err
			}
		}
		return nil
	}
	if l.lines > 0 && a.IO.OutTTY {
		// Up to its first line, and away with it.
		if _, err := fmt.Fprintf(a.IO.Out, "\x1b[%dA\x1b[J", l.lines); err != nil {
			return err
		}
	}
	text, err := a.cut(views)
	if err != nil {
		return err
	}
	l.lines = strings.Count(text, "\n")
	_, err = io.WriteString(a.IO.Out, text)
	return err
}

// cut is the table as it fits on the terminal: a line that wrapped, or one above the
// screen, could not be taken away again.
func (a *App) cut(views []statsView) (string, error) {
	var b strings.Builder
	on := *a
	on.IO.Out = &b
	if err := on.showStats(views); err != nil {
		return "", err
	}
	cols, rows := 0, 0
	if a.IO.OutTTY {
		cols, rows = a.IO.Size()
	}
	var out strings.Builder
	for i, line := range strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n") {
		if rows > 1 && i >= rows-1 {
			break
		}
		if runes := []rune(line); cols > 0 && len(runes) > cols {
			line = string(runes[:cols])
		}
		out.WriteString(line + "\n")
	}
	return out.String(), nil
}
