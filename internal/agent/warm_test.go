package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/agent/process"
	"github.com/banger-dev/banger/internal/linkwire"
)

func TestWarm(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	g := &guest{processes: process.NewManager(process.Options{Log: log}), log: log, online: make(chan struct{})}
	defer g.processes.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.warm(ended, false); !errors.Is(err, context.Canceled) {
		t.Errorf("before the network is there: %v", err)
	}
	close(g.online)
	if err := g.warm(t.Context(), true); err == nil {
		t.Error("a guest whose network failed was warmed")
	}
	g.network.Store(new([]byte))
	for _, brief := range []bool{false, true} {
		if err := g.warm(t.Context(), brief); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDoorsOfATemplate: a guest that is nobody's opens no door to processes.
func TestDoorsOfATemplate(t *testing.T) {
	g := &guest{log: slog.New(slog.DiscardHandler)}
	ports := []uint32{linkwire.PortRPC, linkwire.PortExec, linkwire.PortSSH, linkwire.PortForward}
	for _, state := range []struct {
		name  string
		known bool
		boot  *agentv1.Boot
		open  []bool
	}{
		{"unknown", false, nil, []bool{false, false, false, false}},
		{"template", true, &agentv1.Boot{Template: true}, []bool{true, false, false, false}},
		{"somebody", true, &agentv1.Boot{}, []bool{true, true, true, true}},
	} {
		g.known, g.boot = state.known, state.boot
		for i, port := range ports {
			if got := g.serves(port); got != state.open[i] {
				t.Errorf("%s: port %d open: %v", state.name, port, got)
			}
		}
	}
	g.known, g.boot = true, &agentv1.Boot{Template: true}
	near, far := net.Pipe()
	g.Stream(far, linkwire.PortExec, func() bool { return false })
	if _, err := io.ReadAll(near); err != nil {
		t.Errorf("a closed door: %v", err)
	}
}

// A copy of a template that could not be made its own stays nobody's: its
// commands would draw the numbers that its siblings draw.
func TestACopyWithoutEntropyIsNobodys(t *testing.T) {
	g := &guest{log: slog.New(slog.DiscardHandler), known: true, boot: &agentv1.Boot{Template: true}}
	for _, boot := range []*agentv1.Boot{
		{Id: "x", TimeUnixNs: 1}, {Id: "x", TimeUnixNs: 1, Entropy: make([]byte, 31)}, {Id: "x", Entropy: make([]byte, 64)},
	} {
		payload, err := proto.Marshal(boot)
		if err != nil {
			t.Fatal(err)
		}
		g.Boot(payload)
		if g.serves(linkwire.PortExec) {
			t.Errorf("with %v it takes commands", boot)
		}
	}
}

// TestCopyThatSettles: until a copy has its clock it serves no stream, and none at
// all if it cannot be set.
func TestCopyThatSettles(t *testing.T) {
	g := &guest{log: slog.New(slog.DiscardHandler)}
	somebody := &agentv1.Boot{TimeUnixNs: -2e18} // settimeofday takes no such time
	if _, late := g.ways(somebody); late != nil {
		t.Error("a guest that boots waits for its clock")
	}
	g.known, g.boot = true, &agentv1.Boot{Template: true}
	if _, late := g.ways(&agentv1.Boot{Template: true}); late != nil {
		t.Error("a template waits for its clock")
	}
	_, late := g.ways(somebody)
	if late == nil {
		t.Fatal("a copy does not wait for its clock")
	}
	g.boot, g.late = somebody, late
	if _, again := g.ways(somebody); again == nil {
		t.Error("at another doorbell it does not wait any more")
	}
	client, server := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		g.Stream(server, linkwire.PortRPC, nil)
	}()
	g.settle()
	<-served
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read: %v", err)
	}
	if g.late != nil || g.known {
		t.Error("a guest whose clock could not be set is known")
	}
}
