package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// println writes one line of the answer.
func (a *App) println(line string) error {
	_, err := io.WriteString(a.IO.Out, line+"\n")
	return err
}

// printJSON writes v as one document.
func (a *App) printJSON(v any) error {
	enc := json.NewEncoder(a.IO.Out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// shown is guest text as it may stand in the answer: escaped on a terminal.
func (a *App) shown(s string) string {
	if a.IO.OutTTY {
		return safe.Line(s)
	}
	return s
}

// table writes rows in columns; the first is the head.
func (a *App) table(rows [][]string) error {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(a.IO.Out, b.String())
	return err
}

// orDash is s, or a dash for nothing.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// age is the time since ms (Unix milliseconds), the way people say it.
func age(now time.Time, ms int64) string {
	if ms == 0 {
		return "-"
	}
	d := max(now.Sub(time.UnixMilli(ms)), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours())/24)
}

// when is a time in JSON: RFC 3339 in UTC, or nothing.
func when(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339Nano)
}

// vmView is a VM in JSON.
type vmView struct {
	ID            string   `json:"id"`
	Name          string   `json:"name"`
	State         string   `json:"state"`
	Reason        string   `json:"reason,omitempty"`
	Ready         string   `json:"ready"`
	FailedUnits   []string `json:"failed_units"`
	Image         string   `json:"image"`
	ImageDigest   string   `json:"image_digest,omitempty"`
	Kernel        string   `json:"kernel"`
	VCPU          int32    `json:"vcpu"`
	MemoryMiB     int64    `json:"memory_mib"`
	DiskBytes     int64    `json:"disk_bytes"`
	OverlayBytes  int64    `json:"system_overlay_bytes"`
	NAT           bool     `json:"nat"`
	Policy        string   `json:"policy,omitempty"`
	Address       string   `json:"address,omitempty"`
	Publish       []string `json:"publish"`
	Driver        string   `json:"driver,omitempty"`
	Accel         string   `json:"accel,omitempty"`
	Confinement   []string `json:"confinement"`
	Ephemeral     bool     `json:"ephemeral"`
	Origin        string   `json:"origin,omitempty"`
	TemplateError string   `json:"template_error,omitempty"`
	Created       string   `json:"created"`
	Started       string   `json:"started,omitempty"`
	Expires       string   `json:"expires,omitempty"`
	Dir           string   `json:"dir"`
	SupervisorPID int32    `json:"supervisor_pid,omitempty"`
	VMMPID        int32    `json:"vmm_pid,omitempty"`
}

func viewVM(vm *bangerv1.VM) vmView {
	list := func(s []string) []string { return append([]string{}, s...) }
	return vmView{
		ID: vm.Id, Name: vm.Name, State: vm.State, Reason: vm.Reason, Ready: vm.Ready,
		FailedUnits: list(vm.FailedUnits), Image: vm.Image, ImageDigest: vm.ImageDigest, Kernel: vm.Kernel,
		VCPU: vm.Vcpu, MemoryMiB: vm.MemoryMib, DiskBytes: vm.DiskBytes, OverlayBytes: vm.OverlayBytes,
		NAT: vm.Nat, Policy: vm.Policy, Address: vm.Address, Publish: viewPublish(vm), Driver: vm.Driver, Accel: vm.Accel, Confinement: list(vm.Confinement),
		Ephemeral: vm.Ephemeral, Origin: vm.Origin, TemplateError: vm.TemplateError, Created: when(vm.CreatedUnixMs), Started: when(vm.StartedUnixMs),
		Expires: when(vm.ExpiresUnixMs),
		Dir:     vm.Dir, SupervisorPID: vm.SupervisorPid, VMMPID: vm.VmmPid,
	}
}

// viewPublish are the published ports, as --publish takes them.
func viewPublish(vm *bangerv1.VM) []string {
	list := make([]string, 0, len(vm.Publish))
	for _, p := range vm.Publish {
		list = append(list, net.JoinHostPort(p.Address, strconv.Itoa(int(p.HostPort)))+":"+strconv.Itoa(int(p.GuestPort)))
	}
	return list
}

// specLine is what a VM really gets.
func specLine(vm *bangerv1.VM) string {
	return fmt.Sprintf("spec: %d vcpu · %d MiB · %s disk · %s/%s",
		vm.Vcpu, vm.MemoryMib, banger.FormatSize(vm.DiskBytes), orDash(vm.Driver), orDash(vm.Accel))
}
