package daemontest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/api/vm/v1/vmv1connect"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
	"github.com/banger-dev/banger/internal/process"
	"github.com/banger-dev/banger/internal/unixsock"
)

// The beginning of a VM's name says how it behaves; any other is ready at once.
const (
	// Hang never gets an agent, AgentOnly never settles.
	Hang, AgentOnly = "hang", "agentonly"
	// Dies loses its VMM before its agent answers, NoStart has none.
	Dies, NoStart = "dies", "nostart"
	// Degraded has a unit that failed.
	Degraded = "degraded"
	// Unforkable boots where it should be restored.
	Unforkable = "unforkable"
	// Stubborn does not answer Kill and Stop.
	Stubborn = "stubborn"
)

// GuestSays is on the console of every VM.
const GuestSays = "hello from the console"

// vmmLife is the longest that a VMM lives if a test forgets it.
const vmmLife = 5 * time.Minute

// VMM is the fake VMM: it does nothing until it is killed.
func VMM() { <-time.After(vmmLife) }

// supervisor is the fake one.
type supervisor struct {
	dir  layout.Instance
	spec *vmv1.Spec
	vmm  *process.Handle

	mu      sync.Mutex
	now     *vmv1.StatusResponse
	changed chan struct{}
	wanted  bool
	// claims takes the spec that a spare is claimed with, claimed its answer.
	claims  chan *vmv1.Spec
	claimed chan error
}

