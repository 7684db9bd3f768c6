package guestexec

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
	"google.golang.org/protobuf/proto"
)

// scripted is an agent that sends fixed bytes, whatever it is told, and hangs
// up. The VM is gone after its last connection.
func scripted(t testing.TB, connections ...[]byte) Dial {
	return func(context.Context) (net.Conn, error) {
		if len(connections) == 0 {
			return nil, banger.Errorf(banger.CodeNotFound, "vm is gone")
		}
		reply := connections[0]
		connections = connections[1:]
		client, agent := net.Pipe()
		go io.Copy(io.Discard, agent)
		go func() {
			agent.Write(reply)
			agent.Close()
		}()
		return client, nil
	}
}

func frame(t testing.TB, kind stream.Kind, msg proto.Message) []byte {
	t.Helper()
	return appendMessage(nil, kind, msg)
}

func TestHostileAgents(t *testing.T) {
	started := frame(t, stream.Started, &agentv1.ExecStarted{})
	exit := frame(t, stream.Exit, &agentv1.ExecExit{Code: 5})
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, tc := range map[string]struct {
		connections [][]byte
		exit        int
		err         string
	}{
		"good":                   {[][]byte{join(started, exit)}, 5, ""},
		"break, then good":       {[][]byte{started, join(started, exit)}, 5, ""},
		"break before Started":   {[][]byte{nil, join(started, exit)}, 5, ""},
		"gone":                   {[][]byte{started}, 0, "vm is gone"},
		"unknown frame":          {[][]byte{join(started, []byte{99, 0, 0, 0, 0})}, 0, "does not keep to the exec protocol"},
		"huge frame":             {[][]byte{join(started, []byte{byte(stream.Stdout), 255, 255, 255, 255})}, 0, "does not keep to"},
		"a client's frame":       {[][]byte{join(started, stream.Append(nil, stream.Stdin, []byte("x")))}, 0, "does not keep to"},
		"ack of what was unsent": {[][]byte{join(started, stream.AppendAck(nil, 1<<40))}, 0, "does not keep to"},
		"input it cannot have":   {[][]byte{frame(t, stream.Started, &agentv1.ExecStarted{StdinReceived: 9})}, 0, "does not keep to"},
		"exit code of 256":       {[][]byte{join(started, frame(t, stream.Exit, &agentv1.ExecExit{Code: 256}))}, 0, "does not keep to"},
		"no Started":             {[][]byte{exit}, 0, "does not keep to"},
		"garbage in a message":   {[][]byte{join(started, stream.Append(nil, stream.Exit, []byte{255, 255}))}, 0, "does not keep to"},
		"hangs up for ever":      {repeated(started, maxIdleJoins+2), 0, "breaks every connection"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Run(t.Context(), scripted(t, tc.connections...), Command{Argv: []string{"x"}, Stdout: io.Discard, Stderr: io.Discard})
			switch {
			case tc.err == "" && (err != nil || got.Code != tc.exit):
				t.Fatalf("%+v, %v", got, err)
			case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
				t.Fatalf("%+v, %v; want an error with %q", got, err, tc.err)
			}
		})
	}
}

func repeated(reply []byte, n int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = reply
	}
	return out
}

// A goroutine of Run that panics ends the run with an error, so that its caller
// can restore the terminal.
func TestPanicOfAWriter(t *testing.T) {
	reply := append(frame(t, stream.Started, &agentv1.ExecStarted{}), stream.Append(nil, stream.Stdout, []byte("x"))...)
	_, err := Run(t.Context(), scripted(t, reply, reply), Command{Argv: []string{"x"}, Stdout: panicking{}, Stderr: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "internal error: no") {
		t.Fatalf("Run: %v", err)
	}
}

type panicking struct{}

func (panicking) Write([]byte) (int, error) { panic("no") }

func TestTooManyArguments(t *testing.T) {
	_, err := Run(t.Context(), scripted(t, nil), Command{Argv: []string{strings.Repeat("x", stream.MaxStart)}, Stdout: io.Discard, Stderr: io.Discard})
	if banger.CodeOf(err) != banger.CodeUsage {
		t.Fatalf("Run: %v", err)
	}
}

// Whatever an agent sends, Run ends, and never with the exit code of a process
// that did not say it.
func FuzzAgent(f *testing.F) {
	started := frame(f, stream.Started, &agentv1.ExecStarted{})
	f.Add(append(bytes.Clone(started), frame(f, stream.Exit, &agentv1.ExecExit{Code: 5})...), []byte("in"))
	f.Add(append(bytes.Clone(started), stream.Append(nil, stream.Stdout, []byte("hello"))...), []byte{})
	f.Add(append(bytes.Clone(started), stream.AppendAck(nil, 2)...), []byte("in"))
	f.Add(append(bytes.Clone(started), frame(f, stream.Exit, &agentv1.ExecExit{TimeOver: true})...), []byte{})
	f.Fuzz(func(t *testing.T, reply, input []byte) {
		var out bytes.Buffer
		_, err := Run(t.Context(), scripted(t, reply, reply), Command{
			Argv: []string{"x"}, Stdin: bytes.NewReader(input), Stdout: &out, Stderr: io.Discard, TimeLimit: time.Hour})
		if out.Len() > 2*len(reply) {
			t.Fatalf("%d bytes of output from %d", out.Len(), len(reply))
		}
		if err == nil && !bytes.Contains(reply, []byte{byte(stream.Exit)}) {
			t.Fatal("an exit that nobody sent")
		}
		var start *StartError
		if err != nil && bangerCode(err) == "" && !errors.As(err, &start) {
			t.Fatalf("an error without a code: %v", err)
		}
	})
}
