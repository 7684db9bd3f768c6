package network

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// relay joins a connection of the guest to one of the host. Each side's end of
// stream, reset and slowness reach the other: a half-closed connection stays
// half open, and what one side does not read is not read from the other.
type relay struct {
	inside  endpoint
	outside *net.TCPConn
	buffers *buffers
	chunk   int // bytes in one step
	guest   *connection
	abort   sync.Once
}

// run returns when both directions have ended, or ctx has. Then the guest's
// side is closed; the caller closes outside.
func (r *relay) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, r.reset)
	incoming := make(chan struct{})
	go func() {
		defer close(incoming)
		if r.copyIn(ctx) != nil {
			cancel()
		}
	}()
	if r.copyOut(ctx) != nil {
		cancel()
	}
	<-incoming
	if !stop() {
		r.reset() // waits for the one that has begun
	}
	r.inside.Close()
}

// reset ends both connections as a reset.
func (r *relay) reset() {
	r.abort.Do(func() {
		_ = r.outside.SetLinger(0) // fails on a connection that is gone: then it is reset
		_ = r.outside.Close()
		r.inside.Abort()
	})
}

// copyOut carries what the guest sends until its end of stream.
func (r *relay) copyOut(ctx context.Context) error {
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	r.inside.queue.EventRegister(&entry)
	defer r.inside.queue.EventUnregister(&entry)
	for {
		err := r.stepOut()
		switch {
		case err == nil:
		case errors.Is(err, errWait):
			select {
			case <-readable:
			case <-ctx.Done():
				return ctx.Err()
			}
		case errors.Is(err, io.EOF):
			return r.endOut()
		default:
			return err
		}
	}
}

// endOut passes the guest's end of stream on.
func (r *relay) endOut() error {
	rest, err := r.guest.end()
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		if _, err := r.outside.Write(rest); err != nil {
			return err
		}
	}
	return r.outside.CloseWrite()
}

// errWait says that there is nothing to do now.
var errWait = errors.New("would block")

// stepOut copies once. It holds a buffer only while there is something in it.
func (r *relay) stepOut() error {
	buf := r.buffers.take(r.chunk)
	defer buf.give()
	into := tcpip.SliceWriter(buf.bytes)
	result, err := r.inside.Read(&into, tcpip.ReadOptions{})
	switch err.(type) {
	case nil:
		data := buf.bytes[:result.Count]
		if listener := r.guest.listener; listener != nil {
			var refused error
			if data, refused = listener.Pass(data); refused != nil || len(data) == 0 {
				return refused
			}
		}
		_, writeErr := r.outside.Write(data)
		return writeErr
	case *tcpip.ErrWouldBlock:
		return errWait
	case *tcpip.ErrClosedForReceive:
		return io.EOF
	}
	return errors.New(err.String())
}

// copyIn carries what the outside sends until its end of stream.
func (r *relay) copyIn(ctx context.Context) error {
	if r.guest.hold != nil {
		select {
		case <-r.guest.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	raw, err := r.outside.SyscallConn()
	if err != nil {
		return err
	}
	entry, writable := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	r.inside.queue.EventRegister(&entry)
	defer r.inside.queue.EventUnregister(&entry)
	for {
		buf, count, err := r.buffers.read(raw, r.chunk)
		if err != nil {
			return err
		}
		if count == 0 {
			if err := r.inside.Shutdown(tcpip.ShutdownWrite); err != nil {
				return errors.New(err.String())
			}
			return nil
		}
		err = r.writeIn(ctx, buf.bytes[:count], writable)
		buf.give()
		if err != nil {
			return err
		}
	}
}

// writeIn gives the guest all of data, as fast as it takes it.
func (r *relay) writeIn(ctx context.Context, data []byte, writable <-chan struct{}) error {
	rest := bytes.NewReader(data)
	for rest.Len() > 0 {
		_, err := r.inside.Write(rest, tcpip.WriteOptions{})
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			select {
			case <-writable:
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			return errors.New(err.String())
		}
	}
	return nil
}
