// Package service is the Agent service of banger.agent.v1, served with ttrpc,
// and the watch on how ready the guest is.
package service

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/agent/boot"
	"github.com/banger-dev/banger/internal/agent/disks"
	"github.com/banger-dev/banger/internal/agent/identity"
	"github.com/banger-dev/banger/internal/agent/listen"
	"github.com/banger-dev/banger/internal/agent/usage"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// answerFirst is the time that the answer to Shutdown has to leave: a VM in which
// nothing runs is gone at once.
const answerFirst = 100 * time.Millisecond

// askAgain is how often PID 1 is asked to end the VM: a signal that comes while
// it becomes systemd is lost.
const askAgain = 2 * time.Second

// growTime bounds the growth of a file system. The kernel writes a few blocks for
// each 128 MiB: a second for each TiB, many times that under emulation.
const growTime = 5 * time.Minute

// maxSignal is Linux's SIGRTMAX.
const maxSignal = 64

// Service implements agentv1.AgentService.
type Service struct {
	init string
	warm func(ctx context.Context, brief bool) error
	// random takes the host's entropy.
	random *identity.Random
	// template is true while the guest belongs to nobody.
	template atomic.Bool
	log      *slog.Logger
	ready    *readiness
	// ask sends a signal to PID 1.
	ask func(syscall.Signal) error

	ctx        context.Context
	cancel     context.CancelFunc
	goroutines sync.WaitGroup
	stopping   sync.Once
	conns      chan net.Conn
}

var _ agentv1.AgentService = (*Service)(nil)

// Options are what a Service needs.
type Options struct {
	// Init is the guest's: boot.Systemd or boot.None.
	Init string
	// Warm runs the exercise of a template, or the brief one of its copies.
	Warm func(ctx context.Context, brief bool) error
	// Random takes the host's entropy.
	Random *identity.Random
	Log    *slog.Logger
}

// New returns the service of a guest. It ends with ctx; Wait returns when it
// has.
func New(ctx context.Context, o Options) (*Service, error) {
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	s := &Service{
		init: o.Init, warm: o.Warm, random: o.Random, log: o.Log, ready: newReadiness(),
		ask:   func(sig syscall.Signal) error { return syscall.Kill(1, sig) },
		conns: make(chan net.Conn),
	}
	s.ctx, s.cancel = context.WithCancel(ctx)
	agentv1.RegisterAgentService(server, s)
	s.goroutines.Go(func() {
		if err := server.Serve(s.ctx, listener{s}); err != nil && s.ctx.Err() == nil {
			s.log.Error("agent service ended", "cause", err)
		}
		server.Close()
	})
	return s, nil
}

// SetTemplate says whether the guest is a template, which belongs to nobody and
// takes only Info, Events and Warm.
func (s *Service) SetTemplate(is bool) { s.template.Store(is) }

// owned refuses a call of a template.
func (s *Service) owned() error {
	if s.template.Load() {
		return status.Error(codes.FailedPrecondition, "this guest is a template")
	}
	return nil
}

// Warm implements agentv1.AgentService.
func (s *Service) Warm(ctx context.Context, req *agentv1.WarmRequest) (*agentv1.WarmResponse, error) {
	if !s.template.Load() {
		return nil, status.Error(codes.FailedPrecondition, "this guest is not a template")
	}
	if err := s.warm(ctx, req.GetBrief()); err != nil {
		return nil, status.Errorf(codes.Internal, "warm: %v", err)
	}
	if !req.GetBrief() { // what is frozen next is on its disks
		unix.Sync()
	}
	return &agentv1.WarmResponse{}, nil
}

// Identified says that PID 1 goes on now: the system's readiness is watched
// from here.
func (s *Service) Identified() {
	s.goroutines.Go(func() {
		state := systemState{word: "running"}
		if s.init == boot.Systemd {
			state = waitSystemd(s.ctx, s.log)
		}
		if s.ctx.Err() == nil {
			s.ready.reach(state)
		}
	})
}

// Wait ends the service and returns when its goroutines are done.
func (s *Service) Wait() {
	s.cancel()
	s.goroutines.Wait()
}

// Serve serves one connection. It returns at once; the connection is closed
// when the client has left.
func (s *Service) Serve(conn net.Conn) {
	select {
	case s.conns <- rpcConn{conn}:
	case <-s.ctx.Done():
		conn.Close()
	}
}

