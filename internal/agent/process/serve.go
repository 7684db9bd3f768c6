package process

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
)

const (
	// startTimeout bounds the wait for a client's first frame, and for its
	// close after an error.
	startTimeout = 30 * time.Second
	idSize       = 16
	// requestBuffer is for frames' headers and small ones; what is larger is read
	// into its own place. Memory that is new costs an emulated guest 20 µs a page.
	requestBuffer = 4 << 10
)

// client is one connection of the exec door, attached to a process.
type client struct {
	conn   net.Conn
	cursor *cursor
	stdin  uint64 // count from which it sends input
	// times: it wants the times of a trace.
	times   bool
	arrived time.Time
}

// kick ends the connection; its ServeExec then returns.
func (c *client) kick() { _ = c.conn.Close() }

// ServeExec serves one exec stream, as api/stream specifies, and closes conn.
// It returns when the stream has ended. When conn ends, broken tells whether
// the link below it broke (the process waits for a join) or the client left.
func (m *Manager) ServeExec(conn net.Conn, broken func() bool) {
	defer func() { _ = conn.Close() }()
	frames := stream.NewReader(bufio.NewReaderSize(conn, requestBuffer))
	_ = conn.SetReadDeadline(time.Now().Add(startTimeout))
	start, err := readStart(frames)
	if err != nil {
		m.log.Debug("exec stream without a start", "err", err)
		return
	}
	c := &client{conn: conn, cursor: newCursor(), times: start.Trace, arrived: time.Now()}
	p, err := m.open(start)
	if err == nil {
		err = p.attach(c, start.Received)
	}
	if err != nil {
		refuse(conn, err)
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	err = p.serve(c, frames)
	_ = conn.Close()
	m.log.Debug("exec stream ended", "pid", p.pid, "err", err)
	p.detach(c, broken())
}

func readStart(frames *stream.Reader) (*agentv1.ExecStart, error) {
	kind, payload, err := frames.Next()
	if err != nil {
		return nil, err
	}
	if kind != stream.Start {
		return nil, fmt.Errorf("%w: kind %d before the start", stream.ErrFrame, kind)
	}
	start := &agentv1.ExecStart{}
	return start, proto.Unmarshal(payload, start)
}

// refuse tells the client why and waits for it to close.
func refuse(conn net.Conn, err error) {
	if _, err := conn.Write(errorFrame(err)); err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(startTimeout))
	_, _ = io.Copy(io.Discard, conn)
}

func errorFrame(err error) []byte {
	message := &agentv1.ExecError{Code: CodeInternal, Message: err.Error()}
	if start, ok := errors.AsType[*StartError](err); ok {
		message.Code = start.Code
	}
	return appendMessage(stream.Error, message)
}

// appendMessage encodes one of our own small messages, which cannot fail.
func appendMessage(kind stream.Kind, message proto.Message) []byte {
	payload, err := proto.Marshal(message)
	if err != nil {
		payload = nil
	}
	return stream.Append(nil, kind, payload)
}

// open finds the process of a start, or starts it.
func (m *Manager) open(start *agentv1.ExecStart) (*Process, error) {
	id := string(start.Id)
	if len(id) != idSize {
		return nil, startErrorf(CodeInvalid, "the id of a command has %d bytes, not %d", len(id), idSize)
	}
	m.mu.Lock()
	if p := m.byID[id]; p != nil {
		m.mu.Unlock()
		<-p.ready
		return p, nil
	}
	if start.JoinOnly || start.Received > 0 {
		m.mu.Unlock()
		return nil, startErrorf(CodeGone, "the command is gone: it ended, or waited too long for its client")
	}
	p, err := m.registerLocked(id)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	m.launch(p, specOf(start))
	return p, nil
}

// BuiltinPrefix and the name of one of the agent's own programs are the argv[0] under
// which the agent's program must be that and nothing else: each is a process with the
// rights, the home and the cgroup of its user.
const BuiltinPrefix = "banger-builtin-"

func specOf(start *agentv1.ExecStart) *Spec {
	spec := &Spec{
		Argv: start.Argv, Shell: start.Shell, Env: start.Env, Cwd: start.Cwd,
		User: start.User, Stdin: start.Stdin,
		TimeLimit: time.Duration(max(min(start.TimeLimitMs, math.MaxInt64/int64(time.Millisecond)), 0)) * time.Millisecond,
	}
	if start.Builtin != "" {
		// An unknown name is refused by the program.
		spec.File, spec.Argv = "/proc/self/exe", append([]string{BuiltinPrefix + start.Builtin}, start.Argv...)
	}
	if start.Tty {
		spec.Terminal = &Terminal{Rows: start.Size.GetRows(), Cols: start.Size.GetCols()}
	}
	return spec
}

// attach makes c the client of the process, in place of one that may be there.
func (p *Process) attach(c *client, received uint64) error {
	old, err := p.replace(c, received)
	if old != nil {
		old.kick()
	}
	return err
}

