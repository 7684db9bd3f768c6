package supervisor

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/policy"
	"google.golang.org/protobuf/encoding/protojson"
)

// A policy comes into force once, a later one in its place and never an earlier; a
// successor has the one that the spec says.
func TestSetPolicy(t *testing.T) {
	dir := instance(t)
	cmd := launch(t, dir)
	await(t, dir, ready)
	set := func(revision int64, rules ...string) error {
		_, err := client(dir).SetPolicy(t.Context(), connect.NewRequest(&vmv1.SetPolicyRequest{
			Nat: true, Revision: revision, Policy: &vmv1.Policy{Default: "deny", Rules: rules},
		}))
		return err
	}
	for _, revision := range []int64{2, 2, 1} {
		if err := set(revision, "allow a.example", "allow-private 10.0.0.1"); err != nil {
			t.Fatal(err)
		}
		if got := await(t, dir, ready); got.PolicyRevision != 2 {
			t.Errorf("after %d: %d", revision, got.PolicyRevision)
		}
	}
	if err := set(3, "nonsense"); err == nil {
		t.Error("nonsense is taken")
	}
	if r, err := client(dir).Refusals(t.Context(), connect.NewRequest(&vmv1.RefusalsRequest{})); err != nil || r.Msg.WouldRefuse != 0 {
		t.Errorf("%v, %v", r, err)
	}
	spec, err := loadSpec(dir)
	if err != nil {
		t.Fatal(err)
	}
	spec.Policy, spec.PolicyRevision = &vmv1.Policy{Default: "deny", Rules: []string{"allow b.example"}}, 3
	data, err := protojson.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir.Spec(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	launch(t, dir, "--adopt")
	if got := await(t, dir, ready); got.PolicyRevision != 3 {
		t.Errorf("the successor has %d", got.PolicyRevision)
	}
}

func TestRefusals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.log")
	r, err := openRefusals(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := policy.Verdict{Reason: policy.ReasonRule, Rule: "default deny"}
	learned := refused
	learned.Allow, learned.WouldRefuse = true, true
	flow := policy.Flow{Proto: policy.ProtoTCP, Dst: netip.MustParseAddrPort("203.0.113.1:443"), Name: "a.example", Known: []string{"a.example"}}
	for range 10 {
		r.record(flow, learned)
	}
	for i := range 3 * int(refusalRate().Burst) { // a flood
		r.record(policy.Flow{Proto: policy.ProtoDNS, Name: fmt.Sprintf("x%d.\x1b[2J\xff%s", i, strings.Repeat("y", 400))}, refused)
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines, once := 0, 0
	for scan := bufio.NewScanner(file); scan.Scan(); lines++ {
		e, ok := policy.ParseEntry(scan.Bytes())
		if !ok || len(e.Name) > 255 || strings.Contains(scan.Text(), "\x1b") {
			t.Errorf("%q", scan.Text())
		}
		if e.Verdict == policy.VerdictLearned {
			once++
			if e.Name != "a.example" || !e.Answered || e.Port != 443 {
				t.Errorf("%+v", e)
			}
		}
	}
	if once != 1 || lines < 2 || lines > int(refusalRate().Burst)+20 {
		t.Errorf("%d lines, %d of them learned", lines, once)
	}
}