// Info implements agentv1.AgentService.
func (s *Service) Info(context.Context, *agentv1.InfoRequest) (*agentv1.InfoResponse, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, status.Errorf(codes.Internal, "uname: %v", err)
	}
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, status.Errorf(codes.Internal, "boot id: %v", err)
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &up); err != nil {
		return nil, status.Errorf(codes.Internal, "clock: %v", err)
	}
	event, _ := s.ready.present()
	return &agentv1.InfoResponse{
		Build:  banger.BuildStamp().String(),
		Kernel: unix.ByteSliceToString(name.Release[:]),
		Init:   s.init,
		Ready:  event.Ready,
		BootId: strings.TrimSpace(string(bootID)),
		Pid:    int32(os.Getpid()),

		UptimeMs: up.Nano() / int64(time.Millisecond),
	}, nil
}

// Events implements agentv1.AgentService.
func (s *Service) Events(ctx context.Context, _ *agentv1.EventsRequest, out agentv1.Agent_EventsServer) error {
	for {
		event, changed := s.ready.present()
		if err := out.Send(event); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// Listeners implements agentv1.AgentService.
func (s *Service) Listeners(ctx context.Context, _ *agentv1.ListenersRequest, out agentv1.Agent_ListenersServer) error {
	if err := s.owned(); err != nil {
		return err
	}
	if err := listen.NewWatcher().Run(ctx, out.Send); ctx.Err() == nil {
		return status.Errorf(codes.Internal, "listening sockets: %v", err)
	}
	return nil
}

// Shutdown implements agentv1.AgentService.
func (s *Service) Shutdown(_ context.Context, req *agentv1.ShutdownRequest) (*agentv1.ShutdownResponse, error) {
	if err := s.owned(); err != nil {
		return nil, err
	}
	sig := stopSignal(s.init, req.GetReboot())
	s.stopping.Do(func() {
		s.goroutines.Go(func() { s.keepAsking(sig) })
	})
	return &agentv1.ShutdownResponse{}, nil
}

// keepAsking sends the signal to PID 1 until the VM ends.
func (s *Service) keepAsking(sig syscall.Signal) {
	timer := time.NewTimer(answerFirst)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-timer.C:
			if err := s.ask(sig); err != nil {
				s.log.Error("cannot ask PID 1 to stop", "cause", err)
			}
			timer.Reset(askAgain)
		}
	}
}

func stopSignal(init string, reboot bool) syscall.Signal {
	switch {
	case init == boot.Systemd && reboot:
		return boot.SystemdRebootSignal
	case init == boot.Systemd:
		return boot.SystemdPowerOffSignal
	case reboot:
		return boot.RebootSignal
	}
	return boot.PowerOffSignal
}

// Signal implements agentv1.AgentService.
func (s *Service) Signal(_ context.Context, req *agentv1.SignalRequest) (*agentv1.SignalResponse, error) {
	if err := s.owned(); err != nil {
		return nil, err
	}
	sig := syscall.Signal(req.GetSignal())
	if sig < 1 || sig > maxSignal || sig == syscall.SIGKILL || sig == syscall.SIGSTOP {
		return nil, status.Errorf(codes.InvalidArgument, "process 1 gets no signal %d", sig)
	}
	if err := s.ask(sig); err != nil {
		return nil, status.Errorf(codes.Internal, "signal %d to process 1: %v", sig, err)
	}
	return &agentv1.SignalResponse{}, nil
}

// Grow implements agentv1.AgentService.
func (s *Service) Grow(ctx context.Context, req *agentv1.GrowRequest) (*agentv1.GrowResponse, error) {
	if err := s.owned(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, growTime)
	defer cancel()
	if err := disks.Grow(ctx, req.GetDisk(), req.GetBytes()); err != nil {
		return nil, status.Errorf(codes.Internal, "%v", err)
	}
	return &agentv1.GrowResponse{}, nil
}

// Usage implements agentv1.AgentService.
func (s *Service) Usage(context.Context, *agentv1.UsageRequest) (*agentv1.UsageResponse, error) {
	if err := s.owned(); err != nil {
		return nil, err
	}
	used, err := usage.Read()
	if err != nil {
		return nil, status.Errorf(codes.Internal, "usage: %v", err)
	}
	return used, nil
}

// Tune implements agentv1.AgentService.
func (s *Service) Tune(_ context.Context, req *agentv1.TuneRequest) (*agentv1.TuneResponse, error) {
	if err := s.owned(); err != nil {
		return nil, err
	}
	if len(req.Entropy) > 0 {
		if err := s.random.AddEntropy(req.Entropy); err != nil {
			return nil, status.Errorf(codes.Internal, "entropy: %v", err)
		}
	}
	if req.TimeUnixNs > 0 {
		if err := identity.SetClock(time.Unix(0, req.TimeUnixNs)); err != nil {
			return nil, status.Errorf(codes.Internal, "clock: %v", err)
		}
	}
	return &agentv1.TuneResponse{}, nil
}
