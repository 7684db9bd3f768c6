package cli

import (
	"context"
	"os"
	"sync"
	"syscall"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/client/guestexec"
)

// phase is what a signal means now.
type phase int

const (
	// working: the first one cancels, the second ends the process at once.
	working phase = iota
	// commanding: signals are the guest command's.
	commanding
	// leaving: the first is ignored, as there is only cleaning up to do.
	leaving
)

// signals is the one place that signals of this process come to.
type signals struct {
	app    *App
	cancel context.CancelCauseFunc
	ch     chan os.Signal
	done   chan struct{}
	owner  sync.WaitGroup
	stop   func()

	mu      sync.Mutex
	phase   phase
	count   int
	forward chan syscall.Signal
	resize  chan guestexec.Size
}

// maxPending bounds the signals that wait to be forwarded.
const maxPending = 64

// watchSignals starts to handle signals; the context is cancelled by the first.
func (a *App) watchSignals(ctx context.Context) (context.Context, *signals) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &signals{app: a, cancel: cancel, ch: make(chan os.Signal, maxPending), done: make(chan struct{}),
		forward: make(chan syscall.Signal, maxPending), resize: make(chan guestexec.Size, 1)}
	s.stop = a.Notify(s.ch)
	s.owner.Go(func() {
		for {
			select {
			case sig := <-s.ch:
				s.handle(sig)
			case <-s.done:
				return
			}
		}
	})
	return ctx, s
}

// close stops handling signals.
func (s *signals) close() {
	s.stop()
	close(s.done)
	s.owner.Wait()
	s.cancel(nil)
}

func (s *signals) handle(sig os.Signal) {
	number, ok := sig.(syscall.Signal)
	if !ok || number == syscall.SIGPIPE {
		return // a write to a closed pipe returns an error of its own
	}
	if number == syscall.SIGWINCH {
		s.sizeChanged()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == commanding {
		select {
		case s.forward <- number:
		default:
		}
		return
	}
	if number == syscall.SIGUSR1 || number == syscall.SIGUSR2 || number == syscall.SIGALRM {
		return // they are for a guest's command, and there is none
	}
	if s.count++; s.count > 1 {
		s.app.IO.Restore()
		s.app.HardExit(banger.CodeInterrupted.ExitCode())
		return
	}
	if s.phase == working {
		s.cancel(errInterrupted())
	}
}

func errInterrupted() error {
	return &banger.Error{Code: banger.CodeInterrupted, Message: "interrupted", Cause: context.Canceled}
}

// sizeChanged passes the newest size on.
func (s *signals) sizeChanged() {
	cols, rows := s.app.IO.Size()
	select {
	case <-s.resize:
	default:
	}
	select {
	case s.resize <- guestexec.Size{Rows: rows, Cols: cols}:
	default:
	}
}

// enter changes what signals mean. It reports false if one has already
// cancelled the work.
func (s *signals) enter(next phase) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next == commanding && s.count > 0 {
		return false
	}
	if next == leaving {
		s.count = 0
	}
	s.phase = next
	return true
}
