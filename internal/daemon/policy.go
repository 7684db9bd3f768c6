package daemon

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/api/vm/v1/vmv1connect"
	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/policy"
	"github.com/banger-dev/banger/internal/store"
)

// A VM's policy is in three places: its record, which counts; its spec.json, where a
// successor finds it; and its supervisor. It changes in this order, each with the
// policy's revision, and whoever sees a place behind the record brings it up: a
// successor is not started before its spec is, and a supervisor whose status says
// an older revision is told again.

const (
	// policyTime bounds the wait for a supervisor that is to apply a policy.
	policyTime = 10 * time.Second
)

// The moments of a change of policy, as fault.Point names them.
const (
	pointPolicyStored  = "policy.stored"
	pointPolicyWritten = "policy.written"
)

// wantedPolicy is what a request says of a policy.
type wantedPolicy struct {
	policy *bangerv1.Policy
	allow  []string
	nat    *bool
}

// choosePolicy makes the policy of a request, and whether anything leaves at all;
// nat is so if the request does not say.
func choosePolicy(want wantedPolicy, nat bool) (policy.Policy, bool, error) {
	chosen := policy.Open()
	if want.policy != nil || len(want.allow) > 0 {
		var err error
		if chosen, err = parsePolicy(want); err != nil {
			return chosen, false, err
		}
		if want.nat != nil && !*want.nat {
			return chosen, false, banger.Errorf(banger.CodeUsage, "with nat off nothing leaves the VM: there is nothing to allow").
				WithHint("either --nat=false, or --allow and --policy")
		}
		nat = true
	}
	if want.nat != nil {
		nat = *want.nat
	}
	return chosen, nat, nil
}

// parsePolicy reads rules of the command line, which come first, and of a policy,
// whose default holds.
func parsePolicy(want wantedPolicy) (policy.Policy, error) {
	p := new(bangerv1.Policy)
	if want.policy != nil {
		p = want.policy
	}
	rules, err := policy.Parse(or(p.Default, policy.DefaultDeny), p.Rules, false)
	if err != nil {
		return rules, err
	}
	rules.Learn = p.Learn
	var first []policy.Rule
	for _, target := range want.allow {
		rule, err := policy.ParseAllow(target, isHostAddr)
		if err != nil {
			return rules, err
		}
		first = append(first, rule)
	}
	rules.Rules = slices.Concat(first, rules.Rules)
	return rules, rules.Check()
}

// isHostAddr reports whether addr is one of this host's now.
func isHostAddr(addr netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // what is not known is not reached
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		own, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(own.IP)
		return ok && ip.Unmap() == addr
	})
}

// specPolicy is a policy as a spec has it; nil for an open one.
func specPolicy(p policy.Policy) *vmv1.Policy {
	if p.IsOpen() {
		return nil
	}
	return &vmv1.Policy{Default: p.Default(), Rules: p.Texts(), Learn: p.Learn}
}

// recordedPolicy reads it back.
func recordedPolicy(spec *vmv1.Spec) (policy.Policy, error) {
	if spec.Policy == nil {
		return policy.Open(), nil
	}
	p, err := policy.Parse(spec.Policy.Default, spec.Policy.Rules, true)
	p.Learn = spec.Policy.Learn
	return p, err
}

// shownPolicy is a policy as the contract shows it.
func shownPolicy(p policy.Policy) *bangerv1.Policy {
	return &bangerv1.Policy{Default: p.Default(), Rules: p.Texts(), Learn: p.Learn}
}

