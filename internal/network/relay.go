package network

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"github.com/banger-dev/banger/internal/policy"
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
		err := r.stepOut(ctx)
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
func (r *relay) stepOut(ctx context.Context) error {
	buf := r.buffers.take(r.chunk)
	defer buf.give()
	into := tcpip.SliceWriter(buf.bytes)
	result, err := r.inside.Read(&into, tcpip.ReadOptions{})
	switch err.(type) {
	case nil:
		return r.sendOut(ctx, buf.bytes[:result.Count])
	case *tcpip.ErrWouldBlock:
		return errWait
	case *tcpip.ErrClosedForReceive:
		return io.EOF
	}
	return errors.New(err.String())
}

// sendOut passes on what of the guest's bytes may go, and waits for the server's
// word where it is to confirm what they are.
func (r *relay) sendOut(ctx context.Context, data []byte) error {
	listener := r.guest.listener
	if listener != nil {
		var err error
		if data, err = listener.Pass(data); err != nil || len(data) == 0 {
			return err
		}
	}
	if _, err := r.outside.Write(data); err != nil {
		return err
	}
	if listener == nil || listener.Awaits() == policy.Unheard {
		return nil
	}
	waited, err := r.guest.confirm(ctx)
	if err != nil || len(waited) == 0 {
		return err
	}
	_, err = r.outside.Write(waited)
	return err
}

// copyIn carries what the outside sends until its end of stream.
func (r *relay) copyIn(ctx context.Context) error {
	raw, err := r.outside.SyscallConn()
	if err != nil {
		return err
	}
	entry, writable := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	r.inside.queue.EventRegister(&entry)
	defer r.inside.queue.EventUnregister(&entry)
	if r.guest.hold != nil {
		if err := r.firstIn(ctx, raw, writable); err != nil {
			return err
		}
	}
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

// firstIn waits until the guest has said what the connection is for, and the server
// that it is that.
func (r *relay) firstIn(ctx context.Context, raw syscall.RawConn, writable <-chan struct{}) error {
	select {
	case <-r.guest.hold:
	case <-ctx.Done():
		return ctx.Err()
	}
	var first []byte
	for enough := false; !enough; {
		buf, count, err := r.buffers.read(raw, r.chunk)
		if err != nil {
			return err
		}
		if count > 0 {
			first = append(first, buf.bytes[:count]...)
			buf.give()
		}
		if enough, err = r.guest.serverBegins(first, count == 0); err != nil {
			return err
		}
		if count == 0 {
			break // what follows reads the end of stream once more
		}
	}
	return r.writeIn(ctx, first, writable)
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
