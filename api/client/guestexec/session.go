package guestexec

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
	"google.golang.org/protobuf/proto"
)

// brokenError is a connection that ended before the process did.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }

// session is one connection: Start, then frames both ways, until Exit or Error
// (final), or until the connection breaks (a *brokenError).
func (r *run) session(ctx context.Context, conn net.Conn) (Exit, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	frames := stream.NewReader(bufio.NewReaderSize(conn, 64<<10))
	if err := r.begin(conn, frames); err != nil {
		return Exit{}, final(ctx, err)
	}
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		if err := r.write(conn, done); err != nil {
			conn.Close() // the reader must not wait for an agent that cannot hear us
		}
	})
	exit, err := r.read(frames)
	close(done)
	conn.Close()
	writer.Wait()
	return exit, final(ctx, err)
}

// final sorts an error of a session: the context's, the guest's, or a break.
func final(ctx context.Context, err error) error {
	var start *StartError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &start):
		return err
	case errors.Is(err, stream.ErrFrame):
		return banger.Errorf(banger.CodeFailed, "the guest does not keep to the exec protocol: %w", err)
	case bangerCode(err) != "":
		return err
	}
	return &brokenError{err}
}

// begin sends Start and waits for Started.
func (r *run) begin(conn net.Conn, frames *stream.Reader) error {
	start := r.start()
	payload, err := proto.Marshal(start)
	if err != nil {
		return banger.Errorf(banger.CodeUsage, "arguments and environment must be valid UTF-8: %w", err)
	}
	if len(payload) > stream.MaxStart {
		return banger.Errorf(banger.CodeUsage, "arguments and environment are %s; the limit is %s",
			banger.FormatSize(int64(len(payload))), banger.FormatSize(stream.MaxStart))
	}
	conn.SetDeadline(time.Now().Add(startWithin))
	r.times.send()
	if _, err := conn.Write(stream.Append(nil, stream.Start, payload)); err != nil {
		return err
	}
	kind, payload, err := frames.Next()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return banger.Errorf(banger.CodeTimeout, "the guest did not answer within %s", startWithin)
	}
	if err != nil {
		return err
	}
	conn.SetDeadline(time.Time{})
	switch kind {
	case stream.Started:
		return r.started(payload, start.Received)
	case stream.Error:
		return startError(payload)
	}
	return fmt.Errorf("%w: kind %d in place of Started", stream.ErrFrame, kind)
}

// started takes up the counts of the agent.
func (r *run) started(payload []byte, received uint64) error {
	var msg agentv1.ExecStarted
	if err := unmarshal(payload, &msg); err != nil {
		return err
	}
	if err := r.in.resume(msg.StdinReceived); err != nil {
		return err
	}
	r.out.joined(received)
	if !r.joined && r.cmd.OnStart != nil {
		r.cmd.OnStart()
	}
	r.times.started(&msg)
	r.joined = true
	r.clock.run()
	return nil
}

func startError(payload []byte) error {
	var msg agentv1.ExecError
	if err := unmarshal(payload, &msg); err != nil {
		return err
	}
	return &StartError{Code: msg.Code, Message: msg.Message}
}

func unmarshal(payload []byte, msg proto.Message) error {
	if err := proto.Unmarshal(payload, msg); err != nil {
		return fmt.Errorf("%w: %v", stream.ErrFrame, err)
	}
	return nil
}

// read takes frames until the last one.
func (r *run) read(frames *stream.Reader) (Exit, error) {
	for {
		kind, payload, err := frames.Next()
		if err != nil {
			return Exit{}, err
		}
		switch kind {
		case stream.Stdout, stream.Stderr:
			r.out.put(kind, payload)
		case stream.Ack:
			var n uint64
			if n, err = stream.ParseAck(payload); err == nil {
				err = r.in.ack(n)
			}
		case stream.Exit:
			return r.exitOf(payload)
		case stream.Error:
			err = startError(payload)
		default:
			err = fmt.Errorf("%w: kind %d from the agent", stream.ErrFrame, kind)
		}
		if err != nil {
			return Exit{}, err
		}
	}
}

func (r *run) exitOf(payload []byte) (Exit, error) {
	var msg agentv1.ExecExit
	if err := unmarshal(payload, &msg); err != nil {
		return Exit{}, err
	}
	// An exit code has eight bits; a guest that says more must not turn its
	// failure into our success.
	if msg.Code < 0 || msg.Code > 255 {
		return Exit{}, fmt.Errorf("%w: exit code %d", stream.ErrFrame, msg.Code)
	}
	r.times.exited(&msg)
	if msg.TimeOver && r.cmd.TimeLimit > 0 {
		return Exit{Code: CodeTimeOver, TimeOver: true}, nil
	}
	return Exit{Code: int(msg.Code), Signal: int(msg.Signal)}, nil
}

// write sends what there is to send until done is closed or the connection
// breaks. Input goes from the ring to the socket without a copy.
func (r *run) write(conn net.Conn, done <-chan struct{}) error {
	var scratch [1 << 10]byte
	for {
		head := r.ctl.appendFrames(scratch[:0])
		if n, due := r.out.ackDue(); due {
			head = stream.AppendAck(head, n)
		}
		chunk, eof := r.in.next()
		if len(chunk) > 0 {
			head = binary.LittleEndian.AppendUint32(append(head, byte(stream.Stdin)), uint32(len(chunk)))
		}
		var tail []byte
		if eof {
			tail = stream.Append(nil, stream.StdinEOF, nil)
		}
		if len(head)+len(tail) == 0 {
			select {
			case <-r.wake:
				continue
			case <-done:
				return nil
			}
		}
		buffers := net.Buffers{head, chunk, tail}
		if _, err := buffers.WriteTo(conn); err != nil {
			return err
		}
	}
}
