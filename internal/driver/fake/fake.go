// Package fake is a VMM without a machine, for tests: a child process that
// serves the same sockets as a real VMM and runs a little guest written in Go.
// It can be killed and adopted like any other.
//
// The test binary is the VMM: its TestMain calls Main when it is run with
// Command as first argument.
package fake

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/vmmproc"
	"github.com/banger-dev/banger/internal/guestlink"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/unixsock"
)

// Name of this driver in handles and in Info.
const Name = "fake"

// Command is the first argument that makes a program the VMM.
const Command = "fake-vmm"

// startTime bounds the wait for a new VMM's answer.
const startTime = 30 * time.Second

// Options of New.
type Options struct {
	Log *slog.Logger
	// Program is the program that calls Main; empty: the running one.
	Program string
}

type fake struct{ Options }

// New returns the driver.
func New(o Options) driver.Driver { return &fake{o} }

// Name implements driver.Driver.
func (f *fake) Name() string { return Name }

// private is what a handle carries beside the process.
type private struct {
	Freezable bool `json:"freezable,omitempty"`
}

// Start implements driver.Driver.
func (f *fake) Start(ctx context.Context, m driver.Machine, save func(driver.Handle) error) (driver.Instance, error) {
	return f.start(ctx, m, launch{save: save})
}

// launch is how to start a VMM.
type launch struct {
	save func(driver.Handle) error
	// kept is the guest to restore; nil: a new one.
	kept []byte
}

func (f *fake) start(ctx context.Context, m driver.Machine, l launch) (_ driver.Instance, err error) {
	held, err := f.spawn(m, l.kept != nil)
	if err != nil {
		return nil, err
	}
	defer held.Drop()
	handle, err := vmmproc.NewHandle(Name, held.PID)
	if err != nil {
		return nil, errors.Join(err, held.Abandon())
	}
	proc, err := vmmproc.Open(handle)
	if err != nil {
		return nil, errors.Join(err, held.Abandon())
	}
	var inst *instance
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, vmmproc.Destroy(proc))
		if inst != nil {
			err = errors.Join(err, inst.Release())
		}
	}()
	p := private{Freezable: m.Freezable && l.kept == nil}
	if handle.Private, err = json.Marshal(p); err != nil {
		return nil, err
	}
	if err := l.save(handle); err != nil {
		return nil, err
	}
	if err := held.Open(); err != nil {
		return nil, err
	}
	if inst, err = f.attach(ctx, m, proc, p); err != nil {
		return nil, err
	}
	if l.kept != nil {
		if _, err := inst.ask(ctx, askLoad+string(l.kept)); err != nil {
			return nil, err
		}
	}
	return inst, nil
}

// spawn starts the VMM's process, held at its gate.
func (f *fake) spawn(m driver.Machine, waits bool) (*vmmproc.Held, error) {
	program := f.Program
	if program == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		program = self
	}
	dir := layout.Instance(m.Dir)
	sockets, err := vmmproc.Listen([]string{
		sockControl: dir.QMP(), sockCtl: dir.GuestCtl(), sockData: dir.GuestData(),
		sockNet: dir.GuestNet(), sockConsole: dir.GuestConsole(),
	})
	if err != nil {
		return nil, err
	}
	defer vmmproc.CloseAll(sockets)
	log, err := os.OpenFile(dir.VMMLog(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program, Command)
	cmd.Dir = m.Dir
	if waits {
		cmd.Env = append(os.Environ(), waitVar+"=1")
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = sockets
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return vmmproc.Spawn(cmd)
}

// Adopt implements driver.Driver.
func (f *fake) Adopt(ctx context.Context, m driver.Machine, h driver.Handle) (driver.Instance, error) {
	if h.Driver != Name {
		return nil, fmt.Errorf("adopt: the VMM is of driver %q", h.Driver)
	}
	var p private
	if err := json.Unmarshal(h.Private, &p); err != nil {
		return nil, fmt.Errorf("adopt: handle: %w", err)
	}
	proc, err := vmmproc.Open(h)
	if err != nil {
		return nil, err
	}
	inst, err := f.attach(ctx, m, proc, p)
	if err == nil && inst.hello == sayWaits {
		// Its guest was never loaded, and nobody will any more.
		return nil, errors.Join(driver.ErrGone, inst.Kill(ctx), inst.Release())
	}
	if err == nil {
		return inst, nil
	}
	select {
	case <-proc.Done():
		err = driver.ErrGone
	default:
	}
	return nil, errors.Join(err, proc.Release())
}

// attach joins the VMM's control socket and waits until it answers.
func (f *fake) attach(ctx context.Context, m driver.Machine, proc *vmmproc.Process, p private) (*instance, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	dir := layout.Instance(m.Dir)
	conn, err := unixsock.Dial(ctx, dir.QMP())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	r := bufio.NewReader(conn)
	hello, err := r.ReadString('\n')
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("fake VMM: %w", err)
	}
	i := &instance{
		disks: m.Disks, dir: dir, proc: proc, accel: m.Accel, private: p, control: conn, hello: strings.TrimSpace(hello),
		answers: make(chan string, 1), read: make(chan struct{}),
	}
	i.link = guestlink.New(guestlink.Endpoints{Ctl: dial(dir.GuestCtl()), Data: dial(dir.GuestData())}, f.Log)
	go i.listen(r)
	return i, nil
}

