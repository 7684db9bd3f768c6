package daemon_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
)

func (h *host) policy(ref string) *bangerv1.GetPolicyResponse {
	h.t.Helper()
	r, err := h.client.GetPolicy(h.t.Context(), connect.NewRequest(&bangerv1.GetPolicyRequest{Ref: ref}))
	if err != nil {
		h.t.Fatal(err)
	}
	return r.Msg
}

func (h *host) setPolicy(req *bangerv1.SetPolicyRequest) error {
	_, err := h.client.SetPolicy(h.t.Context(), connect.NewRequest(req))
	return apierr.FromConnect(err)
}

// specOf is what a successor of the VM's supervisor would run.
func (h *host) specOf(ref string) *vmv1.Spec {
	h.t.Helper()
	data, err := os.ReadFile(h.home.Instance(h.mustGet(ref).Id).Spec())
	if err != nil {
		h.t.Fatal(err)
	}
	spec := new(vmv1.Spec)
	if err := protojson.Unmarshal(data, spec); err != nil {
		h.t.Fatal(err)
	}
	return spec
}

// agree waits until record, spec and supervisor have the same rules.
func (h *host) agree(ref string, rules ...string) {
	h.t.Helper()
	h.eventually("record, spec and supervisor agree", func() bool {
		now := h.policy(ref)
		return now.InForce && slices.Equal(now.Policy.Rules, rules) && slices.Equal(h.specOf(ref).GetPolicy().GetRules(), rules)
	})
}

func TestPolicyOfANewVM(t *testing.T) {
	h := newHost(t).start()
	c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "dev", Allow: []string{"example.org", "10.1.2.3:80"},
		Policy: &bangerv1.Policy{Default: "deny", Rules: []string{"deny *.bad.example", "allow 198.51.100.0/24"}}})
	if c.err != nil || c.vm.Policy != "default deny, 4 rules" || !c.vm.Nat {
		t.Fatalf("%v, %v", c.vm, c.err)
	}
	h.agree("dev", "allow example.org", "allow-private 10.1.2.3:80", "deny *.bad.example", "allow 198.51.100.0/24")
	h.kill()
	h.start()
	h.agree("dev", "allow example.org", "allow-private 10.1.2.3:80", "deny *.bad.example", "allow 198.51.100.0/24")
	// The store is lost: the policy is in the spec, too.
	h.kill()
	for _, end := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(h.home.Store() + end); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	h.start()
	h.agree("dev", "allow example.org", "allow-private 10.1.2.3:80", "deny *.bad.example", "allow 198.51.100.0/24")
	if vm := h.run("plain"); vm.Policy != "open" || h.specOf("plain").Policy != nil {
		t.Errorf("without a word: %v", vm)
	}
	no := false
	for _, req := range []*bangerv1.CreateVMRequest{
		{Allow: []string{"a b"}}, {Allow: []string{"a.b"}, Nat: &no}, {Policy: &bangerv1.Policy{Learn: true}, Nat: &no},
		{Policy: &bangerv1.Policy{Rules: []string{"allow-private 10.0.0.1"}}}, {Policy: &bangerv1.Policy{Rules: []string{"allow 10.0.0.1"}}},
		{Policy: &bangerv1.Policy{Default: "maybe"}},
	} {
		if c := h.create(t.Context(), req); banger.CodeOf(c.err) != banger.CodeUsage {
			t.Errorf("%v: %v", req, c.err)
		}
	}
}