// Supervise is banger-vm run [--adopt | --spare] DIR.
func Supervise(args []string) error {
	adopt, spare := args[0] == "--adopt", args[0] == "--spare"
	dir := layout.Instance(args[len(args)-1])
	lock, err := lockfile.Try(dir.SupervisorLock())
	if err != nil || lock == nil {
		return fmt.Errorf("the lock is taken: %v", err)
	}
	defer lock.Release()
	data, err := os.ReadFile(dir.Spec())
	if err != nil {
		return err
	}
	s := &supervisor{
		dir: dir, spec: new(vmv1.Spec), changed: make(chan struct{}),
		claims: make(chan *vmv1.Spec), claimed: make(chan error),
	}
	if err := protojson.Unmarshal(data, s.spec); err != nil {
		return err
	}
	s.now = &vmv1.StatusResponse{
		Id: s.spec.Id, State: "starting", Pid: int32(os.Getpid()), Successor: adopt, StartedUnixMs: time.Now().UnixMilli(),
	}
	l, err := unixsock.Listen(dir.Socket())
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(vmv1connect.NewSupervisorHandler(s))
	server := &http.Server{Handler: mux}
	go server.Serve(unixsock.OwnerOnly(l))
	if spare {
		err = s.runSpare()
	} else {
		err = s.run(adopt)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	server.Shutdown(ctx)
	return err
}

func (s *supervisor) behaves(how string) bool { return strings.HasPrefix(s.spec.Name, how) }

func (s *supervisor) run(adopt bool) error {
	if s.behaves(NoStart) {
		return s.finish("no such machine", true)
	}
	pid, err := s.bringUp(adopt)
	if err != nil {
		return s.finish(err.Error(), true)
	}
	if s.vmm, err = process.Open(pid); err != nil {
		return s.finish("the VMM is gone", true)
	}
	s.set(func(now *vmv1.StatusResponse) {
		now.State, now.VmmPid, now.Driver, now.Accel = s.state(), int32(pid), s.spec.Driver, s.spec.Accel
		now.Confinement = []string{"nothing"}
		now.PolicyRevision = s.spec.PolicyRevision
		if !adopt {
			now.Origin, now.TemplateError = s.restore()
		}
	})
	s.boot()
	return s.followVMM()
}

// state is how the guest goes on under a successor.
func (s *supervisor) state() string {
	if _, err := os.Stat(s.dir.Paused()); err == nil {
		return "paused"
	}
	return "running"
}

// followVMM waits for the end of the VMM.
func (s *supervisor) followVMM() error {
	s.vmm.Wait(context.Background())
	s.mu.Lock()
	wanted := s.wanted
	s.mu.Unlock()
	if wanted {
		return s.finish("guest powered off", false)
	}
	return s.finish("killed by signal 9", true)
}

// boot lets the guest get as far as its name says.
func (s *supervisor) boot() {
	if s.behaves(Hang) {
		return
	}
	if s.behaves(Dies) {
		s.vmm.Kill()
		return
	}
	s.set(func(now *vmv1.StatusResponse) { now.Ready = "agent" })
	if s.behaves(AgentOnly) {
		return
	}
	s.set(func(now *vmv1.StatusResponse) {
		now.Ready = "system"
		if s.behaves(Degraded) {
			now.FailedUnits = []string{"broken.service"}
		}
	})
}

// bringUp starts the VMM, or finds the one of a supervisor that crashed.
func (s *supervisor) bringUp(adopt bool) (int, error) {
	if adopt {
		h, err := readHandle(s.dir.VMM())
		return h.PID, err
	}
	cmd := exec.Command(s.spec.VmmBin, s.dir.Dir())
	cmd.Dir = s.dir.Dir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go cmd.Wait()
	start, err := process.StartTime(cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	h := handle{Driver: "fake", PID: cmd.Process.Pid, StartTime: start, BootID: process.BootID()}
	text := layout.BootMark + "now\n" + GuestSays + "\n"
	return h.PID, errors.Join(write(s.dir.VMM(), h), os.WriteFile(s.dir.Console(), []byte(text), 0o600))
}

func write(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(path), layout.TempPrefix+filepath.Base(path))
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// finish writes how it ended, and tells it.
func (s *supervisor) finish(reason string, failed bool) error {
	err := write(s.dir.Exit(), map[string]any{"reason": reason, "failed": failed, "clean": !failed, "time": time.Now().UTC()})
	os.Remove(s.dir.VMM())
	os.Remove(s.dir.Paused())
	s.set(func(now *vmv1.StatusResponse) {
		now.State, now.Reason, now.Failed, now.Ready = "stopped", reason, failed, ""
	})
	return err
}

func (s *supervisor) set(change func(*vmv1.StatusResponse)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := proto.CloneOf(s.now)
	change(next)
	s.now = next
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *supervisor) look() (*vmv1.StatusResponse, chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.changed
}

// Status implements vmv1connect.SupervisorHandler.
func (s *supervisor) Status(context.Context, *connect.Request[vmv1.StatusRequest]) (*connect.Response[vmv1.StatusResponse], error) {
	now, _ := s.look()
	return connect.NewResponse(now), nil
}

// Watch implements vmv1connect.SupervisorHandler.
func (s *supervisor) Watch(ctx context.Context, _ *connect.Request[vmv1.WatchRequest], out *connect.ServerStream[vmv1.StatusResponse]) error {
	for {
		now, changed := s.look()
		if err := out.Send(now); err != nil || now.State == "stopped" {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// SetPolicy implements vmv1connect.SupervisorHandler.
func (s *supervisor) SetPolicy(_ context.Context, r *connect.Request[vmv1.SetPolicyRequest]) (*connect.Response[vmv1.SetPolicyResponse], error) {
	s.set(func(now *vmv1.StatusResponse) { now.PolicyRevision = max(now.PolicyRevision, r.Msg.Revision) })
	return connect.NewResponse(&vmv1.SetPolicyResponse{}), nil
}

// Refusals implements vmv1connect.SupervisorHandler: one for each revision.
func (s *supervisor) Refusals(context.Context, *connect.Request[vmv1.RefusalsRequest]) (*connect.Response[vmv1.RefusalsResponse], error) {
	now, _ := s.look()
	return connect.NewResponse(&vmv1.RefusalsResponse{Refused: map[string]uint64{"rule": uint64(now.PolicyRevision)}}), nil
}

// Stop implements vmv1connect.SupervisorHandler.
func (s *supervisor) Stop(ctx context.Context, _ *connect.Request[vmv1.StopRequest]) (*connect.Response[vmv1.StopResponse], error) {
	s.set(func(now *vmv1.StatusResponse) { now.State = "stopping" })
	return connect.NewResponse(&vmv1.StopResponse{Clean: true}), s.end(ctx)
}

// Pause implements vmv1connect.SupervisorHandler.
func (s *supervisor) Pause(context.Context, *connect.Request[vmv1.PauseRequest]) (*connect.Response[vmv1.PauseResponse], error) {
	err := os.WriteFile(s.dir.Paused(), nil, 0o600)
	s.set(func(now *vmv1.StatusResponse) { now.State = "paused" })
	return connect.NewResponse(&vmv1.PauseResponse{}), err
}

// Resume implements vmv1connect.SupervisorHandler.
func (s *supervisor) Resume(context.Context, *connect.Request[vmv1.ResumeRequest]) (*connect.Response[vmv1.ResumeResponse], error) {
	err := os.Remove(s.dir.Paused())
	s.set(func(now *vmv1.StatusResponse) { now.State = "running" })
	return connect.NewResponse(&vmv1.ResumeResponse{}), err
}

// Signal implements vmv1connect.SupervisorHandler: its guest takes SIGTERM for the
// power button, and dislikes any other.
func (s *supervisor) Signal(ctx context.Context, r *connect.Request[vmv1.SignalRequest]) (*connect.Response[vmv1.SignalResponse], error) {
	if r.Msg.Signal != int32(syscall.SIGTERM) {
		return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("no taste for signal %d", r.Msg.Signal))
	}
	return connect.NewResponse(&vmv1.SignalResponse{}), s.end(ctx)
}

// Grow implements vmv1connect.SupervisorHandler.
func (s *supervisor) Grow(_ context.Context, r *connect.Request[vmv1.GrowRequest]) (*connect.Response[vmv1.GrowResponse], error) {
	path := s.dir.Work()
	if r.Msg.Disk == "overlay" {
		path = s.dir.Overlay()
	}
	return connect.NewResponse(&vmv1.GrowResponse{}), os.Truncate(path, r.Msg.Bytes)
}

// Health implements vmv1connect.SupervisorHandler.
func (s *supervisor) Health(context.Context, *connect.Request[vmv1.HealthRequest]) (*connect.Response[vmv1.HealthResponse], error) {
	return connect.NewResponse(&vmv1.HealthResponse{LatencyUs: 1, Init: "none", Ready: "system"}), nil
}

// Stats implements vmv1connect.SupervisorHandler.
func (s *supervisor) Stats(context.Context, *connect.Request[vmv1.StatsRequest]) (*connect.Response[vmv1.StatsResponse], error) {
	return connect.NewResponse(&vmv1.StatsResponse{GuestError: "there is no guest"}), nil
}

// Kill implements vmv1connect.SupervisorHandler.
func (s *supervisor) Kill(ctx context.Context, _ *connect.Request[vmv1.KillRequest]) (*connect.Response[vmv1.KillResponse], error) {
	return connect.NewResponse(&vmv1.KillResponse{}), s.end(ctx)
}

func (s *supervisor) end(ctx context.Context) error {
	if s.behaves(Stubborn) {
		<-ctx.Done()
		return ctx.Err()
	}
	s.mu.Lock()
	s.wanted = true
	s.mu.Unlock()
	if err := s.vmm.Kill(); err != nil {
		return err
	}
	return s.vmm.Wait(ctx)
}