func dial(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return connect(ctx, path) }
}

func connect(ctx context.Context, path string) (net.Conn, error) {
	conn, err := unixsock.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// instance implements driver.Instance.
type instance struct {
	disks   []driver.Disk
	dir     layout.Instance
	proc    *vmmproc.Process
	accel   string
	private private
	control net.Conn
	hello   string // the VMM's first words
	link    *guestlink.Link
	answers chan string
	read    chan struct{} // listen has returned

	released sync.Once
	askMu    sync.Mutex

	mu    sync.Mutex
	clean bool
}

// listen takes what the VMM says on its control socket until that ends.
func (i *instance) listen(r *bufio.Reader) {
	defer close(i.read)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if line = strings.TrimSpace(line); line == sayPoweroff {
			i.mu.Lock()
			i.clean = true
			i.mu.Unlock()
			continue
		}
		select {
		case i.answers <- line:
		default:
		}
	}
}

// ask has the VMM obey and returns its answer.
func (i *instance) ask(ctx context.Context, line string) (string, error) {
	i.askMu.Lock()
	defer i.askMu.Unlock()
	select { // to what a caller who left had asked
	case <-i.answers:
	default:
	}
	if _, err := io.WriteString(i.control, line+"\n"); err != nil {
		return "", fmt.Errorf("fake VMM: %w", err)
	}
	select {
	case answer := <-i.answers:
		return answer, nil
	case <-i.read:
		return "", fmt.Errorf("fake VMM: %w", io.ErrUnexpectedEOF)
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// Run implements driver.Instance.
func (i *instance) Run(ctx context.Context) error {
	_, err := i.ask(ctx, askRun)
	return err
}

var _ driver.Pauser = (*instance)(nil)

// Pause implements driver.Pauser.
func (i *instance) Pause(ctx context.Context) error {
	_, err := i.ask(ctx, askPause)
	return err
}

// Link implements driver.Instance.
func (i *instance) Link() driver.Link { return i.link }

// Network implements driver.Instance.
func (i *instance) Network(ctx context.Context) (net.Conn, error) {
	return connect(ctx, i.dir.GuestNet())
}

// Console implements driver.Instance.
func (i *instance) Console(ctx context.Context) (io.ReadCloser, error) {
	return connect(ctx, i.dir.GuestConsole())
}

// Kill implements driver.Instance.
func (i *instance) Kill(ctx context.Context) error { return i.proc.Kill(ctx) }

// Wait implements driver.Instance.
func (i *instance) Wait(ctx context.Context) (driver.Exit, error) {
	if err := i.proc.Wait(ctx); err != nil {
		return driver.Exit{}, err
	}
	<-i.read
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.clean:
		return driver.Exit{Clean: true, Reason: "guest powered off"}, nil
	case i.proc.Killed():
		return driver.Exit{Reason: "powered off"}, nil
	}
	return driver.Exit{Reason: "fake VMM: " + i.proc.Reason()}, nil
}

// Info implements driver.Instance.
func (i *instance) Info() driver.Info {
	return driver.Info{PID: i.proc.PID(), Driver: Name, Accel: i.accel}
}

// Release implements driver.Instance.
func (i *instance) Release() (err error) {
	i.released.Do(func() {
		err = errors.Join(i.link.Close(), i.control.Close())
		<-i.read
		err = errors.Join(err, i.proc.Release())
	})
	return err
}
