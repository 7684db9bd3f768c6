package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/atomicfile"
	"github.com/banger-dev/banger/internal/driver/qemu"
)

// report is the outcome of a run.
type report struct {
	Time   time.Time `json:"time"`
	Banger string    `json:"banger"`
	Host   host      `json:"host"`
	// VMs are all like this.
	VMs  shape `json:"vms"`
	Rows []row `json:"rows"`
}

// host is what the figures depend on.
type host struct {
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Kernel string `json:"kernel"`
	QEMU   string `json:"qemu"`
	// Load is the load average of the last minute when the run began.
	Load string `json:"load"`
}

// describe begins the report of b.
func describe(ctx context.Context, b *bench) (*report, error) {
	stamp, err := b.home.output(ctx, "version")
	if err != nil {
		return nil, err
	}
	r := &report{Time: time.Now().UTC().Truncate(time.Second), Banger: stamp, VMs: b.vm.shape}
	r.Host = host{CPUs: runtime.NumCPU()}
	if r.Host.CPU, err = valueOf("/proc/cpuinfo", "model name"); err != nil {
		return nil, err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil, err
	}
	r.Host.Load, _, _ = strings.Cut(string(load), " ")
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, err
	}
	r.Host.Kernel = unix.ByteSliceToString(name.Release[:])
	bin, err := qemu.FindBinary("")
	if err != nil {
		return nil, err
	}
	text, err := exec.CommandContext(ctx, bin, "--version").Output()
	r.Host.QEMU, _, _ = strings.Cut(string(text), "\n")
	return r, err
}

// valueOf returns what follows "key:" in a file of /proc.
func valueOf(path, key string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("%s has no %q", path, key)
}

// head of the table.
var head = [...]string{"job", "median", "p90", "n", "limit", "yardstick", "ratio", ""}

func (r row) cells() []string {
	show := func(v float64) string { return fmt.Sprintf("%.4g %s", v, r.Unit) }
	cells := []string{r.Name, show(quantile(r.Samples, 0.5)), show(r.p90()), fmt.Sprint(len(r.Samples)), "", "", "", r.verdict()}
	if r.Limit != nil {
		sign, text := "≤", show(r.Limit.Value)
		if r.HigherIsBetter {
			sign = "≥"
		}
		if r.Limit.OfRatio {
			text = fmt.Sprintf("%.2f ×", r.Limit.Value)
		}
		cells[4] = sign + " " + text
	}
	if y := r.Yardstick; y != nil {
		cells[5] = y.Name + ": " + show(quantile(y.Samples, 0.5))
		cells[6] = fmt.Sprintf("%.2f ×", r.ratio())
	}
	return cells
}

// print writes the table for a person at a terminal.
func (r *report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(head[:], "\t"))
	for _, row := range r.Rows {
		fmt.Fprintln(t, strings.Join(row.cells(), "\t"))
	}
	return t.Flush()
}

// markdown is the page for people.
func (r *report) markdown() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# What `make bench` measured\n\n%s: %s on %d × %s, Linux %s, load %s at the start. %s. VMs: %d vcpu, %d MiB, %s/%s, kernel %s.\n\n",
		r.Time.Format(time.DateOnly), r.Banger, r.Host.CPUs, r.Host.CPU, r.Host.Kernel, r.Host.Load,
		r.Host.QEMU, r.VMs.VCPU, r.VMs.MemoryMiB, r.VMs.Driver, r.VMs.Accel, r.VMs.Kernel)
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head[:])
	line(strings.Split(strings.Repeat("---,", len(head)-1)+"---", ","))
	for _, row := range r.Rows {
		line(row.cells())
	}
	b.WriteString("\nA row and its yardstick take turns; the ratio is the median of the ratios of each turn. " +
		"Limits are for the median or the ratio. p90: nine samples of ten are as good or better. Every sample is in bench.json.\n")
	return b.Bytes()
}

// save writes bench.json and bench.md.
func (r *report) save(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, "bench.json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, "bench.md"), r.markdown(), 0o644)
}