func TestPolicyIsChanged(t *testing.T) {
	h := newHost(t).start()
	h.run("dev")
	if err := h.setPolicy(&bangerv1.SetPolicyRequest{Ref: "dev", Allow: []string{"a.example"}}); err != nil {
		t.Fatal(err)
	}
	if now := h.policy("dev"); !now.InForce || now.Refused["rule"] != 1 {
		t.Errorf("%v", now)
	}
	h.agree("dev", "allow a.example")
	off := false
	if err := h.setPolicy(&bangerv1.SetPolicyRequest{Ref: "dev", Nat: &off}); err != nil || h.mustGet("dev").Nat || h.specOf("dev").Nat {
		t.Errorf("nat off: %v", err)
	}
	check := func(target string) bool {
		r, err := h.client.CheckPolicy(t.Context(), connect.NewRequest(&bangerv1.CheckPolicyRequest{Ref: "dev", Target: target}))
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg.Allow
	}
	if check("a.example:443") {
		t.Error("with nat off something is allowed")
	}
	// Of a VM that does not run it is kept for its next start.
	if err := h.stopVM("dev"); err != nil {
		t.Fatal(err)
	}
	err := h.setPolicy(&bangerv1.SetPolicyRequest{Ref: "dev", Policy: &bangerv1.Policy{Rules: []string{"allow b.example"}}})
	if err != nil || !h.mustGet("dev").Nat || h.policy("dev").InForce {
		t.Errorf("stopped: %v", err)
	}
	if !check("b.example") || check("a.example") || check("127.0.0.1:80") {
		t.Error("the check does not know the policy")
	}
	if c := h.startVM("dev"); c.err != nil {
		t.Fatal(c.err)
	}
	h.agree("dev", "allow b.example")
	if err := h.setPolicy(&bangerv1.SetPolicyRequest{Ref: "none"}); banger.CodeOf(err) != banger.CodeNotFound {
		t.Error(err)
	}
}

// Wherever the daemon or the supervisor dies in a change of policy, the three places
// agree afterwards.
func TestPolicyChangedOverDeaths(t *testing.T) {
	for _, point := range []string{"policy.stored", "policy.written"} {
		t.Run(point, func(t *testing.T) {
			h := newHost(t).start()
			h.run("dev")
			h.kill()
			h.start("BANGER_FAULT=" + point + "=kill-self")
			if err := h.setPolicy(&bangerv1.SetPolicyRequest{Ref: "dev", Allow: []string{"a.example"}}); h.awaitEnd() == nil {
				t.Fatalf("the daemon lives (%v)", err)
			}
			h.start()
			h.eventually("the supervisor has it", func() bool { return h.policy("dev").InForce })
			if got := h.policy("dev").Policy.Rules; !slices.Equal(got, []string{"allow a.example"}) {
				t.Errorf("%q", got)
			}
			// The supervisor dies; its successor reads the spec.
			now := h.mustGet("dev")
			if err := syscall.Kill(int(now.SupervisorPid), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			h.eventually("a successor is there", func() bool {
				after := h.mustGet("dev")
				return after.SupervisorPid != 0 && after.SupervisorPid != now.SupervisorPid
			})
			h.agree("dev", "allow a.example")
			h.consistent()
		})
	}
}

func TestSuggest(t *testing.T) {
	h := newHost(t).start()
	c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "dev", Policy: &bangerv1.Policy{Learn: true}})
	if c.err != nil || c.vm.Policy != "learning: default deny, 0 rules" {
		t.Fatalf("%v, %v", c.vm, c.err)
	}
	log := strings.Join([]string{
		`hed":"would refuse"}`,
		`{"verdict":"would refuse","proto":"dns","name":"a.example.org"}`,
		`{"verdict":"would refuse","proto":"tcp","name":"a.example.org","answered":true,"address":"203.0.113.1","port":443,"speech":"tls"}`,
		`{"verdict":"refused","proto":"tcp","address":"10.0.0.1","port":80,"reason":"private"}`, "",
	}, "\n")
	if err := os.WriteFile(h.home.Instance(c.vm.Id).PolicyLog(), []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := h.client.SuggestPolicy(t.Context(), connect.NewRequest(&bangerv1.SuggestPolicyRequest{Ref: "dev"}))
	if err != nil {
		t.Fatal(err)
	}
	if m := r.Msg; m.Policy.Default != "deny" || !slices.Equal(m.Policy.Rules, []string{"allow a.example.org"}) || m.Policy.Learn ||
		!slices.Equal(m.Allow, []string{"10.0.0.1:80"}) || m.Lines != 3 {
		t.Errorf("%v", m)
	}
}
