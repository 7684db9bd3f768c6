package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/trace"
)

var (
	_ driver.Freezer  = (*instance)(nil)
	_ driver.Restorer = (*qemu)(nil)
)

const (
	// migrated is the status of a migration that is done.
	migrated = "completed"
	// stateName is what QEMU calls the pipe for the devices' state.
	stateName = "state"
	// loadTime bounds the loading of a frozen guest. It takes 10 ms on an idle
	// host; the rest is for hosts that are not.
	loadTime = 60 * time.Second
	// endTime bounds the wait for the end of a QEMU that was killed.
	endTime = 10 * time.Second
	// closeRounds bounds how often QEMU is asked whether it has seen the guest
	// link's end, which it does before it answers the second time.
	closeRounds = 100
)

// Freeze implements driver.Freezer. QEMU writes the devices' state as a
// migration whose memory stays where it is, in the shared file (x-ignore-shared).
func (i *instance) Freeze(ctx context.Context, dir string) error {
	if !i.private.Freezable {
		return errors.Join(banger.Errorf(banger.CodeUsage, "the VM was not started to be frozen"), i.end())
	}
	state, err := i.saveState(ctx)
	// Killed, QEMU has no time to touch the guest's memory or disks again. All
	// that it wrote is the kernel's by now.
	if err := errors.Join(err, i.end()); err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	for _, d := range i.machine.Disks {
		if d.ReadOnly {
			continue
		}
		if err := syncPath(d.Path); err != nil {
			return fmt.Errorf("freeze: %w", err)
		}
	}
	if err := writeFrozen(layout.Instance(dir), i.machine, i.private.Program, state); err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	return nil
}

// end ends QEMU, whatever the state of the caller's context.
func (i *instance) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	return i.proc.Kill(ctx)
}

// saveState stops the guest and returns its devices' state.
func (i *instance) saveState(ctx context.Context) ([]byte, error) {
	if err := i.link.Close(); err != nil {
		return nil, err
	}
	if err := i.monitor.do(ctx, "stop", nil); err != nil {
		return nil, err
	}
	if err := i.awaitQuiet(ctx); err != nil {
		return nil, err
	}
	if err := i.monitor.run(ctx, capabilities(), nil); err != nil {
		return nil, err
	}
	return i.readState(ctx)
}

