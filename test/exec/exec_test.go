package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/banger-dev/banger/api/client/guestexec"
	"github.com/banger-dev/banger/api/stream"
	"github.com/banger-dev/banger/internal/cli/tty"
)

// noise is n bytes that no compression or luck makes right.
func noise(n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{7})
	source.Read(b)
	return b
}

func sh(script string) guestexec.Command {
	return guestexec.Command{Argv: []string{"/bin/sh", "-c", script}, Stdout: io.Discard, Stderr: io.Discard}
}

func run(t *testing.T, a *agent, cmd guestexec.Command) guestexec.Exit {
	t.Helper()
	exit, err := guestexec.Run(t.Context(), a.dial, cmd)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	return exit
}

func TestExitCodes(t *testing.T) {
	a := serve(t, nil)
	for script, want := range map[string]guestexec.Exit{
		"true":          {},
		"exit 7":        {Code: 7},
		"kill -9 $$":    {Code: 137, Signal: 9},
		"kill -TERM $$": {Code: 143, Signal: 15},
	} {
		if got := run(t, a, sh(script)); got != want {
			t.Errorf("%s: %+v, want %+v", script, got, want)
		}
	}
}

func TestCommandsThatNeverRan(t *testing.T) {
	a := serve(t, nil)
	notProgram := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(notProgram, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, cmd := range map[string]guestexec.Command{
		"not_found":      {Argv: []string{"no-such-program"}},
		"not_executable": {Argv: []string{notProgram}},
		"no_cwd":         {Argv: []string{"true"}, Dir: "/no/such"},
		"no_user":        {Argv: []string{"true"}, User: "no-such-user"},
	} {
		cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
		_, err := guestexec.Run(t.Context(), a.dial, cmd)
		var start *guestexec.StartError
		if !errors.As(err, &start) || start.Code != want {
			t.Errorf("%v: %v, want %s", cmd.Argv, err, want)
		}
	}
}

func TestStreamsStayApart(t *testing.T) {
	a := serve(t, nil)
	var stdout, stderr bytes.Buffer
	cmd := sh("cat; echo to-stderr >&2")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("hello\n"), &stdout, &stderr
	run(t, a, cmd)
	if stdout.String() != "hello\n" || stderr.String() != "to-stderr\n" {
		t.Fatalf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
}

// Nothing is lost, doubled or reordered, wherever the link breaks.
func TestBrokenLinks(t *testing.T) {
	want := noise(6 << 20)
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			a := serve(t, random(seed, 700<<10))
			var stdout bytes.Buffer
			cmd := sh("cat; exit 3")
			cmd.Stdin, cmd.Stdout = bytes.NewReader(want), &stdout
			if exit := run(t, a, cmd); exit.Code != 3 {
				t.Errorf("exit %+v", exit)
			}
			if !bytes.Equal(stdout.Bytes(), want) {
				t.Errorf("%d bytes came back of %d, or other ones", stdout.Len(), len(want))
			}
			if a.breaks.Load() < 5 {
				t.Errorf("only %d breaks", a.breaks.Load())
			}
		})
	}
}

// A slow reader of stdout slows the command, also across breaks.
func TestSlowWriterAndBrokenLinks(t *testing.T) {
	a := serve(t, random(11, 300<<10))
	r, w := io.Pipe()
	cmd := sh("i=0; while [ $i -lt 40 ]; do head -c 100000 /dev/zero; echo $i >&2; i=$((i+1)); done")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &stderr
	var total int64
	var reader sync.WaitGroup
	reader.Go(func() {
		buf := make([]byte, 1000)
		for {
			n, err := r.Read(buf)
			total += int64(n)
			if err != nil {
				return
			}
		}
	})
	run(t, a, cmd)
	w.Close()
	reader.Wait()
	if total != 40*100000 {
		t.Errorf("stdout has %d bytes", total)
	}
	var want strings.Builder
	for i := range 40 {
		fmt.Fprintln(&want, i)
	}
	if stderr.String() != want.String() {
		t.Errorf("stderr is %q", stderr.String())
	}
	if a.breaks.Load() < 5 {
		t.Errorf("only %d breaks", a.breaks.Load())
	}
}

// A consumer that takes no output until its input has been taken: input flows
// while output is blocked.
func TestInputFlowsWhileOutputIsBlocked(t *testing.T) {
	a := serve(t, nil)
	const size = 3 << 20
	r, w := io.Pipe()
	inR, inW := io.Pipe()
	cmd := sh("exec 3<&0; cat <&3 > /dev/null & head -c 3145728 /dev/zero; wait")
	cmd.Stdin, cmd.Stdout = inR, w
	var total int64
	var consumer sync.WaitGroup
	consumer.Go(func() {
		if _, err := inW.Write(make([]byte, size)); err != nil {
			t.Error(err)
		}
		inW.Close()
		total, _ = io.Copy(io.Discard, r)
	})
	run(t, a, cmd)
	w.Close()
	consumer.Wait()
	if total != size {
		t.Errorf("%d bytes of output", total)
	}
}

func TestInputThatNeverEnds(t *testing.T) {
	a := serve(t, nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	in, err := tty.NewInput(r)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := sh("exit 4")
	cmd.Stdin = in
	if exit := run(t, a, cmd); exit.Code != 4 {
		t.Fatalf("exit %+v", exit)
	}
}

// watched tells when a text has been written.
type watched struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	text string
	seen chan struct{}
	once sync.Once
}

