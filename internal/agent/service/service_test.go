package service

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/agent/boot"
	"github.com/containerd/ttrpc"
)

// serve starts a service and returns a client of it.
func serve(t *testing.T, init string, asked chan syscall.Signal) (*Service, agentv1.AgentClient) {
	t.Helper()
	s, err := New(context.Background(), Options{Init: init, Warm: func(context.Context, bool) error { return nil }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.ask = func(sig syscall.Signal) error { asked <- sig; return nil }
	near, far := net.Pipe()
	s.Serve(far)
	client := ttrpc.NewClient(near)
	t.Cleanup(func() { client.Close(); s.Wait() })
	return s, agentv1.NewAgentClient(client)
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestEventsTellThePresentAndEachChange(t *testing.T) {
	s, client := serve(t, boot.None, nil)
	events, err := client.Events(bounded(t), &agentv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := events.Recv(); err != nil || e.Ready != "agent" {
		t.Fatalf("%v, %v", e, err)
	}
	s.Identified()
	if e, err := events.Recv(); err != nil || e.Ready != "system" || e.SystemState != "running" {
		t.Fatalf("%v, %v", e, err)
	}
	late, err := client.Events(bounded(t), &agentv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := late.Recv(); err != nil || e.Ready != "system" {
		t.Fatalf("%v, %v", e, err)
	}
	info, err := client.Info(bounded(t), &agentv1.InfoRequest{})
	if err != nil || info.Ready != "system" || info.Init != "none" || info.Pid != int32(os.Getpid()) || len(info.BootId) != 36 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestShutdownAsksThatInit(t *testing.T) {
	for _, c := range []struct {
		init   string
		reboot bool
		want   syscall.Signal
	}{
		{boot.Systemd, false, 38}, {boot.Systemd, true, 39},
		{boot.None, false, syscall.SIGTERM}, {boot.None, true, syscall.SIGINT},
	} {
		asked := make(chan syscall.Signal, 8)
		_, client := serve(t, c.init, asked)
		for range 2 {
			if _, err := client.Shutdown(bounded(t), &agentv1.ShutdownRequest{Reboot: c.reboot}); err != nil {
				t.Fatal(err)
			}
		}
		if got := <-asked; got != c.want {
			t.Errorf("%s, reboot %v: %v", c.init, c.reboot, got)
		}
	}
}

func TestSignalGoesToProcess1(t *testing.T) {
	asked := make(chan syscall.Signal, 1)
	_, client := serve(t, boot.None, asked)
	if _, err := client.Signal(bounded(t), &agentv1.SignalRequest{Signal: 38}); err != nil {
		t.Fatal(err)
	}
	if got := <-asked; got != 38 {
		t.Errorf("%v", got)
	}
	for _, n := range []int32{-1, 0, 9, 19, 65} {
		if _, err := client.Signal(bounded(t), &agentv1.SignalRequest{Signal: n}); err == nil {
			t.Errorf("signal %d was sent", n)
		}
	}
}

// A connection that fails takes its calls along.
func TestBrokenConnectionEndsItsCalls(t *testing.T) {
	s, err := New(context.Background(), Options{Init: boot.None, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	closed := make(chan struct{})
	s.Serve(&failing{Conn: far, closed: closed})
	client := ttrpc.NewClient(near)
	events, err := agentv1.NewAgentClient(client).Events(bounded(t), &agentv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Recv(); err != nil {
		t.Fatal(err)
	}
	client.Close()
	<-closed
	s.Wait()
}

// failing turns the end of a connection into an error that ttrpc does not know.
type failing struct {
	net.Conn
	closed chan struct{}
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if err != nil {
		err = errors.New("stream reset")
	}
	return n, err
}

func (f *failing) Close() error { close(f.closed); return f.Conn.Close() }

func TestWaitPath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "systemd", "private")
	done := make(chan error, 1)
	go func() { done <- waitPath(bounded(t), path) }()
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := waitPath(ctx, filepath.Join(dir, "never")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestParseUnits(t *testing.T) {
	list := "a.service loaded failed failed A\n\n b.mount loaded failed failed B\n" + strings.Repeat("x", 300) + " loaded\n"
	if got := parseUnits(list); !slices.Equal(got, []string{"a.service", "b.mount"}) {
		t.Errorf("%v", got)
	}
	if got := parseUnits(strings.Repeat("u.service x\n", 1000)); len(got) != maxFailed {
		t.Errorf("%d units", len(got))
	}
}

func TestLimited(t *testing.T) {
	l := &limited{limit: 5}
	for range 3 {
		if n, err := l.Write([]byte("abc")); n != 3 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if l.String() != "abcab" {
		t.Errorf("%q", l.String())
	}
}

// TestTemplateBelongsToNobody: a template takes Info, Events and Warm, and
// nothing else; a guest that is somebody's takes no Warm.
func TestTemplateBelongsToNobody(t *testing.T) {
	s, client := serve(t, boot.None, make(chan syscall.Signal, 1))
	ctx := bounded(t)
	if _, err := client.Warm(ctx, &agentv1.WarmRequest{}); err == nil {
		t.Error("a guest that is no template was warmed")
	}
	s.SetTemplate(true)
	if _, err := client.Warm(ctx, &agentv1.WarmRequest{}); err != nil {
		t.Errorf("warm: %v", err)
	}
	if _, err := client.Info(ctx, &agentv1.InfoRequest{}); err != nil {
		t.Errorf("info: %v", err)
	}
	if _, err := client.Shutdown(ctx, &agentv1.ShutdownRequest{}); err == nil {
		t.Error("a template was shut down")
	}
	if _, err := client.Tune(ctx, &agentv1.TuneRequest{TimeUnixNs: 1}); err == nil {
		t.Error("a template's clock was set")
	}
	if _, err := client.Signal(ctx, &agentv1.SignalRequest{Signal: 1}); err == nil {
		t.Error("a template took a signal")
	}
}
