package daemontest

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/process"
)

const (
	// Unclaimable is the beginning of the name of a VM that no spare becomes.
	Unclaimable = "unclaimable"
	// SpareVar is an environment variable that says how spares behave: SpareFails
	// to be made, or any other way they wait.
	SpareVar = "BANGER_TEST_SPARE"
	// SpareFails is a value of SpareVar.
	SpareFails = "fails"
	// PointClaimWritten is a fault point that a supervisor passes when a spare has
	// become somebody's.
	PointClaimWritten = "claim.written"
)

// runSpare makes a spare that waits until it is claimed or its owner lets go.
func (s *supervisor) runSpare() error {
	boot := new(agentv1.Boot)
	if err := proto.Unmarshal(s.spec.Boot, boot); err != nil {
		return err
	}
	if _, err := os.Stat(s.dir.Spare()); err != nil || !boot.Template || len(boot.SshHostKey) > 0 || s.spec.Nat {
		return s.finish("the spec of a spare is somebody's, or it is not marked", true)
	}
	if os.Getenv(SpareVar) == SpareFails {
		return s.finish("this host has no spares", true)
	}
	pid, err := s.bringUp(false)
	if err != nil {
		return s.finish(err.Error(), true)
	}
	if s.vmm, err = process.Open(pid); err != nil {
		return s.finish("the VMM is gone", true)
	}
	s.set(func(now *vmv1.StatusResponse) { now.State, now.VmmPid = "spare", int32(pid) })
	unowned := make(chan struct{})
	go func() { io.Copy(io.Discard, os.Stdin); close(unowned) }()
	select {
	case spec := <-s.claims:
		err := s.become(spec, pid)
		s.claimed <- err
		if err == nil {
			return s.followVMM()
		}
	case <-unowned:
	}
	return errors.Join(s.vmm.Kill(), s.vmm.Wait(context.Background()), s.finish("unclaimed", true))
}

// become makes the spare the VM of spec.
func (s *supervisor) become(spec *vmv1.Spec, pid int) error {
	if spec.Id != s.spec.Id || strings.HasPrefix(spec.Name, Unclaimable) {
		return errors.New("this VM cannot be claimed")
	}
	data, err := protojson.Marshal(spec)
	if err == nil {
		err = os.WriteFile(s.dir.Spec(), data, 0o600)
	}
	if err == nil {
		err = fault.Point(PointClaimWritten, pid)
	}
	if err == nil {
		err = os.Remove(s.dir.Spare())
	}
	s.spec = spec
	s.set(func(now *vmv1.StatusResponse) {
		now.State, now.Driver, now.Accel, now.Ready, now.Origin = "running", spec.Driver, spec.Accel, "system", "spare"
		now.Confinement = []string{"nothing"}
	})
	return err
}

// Claim implements vmv1connect.SupervisorHandler.
func (s *supervisor) Claim(ctx context.Context, r *connect.Request[vmv1.ClaimRequest]) (*connect.Response[vmv1.ClaimResponse], error) {
	select {
	case s.claims <- r.Msg.Spec:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := <-s.claimed; err != nil {
		return nil, err
	}
	now, _ := s.look()
	return connect.NewResponse(&vmv1.ClaimResponse{Status: now}), nil
}
