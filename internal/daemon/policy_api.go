package daemon

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/logfile"
	"github.com/banger-dev/banger/internal/policy"
	"github.com/banger-dev/banger/internal/policy/suggest"
)

// countTime bounds the question to a supervisor how much it refused.
const countTime = 2 * time.Second

// maxPolicyLog bounds what is read of each file of a log, in bytes.
const maxPolicyLog = 8 << 20

func (a api) GetPolicy(ctx context.Context, req *connect.Request[bangerv1.GetPolicyRequest]) (*connect.Response[bangerv1.GetPolicyResponse], error) {
	out, err := a.d.getPolicy(ctx, req.Msg.Ref)
	return connect.NewResponse(out), err
}

func (a api) SetPolicy(ctx context.Context, req *connect.Request[bangerv1.SetPolicyRequest]) (*connect.Response[bangerv1.SetPolicyResponse], error) {
	out, err := a.d.setPolicy(ctx, req.Msg)
	return connect.NewResponse(out), err
}

func (a api) CheckPolicy(_ context.Context, req *connect.Request[bangerv1.CheckPolicyRequest]) (*connect.Response[bangerv1.CheckPolicyResponse], error) {
	out, err := a.d.checkPolicy(req.Msg)
	return connect.NewResponse(out), err
}

// getPolicy is a VM's policy, with what its supervisor counted.
func (d *Daemon) getPolicy(ctx context.Context, ref string) (*bangerv1.GetPolicyResponse, error) {
	m, err := d.resolve(ref)
	if err != nil {
		return nil, err
	}
	now := m.look()
	rules, err := policy.Unmarshal(now.rec.Policy)
	if err != nil {
		return nil, err
	}
	out := &bangerv1.GetPolicyResponse{Vm: now.proto(m.dir), Policy: shownPolicy(rules)}
	if now.client == nil || !underPolicy(now.status) {
		return out, nil
	}
	out.InForce = now.status.PolicyRevision == now.rec.PolicyRevision
	ctx, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	// What is not counted is no reason not to show the policy.
	if counted, err := now.client.Refusals(ctx, connect.NewRequest(&vmv1.RefusalsRequest{})); err == nil {
		out.Refused, out.WouldRefuse = counted.Msg.Refused, counted.Msg.WouldRefuse
	}
	return out, nil
}

// checkPolicy decides a connection by a VM's policy and this host's config.
func (d *Daemon) checkPolicy(req *bangerv1.CheckPolicyRequest) (*bangerv1.CheckPolicyResponse, error) {
	m, err := d.resolve(req.Ref)
	if err != nil {
		return nil, err
	}
	gate, err := d.gate(m)
	if err != nil {
		return nil, err
	}
	v, err := gate.Check(req.Target)
	if err != nil {
		return nil, err
	}
	return &bangerv1.CheckPolicyResponse{Allow: v.Allow && !v.WouldRefuse, Rule: v.Rule, Reason: string(v.Reason)}, nil
}

func (a api) SuggestPolicy(_ context.Context, req *connect.Request[bangerv1.SuggestPolicyRequest]) (*connect.Response[bangerv1.SuggestPolicyResponse], error) {
	out, err := a.d.suggestPolicy(req.Msg.Ref)
	return connect.NewResponse(out), err
}

// suggestPolicy learns from a VM's log.
func (d *Daemon) suggestPolicy(ref string) (*bangerv1.SuggestPolicyResponse, error) {
	m, err := d.resolve(ref)
	if err != nil {
		return nil, err
	}
	rec := m.look().rec
	known, err := policy.Unmarshal(rec.Policy)
	if err != nil {
		return nil, err
	}
	known.AllowRest = known.AllowRest && !known.IsOpen()
	learner := suggest.New()
	for _, path := range []string{m.dir.PolicyLog() + logfile.Old, m.dir.PolicyLog()} {
		if err := learnFrom(learner, path); err != nil {
			return nil, m.errorf(banger.CodeFailed, "has a log of its policy that cannot be read: %w", err).WithHint("ls -l %s", path)
		}
	}
	rules, private, err := learner.Policy(known)
	if err != nil {
		return nil, err
	}
	return &bangerv1.SuggestPolicyResponse{Policy: shownPolicy(rules), Allow: private, Lines: learner.Lines()}, nil
}

// learnFrom reads a log, which may not be there.
func learnFrom(learner *suggest.Learner, path string) error {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(io.LimitReader(file, maxPolicyLog))
	lines.Buffer(make([]byte, policy.MaxEntry), policy.MaxEntry)
	for lines.Scan() {
		if entry, ok := policy.ParseEntry(lines.Bytes()); ok {
			learner.Add(entry)
		}
	}
	return lines.Err()
}

// gate is what decides for a VM.
func (d *Daemon) gate(m *machine) (*policy.Gate, error) {
	rec := m.look().rec
	rules, err := policy.Unmarshal(rec.Policy)
	if err != nil {
		return nil, err
	}
	cfg, err := d.opts.Config()
	if err != nil {
		return nil, err
	}
	allowed, err := policy.ParsePrefixes(cfg.Network.AllowPrivate)
	if err != nil {
		return nil, err
	}
	gateway, err := netip.ParseAddr(banger.GuestGateway)
	if err != nil {
		return nil, err
	}
	return &policy.Gate{
		NAT: rec.NAT, Policy: rules, AllowPrivate: allowed, IsHost: isHostAddr,
		GuestNet: netip.PrefixFrom(gateway, banger.GuestPrefix).Masked(),
	}, nil
}