// setPolicy replaces the policy of a VM, in force when it returns if the VM runs.
func (d *Daemon) setPolicy(ctx context.Context, req *bangerv1.SetPolicyRequest) (*bangerv1.SetPolicyResponse, error) {
	m, err := d.resolve(req.Ref)
	if err != nil {
		return nil, err
	}
	if err := m.take(ctx); err != nil {
		return nil, err
	}
	defer m.give()
	want := wantedPolicy{policy: req.Policy, allow: req.Allow, nat: req.Nat}
	chosen, nat, err := choosePolicy(want, m.look().rec.NAT)
	if err != nil {
		return nil, err
	}
	if req.Policy == nil && len(req.Allow) == 0 { // nat alone
		if chosen, err = policy.Unmarshal(m.look().rec.Policy); err != nil {
			return nil, err
		}
	}
	revision := m.nextRevision()
	err = m.save(ctx, func(rec *store.VM) {
		rec.Policy, rec.NAT, rec.PolicyRevision = chosen.Marshal(), nat, revision
	})
	if err == nil {
		err = fault.Point(pointPolicyStored)
	}
	if err == nil {
		err = m.applyPolicy(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &bangerv1.SetPolicyResponse{Vm: m.proto(), Policy: shownPolicy(chosen)}, nil
}

// nextRevision is above all that any place knows: the record may be an older one
// that was restored.
func (m *machine) nextRevision() int64 {
	now := m.look()
	last := max(now.rec.PolicyRevision, now.status.GetPolicyRevision())
	if spec, err := readSpec(m.dir); err == nil {
		last = max(last, spec.PolicyRevision)
	}
	return last + 1
}

// applyPolicy brings the spec up to the record, and the supervisor of a VM that
// runs. The caller has the turn.
func (m *machine) applyPolicy(ctx context.Context) error {
	if err := m.writePolicy(); err != nil {
		return m.errorf(banger.CodeFailed, "keeps its new policy, but is not under it yet: %w", err).
			WithHint("banger vm policy show %s", m.look().rec.Name)
	}
	if err := fault.Point(pointPolicyWritten); err != nil {
		return err
	}
	if !m.look().following() {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, policyTime, errNotReady)
	defer cancel()
	err := m.await(ctx, func(v view) bool { return v.client != nil && underPolicy(v.status) }, func() {})
	if err == nil {
		err = m.askSupervisor(ctx, m.pushPolicy)
	}
	if err == nil { // and who asks now hears of it
		err = m.await(ctx, func(v view) bool { return v.status.GetPolicyRevision() >= v.rec.PolicyRevision }, func() {})
	}
	if errors.Is(err, errDied) {
		return nil // the spec has it, for the next start
	}
	if err != nil && m.look().following() {
		return m.errorf(banger.CodeUnavailable, "keeps its new policy, and is under it as soon as its supervisor answers: %w", err).
			WithHint("banger vm policy show %s", m.look().rec.Name)
	}
	return nil
}

// underPolicy reports whether a supervisor has a network, whose policy counts.
func underPolicy(now *vmv1.StatusResponse) bool {
	state := now.GetState()
	return state != "" && state != "starting" && state != "spare" && state != "stopped"
}

// writePolicy puts the record's policy into spec.json, if that has an older one.
func (m *machine) writePolicy() error {
	rec := m.look().rec
	spec, err := readSpec(m.dir)
	if err != nil {
		return err
	}
	if spec.PolicyRevision >= rec.PolicyRevision {
		return nil
	}
	rules, err := policy.Unmarshal(rec.Policy)
	if err != nil {
		return err
	}
	spec.Policy, spec.Nat, spec.PolicyRevision = specPolicy(rules), rec.NAT, rec.PolicyRevision
	return writeSpec(m.dir, spec, rec.Ephemeral)
}

// pushPolicy tells a supervisor the record's policy.
func (m *machine) pushPolicy(ctx context.Context, client vmv1connect.SupervisorClient) error {
	rec := m.look().rec
	rules, err := policy.Unmarshal(rec.Policy)
	if err != nil {
		return err
	}
	_, err = client.SetPolicy(ctx, connect.NewRequest(&vmv1.SetPolicyRequest{
		Nat: rec.NAT, Policy: specPolicy(rules), Revision: rec.PolicyRevision,
	}))
	return err
}

// catchUpPolicy tells a supervisor that is behind.
func (m *machine) catchUpPolicy(client vmv1connect.SupervisorClient) {
	ctx, cancel := context.WithTimeout(m.d.life, policyTime)
	defer cancel()
	if err := m.pushPolicy(ctx, client); err != nil && m.look().following() && m.d.life.Err() == nil {
		m.d.log.Warn("a VM is under an older policy still", "vm", m.id, "error", err)
	}
}
