package cli

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/stream"
	"github.com/banger-dev/banger/internal/layout"
)

// GetPolicy implements bangerv1connect.BangerHandler.
func (d *fakeDaemon) GetPolicy(_ context.Context, req *connect.Request[bangerv1.GetPolicyRequest]) (*connect.Response[bangerv1.GetPolicyResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&bangerv1.GetPolicyResponse{
		Vm: vm, InForce: true, Refused: map[string]uint64{"rule": 2, "name": 1},
		Policy: &bangerv1.Policy{Default: "deny", Rules: []string{"allow *.example.org", "allow-private 10.0.0.1:80"}},
	}), nil
}

// SetPolicy implements bangerv1connect.BangerHandler.
func (d *fakeDaemon) SetPolicy(_ context.Context, req *connect.Request[bangerv1.SetPolicyRequest]) (*connect.Response[bangerv1.SetPolicyResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	p := req.Msg.Policy
	d.called("policy %s nat %v default %q rules %q learn %v allow %q", vm.Name, req.Msg.GetNat(), p.GetDefault(), p.GetRules(), p.GetLearn(), req.Msg.Allow)
	return connect.NewResponse(&bangerv1.SetPolicyResponse{Vm: vm}), nil
}

// CheckPolicy implements bangerv1connect.BangerHandler: names are allowed.
func (d *fakeDaemon) CheckPolicy(_ context.Context, req *connect.Request[bangerv1.CheckPolicyRequest]) (*connect.Response[bangerv1.CheckPolicyResponse], error) {
	if strings.HasPrefix(req.Msg.Target, "10.") {
		return connect.NewResponse(&bangerv1.CheckPolicyResponse{Rule: "10.0.0.0/8", Reason: "private"}), nil
	}
	return connect.NewResponse(&bangerv1.CheckPolicyResponse{Allow: true, Rule: "allow *.example.org"}), nil
}

// SuggestPolicy implements bangerv1connect.BangerHandler.
func (d *fakeDaemon) SuggestPolicy(context.Context, *connect.Request[bangerv1.SuggestPolicyRequest]) (*connect.Response[bangerv1.SuggestPolicyResponse], error) {
	return connect.NewResponse(&bangerv1.SuggestPolicyResponse{
		Policy: &bangerv1.Policy{Default: "deny", Rules: []string{"allow a.example.org"}}, Allow: []string{"10.0.0.1:80"}, Lines: 3,
	}), nil
}

func TestPolicyOfANewVM(t *testing.T) {
	d := newFakeDaemon(t)
	d.guest = echoGuest
	file := filepath.Join(t.TempDir(), "policy.toml")
	if err := os.WriteFile(file, []byte("rules = [\"deny a.b\", \"allow *.b\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, d, "")
	w.expect(t, w.run("run", "-q", "--allow", "x.example", "--allow", "10.0.0.1:80", "--policy", file, "--", "x"), 7, "x\n", "err\n")
	if req := d.created; !slices.Equal(req.Allow, []string{"x.example", "10.0.0.1:80"}) || req.Policy.Default != "deny" ||
		!slices.Equal(req.Policy.Rules, []string{"deny a.b", "allow *.b"}) || req.Policy.Learn || req.Nat != nil {
		t.Errorf("%v", req)
	}
	w = newWorld(t, d, "")
	if w.run("vm", "create", "-q", "--policy", "learn"); !d.created.Policy.Learn || len(d.created.Policy.Rules) != 0 {
		t.Errorf("%v", d.created)
	}
	w = newWorld(t, d, "")
	if w.run("vm", "create", "-q"); d.created.Policy != nil || d.created.Allow != nil {
		t.Errorf("%v", d.created)
	}
}

// What a VM has learned that goes with its command is shown before.
func TestRunLearnsAndRemoves(t *testing.T) {
	d := newFakeDaemon(t)
	d.guest = func(start *agentv1.ExecStart, frames *stream.Reader, conn net.Conn) {
		<-d.leased
		echoGuest(start, frames, conn)
	}
	w := newWorld(t, d, "")
	w.expect(t, w.run("run", "--rm", "--policy", "learn", "--", "x"), 7, "x\n",
		"# Only the command line opens private addresses: --allow 10.0.0.1:80\ndefault = \"deny\"\nrules = [\n  \"allow a.example.org\",\n]\n")
	if !d.did("delete quiet-otter") {
		t.Errorf("calls %v", d.calls)
	}
}

func TestPolicyCommands(t *testing.T) {
	d := newFakeDaemon(t)
	vm := d.add("dev", "running")
	log := `hed","name":"cut"}` + "\n" +
		`{"time":"2026-01-02T03:04:05.6Z","verdict":"refused","proto":"tcp","name":"evil\u001b[2J.example","address":"203.0.113.1","port":443,"speech":"tls","reason":"host","rule":"default deny"}` + "\n" +
		`{"time":"2026-01-02T03:04:06Z","verdict":"refused","proto":"dns","name":"x.evil","reason":"name","rule":"default deny","left_out":7}` + "\n"
	if err := os.WriteFile(layout.Instance(vm.Dir).PolicyLog(), []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	const file = "default = \"deny\"\nrules = [\n  \"allow *.example.org\",\n  \"allow-private 10.0.0.1:80\",\n]\n"
	for _, c := range []struct {
		args        []string
		code        int
		out, stderr string
	}{
		{[]string{"show", "dev"}, 0, file, `policy of vm "dev": in force; 1 refused: name; 2 refused: rule` + "\n"},
		{[]string{"show", "-q", "dev"}, 0, file, ""},
		{[]string{"show", "none"}, 3, "", "does not exist"},
		{[]string{"check", "dev", "a.example.org"}, 0, "allowed: allow *.example.org\n", ""},
		{[]string{"check", "dev", "10.0.0.1:80"}, 1, "refused: 10.0.0.0/8 (private)\n", ""},
		{[]string{"check", "dev"}, 2, "", "is missing"},
		{[]string{"suggest", "dev"}, 0, "default = \"deny\"\nrules = [\n  \"allow a.example.org\",\n]\n", "--allow 10.0.0.1:80"},
		{[]string{"log", "dev"}, 0, "2026-01-02T03:04:05Z refused: tcp/tls evil\\x1b[2J.example (203.0.113.1:443): default deny (host)\n" +
			"(7 lines left out: they came too fast)\n2026-01-02T03:04:06Z refused: dns x.evil: default deny (name)\n", ""},
		{[]string{"log", "--tail", "1", "--json", "dev"}, 0, `{"time":"2026-01-02T03:04:06Z","verdict":"refused","proto":"dns","name":"x.evil","reason":"name","rule":"default deny","left_out":7}` + "\n", ""},
		{[]string{"set", "dev"}, 2, "", "what may it reach?"},
		{[]string{"set", "dev", "none", "--allow", "a.b"}, 2, "", "there is nothing to allow"},
		{[]string{"set", "dev", "/no/such"}, 2, "", "cannot be read"},
		{[]string{"set", "dev", "-"}, 2, "", `policy (stdin), line 1: unknown key "rulez"`},
	} {
		w := newWorld(t, d, "rulez = 1\n")
		w.expect(t, w.run(append([]string{"vm", "policy"}, c.args...)...), c.code, c.out, c.stderr)
	}
}

func TestPolicySet(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("dev", "running")
	for want, args := range map[string][]string{
		`policy dev nat true default "deny" rules ["allow a.b"] learn false allow []`:  {"-"},
		`policy dev nat true default "allow" rules [] learn false allow []`:            {"open"},
		`policy dev nat false default "" rules [] learn false allow []`:                {"none"},
		`policy dev nat true default "deny" rules [] learn true allow []`:              {"learn"},
		`policy dev nat true default "" rules [] learn false allow ["c.d" "10.0.0.1"]`: {"--allow", "c.d", "--allow", "10.0.0.1"},
	} {
		w := newWorld(t, d, "rules = [\"allow a.b\"]\n")
		w.expect(t, w.run(append([]string{"vm", "policy", "set", "dev"}, args...)...), 0, "dev\n", "")
		if !d.did(want) {
			t.Errorf("%q: %q", args, d.calls)
		}
	}
}
