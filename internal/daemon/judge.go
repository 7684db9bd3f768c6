package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
	"github.com/banger-dev/banger/internal/store"
)

const (
	// maxCrashes in crashWindow is how often a supervisor may crash before its
	// VM is given up: a successor that always crashes helps nobody.
	maxCrashes  = 5
	crashWindow = time.Minute
	// maxRecord bounds exit.json and vmm.json in bytes.
	maxRecord = 1 << 20
)

// crash is when a supervisor crashed.
type crash struct{ at time.Time }

// exitRecord is exit.json: how a run ended, as its supervisor wrote it.
type exitRecord struct {
	Reason string    `json:"reason"`
	Failed bool      `json:"failed"`
	Clean  bool      `json:"clean"`
	Time   time.Time `json:"time"`
}

// vmmHandle is the part of vmm.json that names the VMM's process.
type vmmHandle struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
	BootID    string `json:"boot_id"`
}

// alive reports whether the VMM of the handle lives.
func (h vmmHandle) alive() bool {
	return h.PID > 0 && h.BootID == process.BootID() && process.Alive(h.PID, h.StartTime)
}

// judge decides what the end of a supervisor's stream means. It returns the
// supervisor to follow next (nil: the same one still lives), or that the run is
// over and recorded as such.
func (m *machine) judge(ctx context.Context) (next *process.Handle, over bool) {
	m.awaitSupervisorEnd(ctx)
	if ctx.Err() != nil {
		return nil, true
	}
	m.mu.Lock()
	ending := m.ending
	m.mu.Unlock()
	if lockHeld(m.dir) && !ending {
		return nil, false
	}
	exit, ended := readExit(m.dir)
	vmm, _ := readVMM(m.dir)
	switch {
	case ended:
	case ending:
		exit = exitRecord{Reason: "powered off"}
	case vmm.alive():
		if next, err := m.successor(); err == nil {
			return next, false
		} else {
			exit = exitRecord{Failed: true, Reason: err.Error()}
		}
	default:
		exit = silentEnd(vmm)
	}
	m.end(exit)
	return nil, true
}

// awaitSupervisorEnd waits for the process whose stream ended: its lock and its
// last words are settled then.
func (m *machine) awaitSupervisorEnd(ctx context.Context) {
	m.mu.Lock()
	proc := m.proc
	m.mu.Unlock()
	if proc == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	if proc.Wait(ctx) != nil {
		return
	}
	m.set(func() {
		if m.proc == proc {
			m.proc = nil
		}
	})
	proc.Close()
}

// successor starts a supervisor that takes over the VMM of one that crashed.
func (m *machine) successor() (*process.Handle, error) {
	now := time.Now()
	m.mu.Lock()
	recent := m.crashes[:0]
	for _, c := range m.crashes {
		if now.Sub(c.at) < crashWindow {
			recent = append(recent, c)
		}
	}
	m.crashes = append(recent, crash{now})
	count := len(m.crashes)
	m.mu.Unlock()
	if count > maxCrashes {
		return nil, fmt.Errorf("its supervisor crashed %d times in a minute (see %s)", count, m.dir.SupervisorLog())
	}
	m.d.log.Warn("a supervisor crashed; its successor takes the VM over", "vm", m.id)
	return m.spawn(true)
}

// silentEnd is for a run whose supervisor left no word.
func silentEnd(vmm vmmHandle) exitRecord {
	switch {
	case vmm.BootID != "" && vmm.BootID != process.BootID():
		return exitRecord{Reason: "the host was restarted"}
	case vmm.PID == 0:
		return exitRecord{Failed: true, Reason: "its supervisor ended before the VMM ran"}
	}
	return exitRecord{Failed: true, Reason: "its supervisor and its VMM were ended from outside"}
}

// end records that the run is over, once nothing of it lives.
func (m *machine) end(exit exitRecord) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.d.life), undoTimeout)
	defer cancel()
	if err := m.d.endProcesses(ctx, m.dir); err != nil {
		m.d.log.Error("a VM's processes do not end", "vm", m.id, "error", err)
	}
	ended := func(rec *store.VM) { endRun(rec, exit) }
	if err := m.save(ctx, ended); err != nil {
		m.d.log.Error("a VM's end is not saved", "vm", m.id, "error", err)
		// It has ended all the same: the next start of the daemon sees that too.
		m.set(func() { ended(&m.rec) })
	}
	m.d.log.Info("a VM ended", "vm", m.id, "reason", exit.Reason, "failed", exit.Failed)
}

// endRun takes the end of a run into a record.
func endRun(rec *store.VM, exit exitRecord) {
	rec.Ready, rec.Started, rec.Driver, rec.Accel = banger.GradeNone, time.Time{}, "", ""
	rec.Confinement, rec.FailedUnits, rec.Origin, rec.TemplateError = nil, nil, "", ""
	rec.Reason = exit.Reason
	switch {
	case rec.State == banger.StateDeleting:
	case exit.Failed:
		rec.State = banger.StateError
	default:
		rec.State = banger.StateStopped
	}
}

// lockHeld reports whether a supervisor of dir lives. Only the daemon, which
// starts them, asks: the moment in which the lock is ours harms nobody. It is
// unlocked, not only closed: a child that is being started at this moment would
// keep it for as long as it has our descriptors.
func lockHeld(dir layout.Instance) bool {
	f, err := os.Open(dir.SupervisorLock())
	if err != nil {
		return false
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if err != nil {
		return errors.Is(err, unix.EWOULDBLOCK)
	}
	unix.Flock(int(f.Fd()), unix.LOCK_UN)
	return false
}

func readExit(dir layout.Instance) (exitRecord, bool) {
	var e exitRecord
	return e, readJSON(dir.Exit(), &e) == nil
}

func readVMM(dir layout.Instance) (vmmHandle, error) {
	var h vmmHandle
	err := readJSON(dir.VMM(), &h)
	return h, err
}

// readJSON decodes a file of bounded size.
func readJSON(path string, into any) error {
	data, err := readBounded(path, maxRecord)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errors.New(path + " is too large")
	}
	return data, err
}
