package agent

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
	"google.golang.org/protobuf/proto"
)

// warmUps are run in a template before it is frozen: what first commands
// commonly make the guest do for the first time. One that an image has not got
// is passed over.
func warmUps() []*agentv1.ExecStart {
	size := &agentv1.WindowSize{Rows: 24, Cols: 80}
	return []*agentv1.ExecStart{
		{Argv: []string{"true"}, Stdin: true},
		{Argv: []string{"true"}, Tty: true, Size: size, Stdin: true},
		{Argv: []string{"sh", "-c", "cat /etc/hostname >/dev/null; ls / | wc -l"}},
		{Argv: []string{"bash", "-lc", "id -un"}, Tty: true, Size: size},
		{Argv: []string{"getent", "hosts", "localhost"}},
		{Argv: []string{"python3", "-c", "import json, os, sys"}},
		{Argv: []string{"git", "--version"}},
	}
}

// briefWarmUps are run in each copy before it waits for its owner.
func briefWarmUps() []*agentv1.ExecStart {
	return []*agentv1.ExecStart{
		{Argv: []string{"true"}, Stdin: true},
		{Argv: []string{"sh", "-c", "ls / | wc -l"}, Stdin: true},
	}
}

// warm runs the exercise through the same door that a client's commands take,
// once the network is set up: copies of this guest find it so.
func (g *guest) warm(ctx context.Context, brief bool) error {
	select {
	case <-g.online:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if g.network.Load() == nil {
		return errors.New("the network could not be set up")
	}
	exercise := warmUps()
	if brief {
		exercise = briefWarmUps()
	}
	for _, start := range exercise {
		start.Id = make([]byte, 16)
		rand.Read(start.Id)
		if err := g.warmUp(ctx, start); err != nil {
			return err
		}
	}
	runtime.GC() // and not in the middle of the first command
	return settle(ctx)
}

const (
	// calm is the time in which a guest that has settled is idle but for a tenth.
	calm = 100 * time.Millisecond
	// calmTime bounds the wait for that.
	calmTime = 3 * time.Second
)

// settle returns when the guest has done what the exercise left it to do: the
// kernel cleans up after commands, the init system looks at what has changed. A
// guest frozen before would do that first in each of its copies.
func settle(ctx context.Context) error {
	tick := time.NewTicker(calm)
	defer tick.Stop()
	last, err := idleTime()
	for end := time.Now().Add(calmTime); err == nil && time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		before := last
		if last, err = idleTime(); err == nil && last-before >= calm*9/10 {
			return nil
		}
	}
	return err
}

// idleTime is how long the guest's processors have been idle, to 10 ms
// (/proc/uptime, proc(5)).
func idleTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, err
	}
	_, idle, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	seconds, err := strconv.ParseFloat(idle, 64)
	return time.Duration(seconds * float64(time.Second)), err
}

// warmUp runs one command and reads what it says to its end.
func (g *guest) warmUp(ctx context.Context, start *agentv1.ExecStart) error {
	payload, err := proto.Marshal(start)
	if err != nil {
		return err
	}
	client, server := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		g.processes.ServeExec(server, func() bool { return false })
	}()
	stop := context.AfterFunc(ctx, func() { client.Close() })
	defer func() {
		stop()
		client.Close()
		<-served
	}()
	request := stream.Append(nil, stream.Start, payload)
	if start.Stdin {
		request = stream.Append(request, stream.StdinEOF, nil)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := client.Write(request)
		wrote <- err
	}()
	frames := stream.NewReader(bufio.NewReader(client))
	for {
		kind, _, err := frames.Next()
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
		if kind == stream.Exit || kind == stream.Error {
			return <-wrote
		}
	}
}
