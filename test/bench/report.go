package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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
func head() []string {
	return []string{"job", "median", "p90", "n", "limit", "yardstick", "its median", "ratio", "limit of it", ""}
}

// show is a figure of the row, to four digits or to the unit.
func (r row) show(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f %s", v, r.Unit)
	}
	return fmt.Sprintf("%.4g %s", v, r.Unit)
}

// lines are the row in the table: one, and one more for each further yardstick.
func (r row) lines() [][]string {
	first := []string{r.Name, "", "", "", "", "", "", "", "", r.verdict()}
	if len(r.Samples) == 0 {
		first[5] = r.Absent
		return [][]string{first}
	}
	first[1], first[2], first[3] = r.show(quantile(r.Samples, 0.5)), r.show(r.p90()), fmt.Sprint(len(r.Samples))
	if r.Limit > 0 {
		first[4] = r.sign() + " " + r.show(r.Limit)
	}
	lines := [][]string{first}
	for i, y := range r.Yardsticks {
		if i > 0 {
			lines = append(lines, make([]string, len(first)))
		}
		line := lines[i]
		copy(line[5:], r.against(y))
		line[9] = worst(line[9], r.verdictAt(y))
	}
	return lines
}

// sign is that of the row's limits.
func (r row) sign() string {
	if r.HigherIsBetter {
		return "≥"
	}
	return "≤"
}

// against are the cells of one yardstick.
func (r row) against(y yardstick) []string {
	if len(y.Samples) == 0 {
		return []string{y.Name, "could not run here: " + y.Absent}
	}
	cells := []string{y.Name, r.show(quantile(y.Samples, 0.5)), fmt.Sprintf("%.2f ×", r.ratio(y)), ""}
	if y.Limit > 0 {
		cells[3] = fmt.Sprintf("%s %.2f ×", r.sign(), y.Limit)
	}
	return cells
}

// worst of two verdicts on the same line.
func worst(a, b string) string {
	for _, verdict := range []string{misses, untold, holds} {
		if a == verdict || b == verdict {
			return verdict
		}
	}
	return ""
}

// print writes the table for a person at a terminal.
func (r *report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(head(), "\t"))
	for _, row := range r.Rows {
		for _, line := range row.lines() {
			fmt.Fprintln(t, strings.Join(line, "\t"))
		}
	}
	return t.Flush()
}

// markdown is the page for people.
func (r *report) markdown() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# What `make bench` measured\n\n%s: %s on %d × %s, Linux %s, load %s at the start. %s. VMs: %d vcpu, %d MiB, %s/%s, kernel %s.\n\n![chart](%s.svg)\n\n",
		r.Time.Format(time.DateOnly), r.Banger, r.Host.CPUs, r.Host.CPU, r.Host.Kernel, r.Host.Load,
		r.Host.QEMU, r.VMs.VCPU, r.VMs.MemoryMiB, r.VMs.Driver, r.VMs.Accel, r.VMs.Kernel, reportName)
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head())
	line(strings.Split(strings.Repeat("---,", len(head())-1)+"---", ","))
	for _, row := range r.Rows {
		for _, cells := range row.lines() {
			line(cells)
		}
	}
	fmt.Fprintf(&b, "\nA job and its yardsticks take turns, every other turn backwards; a ratio is the median of the ratios of each turn. "+
		"Limits are for medians and ratios. p90: nine samples of ten are as good or better. Every sample is in %s.json.\n", reportName)
	return b.Bytes()
}

// reportName is the name of the files of a report, without what they hold.
const reportName = "latest"

// save writes the raw figures, the page and the chart.
func (r *report) save(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, reportName)
	return errors.Join(
		atomicfile.Write(path+".json", append(data, '\n'), 0o644),
		atomicfile.Write(path+".md", r.markdown(), 0o644),
		atomicfile.Write(path+".svg", r.svg(), 0o644))
}