func (p *Process) replace(c *client, received uint64) (old *client, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left {
		return nil, startErrorf(CodeGone, "the command is gone: its client left")
	}
	if !p.out.seek(c.cursor, received) {
		return nil, startErrorf(CodeInvalid, "output from byte %d on is not kept", received)
	}
	old, p.client = p.client, c
	p.stopTimer()
	if p.in != nil {
		c.stdin = p.in.resume(c.cursor)
	}
	return old, nil
}

// detach is the end of c's connection.
func (p *Process) detach(c *client, broken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client != c {
		return
	}
	p.client = nil
	if broken && !p.left {
		p.setTimer(p.manager.join, p.leave)
		return
	}
	p.leave()
}

// serve speaks with an attached client until the connection ends.
func (p *Process) serve(c *client, frames *stream.Reader) error {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		if err := p.send(c, stop); err != nil {
			c.kick()
		}
	}()
	err := p.receive(c, frames)
	close(stop)
	c.kick()
	<-stopped
	return err
}

// send writes to the client until the process's exit is written, or stop.
func (p *Process) send(c *client, stop <-chan struct{}) error {
	if p.err != nil {
		_, err := c.conn.Write(errorFrame(p.err))
		return err
	}
	started := &agentv1.ExecStarted{Pid: int32(p.pid), StdinReceived: c.stdin}
	if c.times {
		started.ReceivedNs, started.SentNs = monotonic(c.arrived), monotonic(time.Now())
	}
	if _, err := c.conn.Write(appendMessage(stream.Started, started)); err != nil {
		return err
	}
	for {
		select {
		case <-c.cursor.wake:
		case <-stop:
			return nil
		}
		complete, err := p.flush(c)
		if err != nil || complete {
			return err
		}
	}
}

// flush writes what there is. complete is true when that was the exit.
func (p *Process) flush(c *client) (complete bool, err error) {
	for {
		if p.in != nil {
			if count, due := p.in.ackDue(c.cursor); due {
				if _, err := c.conn.Write(stream.AppendAck(nil, count)); err != nil {
					return false, err
				}
			}
		}
		frames, ended := p.out.take(c.cursor)
		if frames == nil {
			return ended && p.isDone(), p.sendExit(c, ended)
		}
		_, err := c.conn.Write(frames)
		p.out.done(c.cursor)
		if err != nil {
			return false, err
		}
	}
}

func (p *Process) isDone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// sendExit writes the exit, if the output is complete.
func (p *Process) sendExit(c *client, ended bool) error {
	if !ended || !p.isDone() {
		return nil
	}
	exit := p.Wait()
	message := &agentv1.ExecExit{Code: int32(exit.Code), Signal: int32(exit.Signal), TimeOver: exit.TimeOver}
	if c.times {
		p.mu.Lock()
		ended := p.ended
		p.mu.Unlock()
		message.EndedNs, message.SentNs = monotonic(ended), monotonic(time.Now())
	}
	_, err := c.conn.Write(appendMessage(stream.Exit, message))
	return err
}

// monotonic is when t was, in nanoseconds of the guest's CLOCK_MONOTONIC; 0 if
// that clock cannot be read.
func monotonic(t time.Time) int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return now.Nano() - int64(time.Since(t))
}

// receive takes the client's frames until the connection ends.
func (p *Process) receive(c *client, frames *stream.Reader) error {
	for {
		kind, payload, err := frames.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = p.frame(c, kind, payload)
		}
		if err != nil {
			return err
		}
	}
}

func (p *Process) frame(c *client, kind stream.Kind, payload []byte) error {
	switch kind {
	case stream.Stdin, stream.StdinEOF:
		if p.in == nil {
			return nil
		}
		return p.in.offer(c.cursor, payload, kind == stream.StdinEOF)
	case stream.Ack:
		return p.ackFrame(payload)
	case stream.Resize:
		size := &agentv1.WindowSize{}
		if err := proto.Unmarshal(payload, size); err != nil {
			return err
		}
		p.Resize(size.Rows, size.Cols)
		return nil
	case stream.Signal:
		signal := &agentv1.ExecSignal{}
		if err := proto.Unmarshal(payload, signal); err != nil {
			return err
		}
		p.Signal(syscall.Signal(signal.Signal))
		return nil
	}
	return fmt.Errorf("%w: kind %d from a client", stream.ErrFrame, kind)
}

func (p *Process) ackFrame(payload []byte) error {
	if len(payload) != 8 {
		return fmt.Errorf("%w: ack of %d bytes", stream.ErrFrame, len(payload))
	}
	if count := binary.LittleEndian.Uint64(payload); !p.out.ack(count) {
		return fmt.Errorf("%w: ack of %d bytes that were not sent", stream.ErrFrame, count)
	}
	return nil
}
