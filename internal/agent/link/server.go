package link

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"time"

	"github.com/banger-dev/banger/internal/linkwire"
	"github.com/libp2p/go-yamux/v5"
)

// readBuffer is the size of the buffer between the data port and its reader.
const readBuffer = 64 << 10

// Handler is what a guest does with its sessions.
type Handler interface {
	// Boot takes the payload of a doorbell, which may be empty. It is called
	// while there is no session.
	Boot(payload []byte)
	// Started is called when a session has started.
	Started()
	// Stream serves one stream and closes it. broken reports whether the stream
	// failed because its session ended, and not because the host closed it.
	Stream(conn net.Conn, port uint32, broken func() bool)
}

// Server answers doorbells on ctl with sessions on data.
type Server struct {
	ctl, data Channel
	in        *bufio.Reader
	handler   Handler
	log       *slog.Logger
	// bells holds the newest doorbell that has not been answered yet: an
	// older one has been given up by the host.
	bells chan linkwire.Doorbell
	// goroutines serve streams; they end soon after their session.
	goroutines sync.WaitGroup
}

// NewServer returns a server for two open channels, which it closes when it is
// done.
func NewServer(ctl, data Channel, h Handler, log *slog.Logger) *Server {
	return &Server{
		ctl: ctl, data: data,
		in:      bufio.NewReaderSize(data, readBuffer),
		handler: h, log: log,
		bells: make(chan linkwire.Doorbell, 1),
	}
}

// Serve answers doorbells until ctx ends or ctl fails. It returns when all
// streams are done.
func (s *Server) Serve(ctx context.Context) error {
	listening := make(chan error, 1)
	go func() { listening <- s.listen() }()
	var present *session
	defer func() {
		present.end()
		s.goroutines.Wait()
		s.ctl.Close()
		s.data.Close()
	}()
	for {
		select {
		case <-ctx.Done():
			s.ctl.SetDeadline(time.Unix(1, 0))
			<-listening
			return context.Cause(ctx)
		case err := <-listening:
			return fmt.Errorf("guest link: ctl channel: %w", err)
		case bell := <-s.bells:
			present.end()
			present = s.answer(ctx, bell)
		}
	}
}

// listen reads ctl. It only ever returns an error.
func (s *Server) listen() error {
	var scanner linkwire.Scanner
	buf := make([]byte, 16<<10)
	for {
		n, err := s.ctl.Read(buf)
		if err != nil {
			return err
		}
		scanner.Write(buf[:n])
		for bell, ok := scanner.Next(); ok; bell, ok = scanner.Next() {
			if bell.Kind == linkwire.KindReset || bell.Kind == linkwire.KindEnd {
				s.put(bell)
			}
		}
	}
}

// put replaces a doorbell that nobody has answered yet. listen is the only one
// that puts.
func (s *Server) put(bell linkwire.Doorbell) {
	select {
	case <-s.bells:
	default:
	}
	s.bells <- bell
}

// answer follows the reset protocol for bell, or for a newer one that comes
// meanwhile, and starts a session; nil if there is none.
func (s *Server) answer(ctx context.Context, bell linkwire.Doorbell) *session {
	for {
		agree := s.exchange
		if bell.Kind == linkwire.KindEnd {
			agree = s.confirm
		} else {
			s.handler.Boot(bell.Payload)
		}
		done := make(chan error, 1)
		s.data.SetDeadline(time.Time{})
		go func(n linkwire.Nonce) { done <- agree(n) }(bell.Nonce)
		select {
		case err := <-done:
			if err != nil {
				s.log.Warn("guest link reset failed", "cause", err)
				return nil
			}
			if bell.Kind == linkwire.KindEnd {
				return nil
			}
			return s.start()
		case bell = <-s.bells:
			s.evict(done)
		case <-ctx.Done():
			s.evict(done)
			return nil
		}
	}
}

// evict ends an exchange.
func (s *Server) evict(done <-chan error) {
	s.data.SetDeadline(time.Unix(1, 0))
	<-done
}

// confirm says that the session of n has ended.
func (s *Server) confirm(n linkwire.Nonce) error {
	_, err := s.data.Write(linkwire.Preamble(n))
	return err
}

// exchange writes the preamble of n and discards until it comes back.
func (s *Server) exchange(n linkwire.Nonce) error {
	if _, err := s.data.Write(linkwire.Preamble(n)); err != nil {
		return err
	}
	// Whatever has been read before the preamble was written is stale.
	s.in.Reset(s.data)
	return linkwire.SkipTo(s.in, n, math.MaxInt64)
}

// start begins a session; nil if that is not possible.
func (s *Server) start() *session {
	mux, err := yamux.Server(&muxConn{data: s.data, in: s.in}, muxConfig(), nil)
	if err != nil {
		s.log.Error("guest link session failed", "cause", err)
		return nil
	}
	present := &session{mux: mux, handler: s.handler, log: s.log, goroutines: &s.goroutines}
	s.goroutines.Go(present.accept)
	s.handler.Started()
	return present
}