// readState has QEMU write the devices' state into a pipe, and returns it.
func (i *instance) readState(ctx context.Context) (state []byte, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	err = i.monitor.run(ctx, command{"getfd", map[string]any{"fdname": stateName}, w}, nil)
	w.Close() // QEMU has its own: r ends when it closes that
	if err != nil {
		return nil, err
	}
	read := make(chan error, 1)
	go func() {
		var err error
		state, err = io.ReadAll(io.LimitReader(r, maxState+1))
		r.Close() // more than that QEMU fails to write
		read <- err
	}()
	err = i.migrate(ctx, command{name: "migrate", args: map[string]any{"uri": "fd:" + stateName}})
	if err != nil {
		r.Close()
		<-read
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	if err := <-read; err != nil {
		return nil, cause(ctx, err)
	}
	if len(state) == 0 || len(state) > maxState {
		return nil, fmt.Errorf("QEMU wrote %d bytes of state, at most %d are taken", len(state), maxState)
	}
	return state, nil
}

// awaitQuiet returns when QEMU has seen the end of the guest link's connections.
// Until then it may move bytes in the guest's rings, and memory and devices
// would not agree.
func (i *instance) awaitQuiet(ctx context.Context) error {
	for range closeRounds {
		var ports []struct {
			Label    string `json:"label"`
			Filename string `json:"filename"`
		}
		if err := i.monitor.do(ctx, "query-chardev", &ports); err != nil {
			return err
		}
		open := 0
		for _, p := range ports {
			if (p.Label == "ctl" || p.Label == "data") && !strings.HasPrefix(p.Filename, "disconnected:") {
				open++
			}
		}
		if open == 0 {
			return nil
		}
	}
	return errors.New("somebody is connected to the guest link")
}

// capabilities are what both ends of a migration agree on.
func capabilities() command {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	return command{name: "migrate-set-capabilities", args: map[string]any{"capabilities": []capability{
		{"x-ignore-shared", true}, {"events", true},
	}}}
}

// migrate runs a command that begins a migration, and waits for its end.
func (i *instance) migrate(ctx context.Context, c command) error {
	if err := i.monitor.run(ctx, c, nil); err != nil {
		return err
	}
	select {
	case status := <-i.moved:
		if status == migrated {
			return nil
		}
		var info struct {
			Error string `json:"error-desc"`
		}
		if err := i.monitor.do(ctx, "query-migrate", &info); err != nil {
			return fmt.Errorf("%s: %s", c.name, status)
		}
		return fmt.Errorf("%s: %s: %.300q", c.name, status, info.Error)
	case <-i.monitor.done:
		return fmt.Errorf("%s: %w", c.name, i.monitor.ended())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Restore implements driver.Restorer. QEMU gets the memory as its own copy of
// what it writes, and reads the devices' state from a pipe.
func (q *qemu) Restore(ctx context.Context, m driver.Machine, from string, save func(driver.Handle) error) (driver.Instance, error) {
	mark := trace.Begin(ctx, "open the template, check its devices' state")
	f, err := openFrozen(layout.Instance(from), m)
	mark.End()
	if err != nil {
		return nil, err
	}
	defer f.close()
	return q.start(ctx, m, launch{save: save, frozen: f})
}

// load has a QEMU that waits for its guest load it.
func (i *instance) load(ctx context.Context, f *frozen) error {
	ctx, cancel := context.WithTimeoutCause(ctx, loadTime,
		banger.Errorf(banger.CodeTimeout, "QEMU has not loaded the frozen guest within %s", loadTime))
	defer cancel()
	whole := trace.From(ctx).BeginOf(Name, i.proc.PID(), "restore: network joined, memory mapped, devices loaded")
	defer whole.End()
	if err := i.monitor.run(ctx, capabilities(), nil); err != nil {
		return err
	}
	// QEMU would announce the guest to its network, where nobody is yet.
	quiet := command{name: "migrate-set-parameters", args: map[string]any{"announce-rounds": 0}}
	if err := i.monitor.run(ctx, quiet, nil); err != nil {
		return err
	}
	if err := i.awaitNetwork(ctx); err != nil {
		return err
	}
	return i.loadState(ctx, f.state)
}

// loadState has QEMU read the devices' state from a pipe.
func (i *instance) loadState(ctx context.Context, state []byte) error {
	mark := trace.From(ctx).BeginOf(Name, i.proc.PID(), "load the devices' state")
	defer mark.End()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	err = i.monitor.run(ctx, command{"getfd", map[string]any{"fdname": stateName}, r}, nil)
	r.Close() // QEMU has its own: writing fails when it closes that
	if err != nil {
		return err
	}
	written := make(chan error, 1)
	go func() {
		_, err := w.Write(state)
		w.Close()
		written <- err
	}()
	err = i.migrate(ctx, command{name: "migrate-incoming", args: map[string]any{"uri": "fd:" + stateName}})
	w.Close()
	if writeErr := <-written; err == nil {
		err = writeErr
	}
	return err
}

// awaitNetwork returns when QEMU serves the network, which it begins to do at
// some time after it has started. A frame that the guest sends before, as only
// one that was frozen can, crashes it (seen with 7.2.22).
func (i *instance) awaitNetwork(ctx context.Context) error {
	conn, err := connect(ctx, i.dir.GuestNet())
	if err != nil {
		return cause(ctx, err)
	}
	defer conn.Close()
	select {
	case <-i.joined:
		return nil
	case <-i.monitor.done:
		return fmt.Errorf("join the network: %w", i.monitor.ended())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// whole reports, with driver.ErrGone, a QEMU whose guest was never loaded.
func (i *instance) whole(ctx context.Context) error {
	var status struct {
		Status string `json:"status"`
	}
	if err := i.monitor.do(ctx, "query-status", &status); err != nil {
		return err
	}
	if status.Status == "inmigrate" {
		return driver.ErrGone
	}
	return nil
}
