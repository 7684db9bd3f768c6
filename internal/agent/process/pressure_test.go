package process

import (
	"io"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
)

func TestBackPressure(t *testing.T) {
	m := testManager(t, Options{})
	conn, r, started := attachRaw(t, m, &agentv1.ExecStart{Id: newID(), Argv: []string{"cat", "/dev/zero"}}, nil)
	got := 0
	for got < stream.Unacked {
		got += len(expect(t, r, stream.Stdout))
	}
	if got != stream.Unacked {
		t.Errorf("%d unacknowledged bytes, at most %d are allowed", got, stream.Unacked)
	}
	// It has stopped; and a signal gets through nevertheless.
	signal, _ := proto.Marshal(&agentv1.ExecSignal{Signal: int32(syscall.SIGTERM)})
	_, _ = conn.Write(stream.Append(nil, stream.Signal, signal))
	eventually(t, "the process ends", func() bool { return !alive(int(started.Pid)) })
	_, _ = conn.Write(stream.AppendAck(nil, uint64(got)))
	exit := &agentv1.ExecExit{}
	for {
		kind, payload, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if kind == stream.Exit {
			_ = proto.Unmarshal(payload, exit)
			break
		}
	}
	if exit.Code != 143 || exit.Signal != 15 {
		t.Errorf("%v", exit)
	}
}

func TestInputOfADeafProcess(t *testing.T) {
	m := testManager(t, Options{})
	conn, r, _ := attachRaw(t, m, &agentv1.ExecStart{Id: newID(), Argv: []string{"sleep", "1000"}, Stdin: true}, nil)
	block := stream.Append(nil, stream.Stdin, make([]byte, stream.MaxPayload))
	for range stream.Unacked / stream.MaxPayload {
		if _, err := conn.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	// What the client may send was taken, so a signal is not stuck behind it.
	signal, _ := proto.Marshal(&agentv1.ExecSignal{Signal: int32(syscall.SIGINT)})
	_, _ = conn.Write(stream.Append(nil, stream.Signal, signal))
	for {
		kind, payload, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if kind == stream.Exit {
			exit := &agentv1.ExecExit{}
			_ = proto.Unmarshal(payload, exit)
			if exit.Signal != int32(syscall.SIGINT) {
				t.Errorf("%v", exit)
			}
			return
		}
	}
}

func TestInputFloodEndsTheClient(t *testing.T) {
	m := testManager(t, Options{Grace: time.Hour})
	conn, _, started := attachRaw(t, m, &agentv1.ExecStart{Id: newID(), Argv: []string{"sleep", "1000"}, Stdin: true}, nil)
	block := stream.Append(nil, stream.Stdin, make([]byte, stream.MaxPayload))
	var err error
	for range 64 {
		if _, err = conn.Write(block); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("8 MiB of unacknowledged input were taken")
	}
	eventually(t, "the process ends", func() bool { return !alive(int(started.Pid)) })
}

func TestInputThatNobodyReads(t *testing.T) {
	m := testManager(t, Options{})
	c := newClient(t, m, &agentv1.ExecStart{Argv: []string{"sh", "-c", "exec <&-; sleep 0.1; echo closed"}, Stdin: true})
	c.stdin = io.LimitReader(rand.NewChaCha8([32]byte{}), 20<<20)
	if exit, failure := c.run(); exit.GetCode() != 0 || c.stdout.String() != "closed\n" {
		t.Errorf("%v %v %q", exit, failure, c.stdout.String())
	}
}

func TestNoInput(t *testing.T) {
	m := testManager(t, Options{})
	c := newClient(t, m, &agentv1.ExecStart{Argv: []string{"cat"}})
	if exit, _ := c.run(); exit.GetCode() != 0 {
		t.Errorf("%v", exit)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m := testManager(t, Options{})
	before := heap()
	// Single bytes, in turns on both streams, are the worst that can be kept.
	_, _, _ = attachRaw(t, m, &agentv1.ExecStart{Id: newID(), Argv: []string{"sh", "-c",
		`i=0; while [ $i -lt 20000 ]; do printf a; printf b >&2; i=$((i+1)); done; cat /dev/zero`}}, nil)
	p := m.only(t)
	eventually(t, "the log is full", func() bool {
		p.out.mu.Lock()
		defer p.out.mu.Unlock()
		return p.out.end-p.out.acked >= stream.Unacked
	})
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("a process that nobody reads keeps %d bytes", grown)
	}
}

func heap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

func (m *Manager) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.processes)
}

func (m *Manager) only(t *testing.T) *Process {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.processes {
		return p
	}
	t.Fatal("no process")
	return nil
}
