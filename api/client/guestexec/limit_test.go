package guestexec

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
)

func TestTimeOver(t *testing.T) {
	reply := append(frame(t, stream.Started, &agentv1.ExecStarted{}), frame(t, stream.Exit, &agentv1.ExecExit{Code: 5, TimeOver: true})...)
	for limit, want := range map[time.Duration]Exit{time.Hour: {Code: CodeTimeOver, TimeOver: true}, 0: {Code: 5}} {
		got, err := Run(t.Context(), scripted(t, reply), Command{Argv: []string{"x"}, Stdout: io.Discard, Stderr: io.Discard, TimeLimit: limit})
		if err != nil || got != want {
			t.Errorf("limit %s: %+v, %v", limit, got, err)
		}
	}
}

// guestOf answers each connection with output and then hangs until it is left.
func guestOf(t *testing.T) Dial {
	reply := append(frame(t, stream.Started, &agentv1.ExecStarted{}), stream.Append(nil, stream.Stdout, []byte("x"))...)
	return func(context.Context) (net.Conn, error) {
		client, agent := net.Pipe()
		go io.Copy(io.Discard, agent)
		go agent.Write(reply)
		return client, nil
	}
}

func TestGuestThatKeepsNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		began := time.Now()
		got, err := Run(t.Context(), guestOf(t), Command{Argv: []string{"x"}, Stdout: &out, Stderr: io.Discard, TimeLimit: time.Minute})
		if want := (Exit{Code: CodeTimeOver, TimeOver: true, Unconfirmed: true}); err != nil || got != want {
			t.Errorf("%+v, %v", got, err)
		}
		if took := time.Since(began); took != time.Minute+overtime || out.String() != "x" {
			t.Errorf("after %s, with the output %q", took, out.String())
		}
	})
}

// A guest that breaks every connection has no more time for that.
func TestGuestThatBreaksToWinTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		dial := func(context.Context) (net.Conn, error) {
			client, agent := net.Pipe()
			go io.Copy(io.Discard, agent)
			go func() {
				agent.Write(frame(t, stream.Started, &agentv1.ExecStarted{}))
				agent.Write(stream.Append(nil, stream.Stdout, []byte("x")))
				<-time.After(time.Second)
				agent.Close()
			}()
			return client, nil
		}
		got, err := Run(t.Context(), dial, Command{Argv: []string{"x"}, Stdout: io.Discard, Stderr: io.Discard, TimeLimit: time.Minute})
		if took := time.Since(began); err != nil || !got.Unconfirmed || took > time.Minute+overtime+time.Second {
			t.Errorf("%+v, %v after %s", got, err, took)
		}
		time.Sleep(time.Second) // the last connection's end
	})
}

// The time of a pause does not count.
func TestTimeLimitOverAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, dials := time.Now(), 0
		hang := guestOf(t)
		dial := func(ctx context.Context) (net.Conn, error) {
			switch dials++; {
			case dials == 1: // the pause comes 10 s after the start
				client, agent := net.Pipe()
				go io.Copy(io.Discard, agent)
				go func() {
					agent.Write(frame(t, stream.Started, &agentv1.ExecStarted{}))
					<-time.After(10 * time.Second)
					agent.Close()
				}()
				return client, nil
			case dials < 12: // and lasts 100 minutes
				<-time.After(10 * time.Minute)
				return nil, stream.ErrPaused
			}
			return hang(ctx)
		}
		got, err := Run(t.Context(), dial, Command{Argv: []string{"x"}, Stdout: io.Discard, Stderr: io.Discard, TimeLimit: time.Minute, Rejoin: time.Hour})
		if took := time.Since(began); err != nil || !got.Unconfirmed || took != 100*time.Minute+time.Minute+overtime {
			t.Errorf("%+v, %v after %s", got, err, took)
		}
	})
}

// Another end is not hidden by a limit.
func TestTimeLimitAndAnError(t *testing.T) {
	_, err := Run(t.Context(), scripted(t, frame(t, stream.Started, &agentv1.ExecStarted{})), Command{
		Argv: []string{"x"}, Stdout: io.Discard, Stderr: io.Discard, TimeLimit: time.Hour})
	if banger.CodeOf(err) != banger.CodeNotFound || !strings.Contains(err.Error(), "vm is gone") {
		t.Errorf("%v", err)
	}
}
