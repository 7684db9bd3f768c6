package guest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
	"github.com/banger-dev/banger/internal/linkwire"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
)

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	t.Cleanup(cancel)
	return ctx
}

// identity is who the VM is told to be.
func identity() []byte {
	b, err := proto.Marshal(&agentv1.Boot{
		Hostname:   "otter",
		MachineId:  strings.Repeat("ab", 16),
		TimeUnixNs: time.Now().UnixNano(),
		Entropy:    bytes.Repeat([]byte{7}, 32),
		Network: &agentv1.Network{
			Address: "192.168.127.2/24", Gateway: "192.168.127.1",
			Nameservers: []string{"192.168.127.1"}, Mtu: 1500,
		},
	})
	if err != nil {
		panic(err)
	}
	return b
}

// answer resets the link and returns a client of the agent.
func (m *machine) answer() agentv1.AgentClient {
	m.t.Helper()
	if err := m.link.Reset(bounded(m.t), identity()); err != nil {
		m.t.Fatalf("no answer: %v\n%s", err, m.console())
	}
	conn, err := m.link.Dial(bounded(m.t), linkwire.PortRPC)
	must(m.t, err)
	client := ttrpc.NewClient(conn)
	m.t.Cleanup(func() { client.Close() })
	return agentv1.NewAgentClient(client)
}

// settled waits until the system is ready.
func settled(t *testing.T, agent agentv1.AgentClient) *agentv1.Event {
	t.Helper()
	events, err := agent.Events(bounded(t), &agentv1.EventsRequest{})
	must(t, err)
	for {
		event, err := events.Recv()
		must(t, err)
		if event.Ready == "system" {
			return event
		}
	}
}

// sh runs a command in the guest and returns its output and exit code.
func (m *machine) sh(script string) (string, int) {
	m.t.Helper()
	conn, err := m.link.Dial(bounded(m.t), linkwire.PortExec)
	must(m.t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(longest))
	out, code, err := exec1(conn, script)
	if err != nil {
		m.t.Fatalf("%s: %v", script, err)
	}
	return out, code
}

func exec1(conn net.Conn, script string) (string, int, error) {
	start, err := proto.Marshal(&agentv1.ExecStart{Id: fmt.Appendf(nil, "%16d", time.Now().UnixNano()%1e16), Argv: []string{"sh", "-c", script}})
	if err != nil {
		return "", 0, err
	}
	if _, err := conn.Write(stream.Append(nil, stream.Start, start)); err != nil {
		return "", 0, err
	}
	var out bytes.Buffer
	for r := stream.NewReader(conn); ; {
		kind, payload, err := r.Next()
		if err != nil {
			return "", 0, err
		}
		switch kind {
		case stream.Stdout, stream.Stderr:
			out.Write(payload)
		case stream.Error:
			return "", 0, fmt.Errorf("refused: %q", payload)
		case stream.Exit:
			var exit agentv1.ExecExit
			err := proto.Unmarshal(payload, &exit)
			return out.String(), int(exit.Code), err
		}
	}
}

// expect runs a command and compares what it says.
func (m *machine) expect(script, want string) {
	m.t.Helper()
	got, code := m.sh(script)
	if code != 0 || strings.TrimSpace(got) != want {
		m.t.Errorf("%s: exit %d, %q; want %q", script, code, got, want)
	}
}