func watch(text string) *watched { return &watched{text: text, seen: make(chan struct{})} }

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	if strings.Contains(w.buf.String(), w.text) {
		w.once.Do(func() { close(w.seen) })
	}
	return len(p), nil
}

func TestSignalsArriveAcrossABreak(t *testing.T) {
	lives := []int64{300, 1 << 40}
	var at int
	a := serve(t, func() int64 { at++; return lives[min(at, len(lives))-1] })
	out := watch("ready")
	signals := make(chan syscall.Signal, 1)
	cmd := sh("trap 'exit 9' USR1; head -c 400 /dev/zero; echo ready; while :; do sleep 0.01; done")
	cmd.Stdout, cmd.Signals = out, signals
	var sender sync.WaitGroup
	sender.Go(func() { <-out.seen; signals <- syscall.SIGUSR1 })
	exit := run(t, a, cmd)
	sender.Wait()
	if exit.Code != 9 || a.breaks.Load() != 1 {
		t.Fatalf("exit %+v after %d breaks", exit, a.breaks.Load())
	}
}

func TestTerminalAndResize(t *testing.T) {
	a := serve(t, nil)
	out := watch("33 44")
	first := watch("11 22")
	resize := make(chan guestexec.Size, 1)
	cmd := sh("trap 'stty size < /dev/tty; exit 0' WINCH; stty size < /dev/tty; while :; do sleep 0.01; done")
	cmd.TTY, cmd.Size, cmd.Resize = true, guestexec.Size{Rows: 11, Cols: 22}, resize
	cmd.Stdout = io.MultiWriter(first, out)
	var sender sync.WaitGroup
	sender.Go(func() { <-first.seen; resize <- guestexec.Size{Rows: 33, Cols: 44} })
	run(t, a, cmd)
	sender.Wait()
	select {
	case <-out.seen:
	default:
		t.Fatalf("output is %q", out.buf.String())
	}
}

// A client that is cancelled has left: the command gets SIGHUP.
func TestLeaving(t *testing.T) {
	a := serve(t, nil)
	mark := filepath.Join(t.TempDir(), "mark")
	if err := syscall.Mkfifo(mark, 0o600); err != nil {
		t.Fatal(err)
	}
	out := watch("ready")
	cmd := sh("trap 'echo hup > " + mark + "; exit' HUP; echo ready; while :; do sleep 0.01; done")
	cmd.Stdout = out
	ctx, cancel := context.WithCancel(t.Context())
	var canceller sync.WaitGroup
	canceller.Go(func() { <-out.seen; cancel() })
	_, err := guestexec.Run(ctx, a.dial, cmd)
	canceller.Wait()
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Run: %v", err)
	}
	if data, err := os.ReadFile(mark); err != nil || string(data) != "hup\n" {
		t.Fatalf("mark: %q, %v", data, err)
	}
}

func TestOutputThatCannotBeWritten(t *testing.T) {
	a := serve(t, nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	cmd := sh("while :; do echo x; done")
	cmd.Stdout = w
	_, err = guestexec.Run(t.Context(), a.dial, cmd)
	var output *guestexec.OutputError
	if !errors.As(err, &output) || !errors.Is(err, syscall.EPIPE) {
		t.Fatalf("Run: %v", err)
	}
}

func BenchmarkThroughput(b *testing.B) {
	a := serve(b, nil)
	const size = 64 << 20
	data := noise(size)
	for name, both := range map[string]bool{"out": false, "cat": true} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				cmd := guestexec.Command{Argv: []string{"head", "-c", fmt.Sprint(size), "/dev/zero"}, Stdout: io.Discard, Stderr: io.Discard}
				if both {
					cmd.Argv, cmd.Stdin = []string{"cat"}, bytes.NewReader(data)
				}
				if _, err := guestexec.Run(b.Context(), a.dial, cmd); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkTrue(b *testing.B) {
	a := serve(b, nil)
	for b.Loop() {
		if _, err := guestexec.Run(b.Context(), a.dial, guestexec.Command{Argv: []string{"true"}, Stdout: io.Discard, Stderr: io.Discard}); err != nil {
			b.Fatal(err)
		}
	}
}

// A pause of the guest is no time in which its link did not come back.
func TestPausedLongerThanRejoin(t *testing.T) {
	first := int64(100)
	a := serve(t, func() int64 { n := first; first = 1 << 40; return n })
	pauses := 0
	dial := func(ctx context.Context) (net.Conn, error) {
		if a.breaks.Load() > 0 && pauses < 3 {
			pauses++
			<-ctx.Done()
			return nil, stream.ErrPaused
		}
		return a.dial(ctx)
	}
	var stdout bytes.Buffer
	cmd := sh("head -c 100000 /dev/zero; exit 9")
	cmd.Stdout, cmd.Rejoin = &stdout, 50*time.Millisecond
	exit, err := guestexec.Run(t.Context(), dial, cmd)
	if err != nil || exit.Code != 9 || stdout.Len() != 100000 || pauses != 3 {
		t.Errorf("%+v, %v, %d bytes, %d pauses", exit, err, stdout.Len(), pauses)
	}
}
