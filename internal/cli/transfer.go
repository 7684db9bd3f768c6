package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/client/guestexec"
	"github.com/banger-dev/banger/internal/cli/tty"
	"github.com/banger-dev/banger/internal/treetar"
)

const (
	// copyProgram is the agent's own that is the guest's end of a copy.
	copyProgram = "copy"
	// copyLeftOut is its exit code when something was left out, which its stderr
	// lists.
	copyLeftOut = 3
	// maxGuestSaid bounds what is kept of its stderr, in bytes.
	maxGuestSaid = 16 << 10
	// copyBuffer gathers small entries, in bytes.
	copyBuffer = 64 << 10
)

// errGuestDone ends the packing of an archive that nobody reads any more.
var errGuestDone = errors.New("the guest has stopped reading")

// transfer is one copy: the guest's end is a process of its agent, behind the exec
// door, and the host's is here.
type transfer struct {
	opts *vmCpOptions
	vm   *bangerv1.VM
	dial guestexec.Dial
	tell func(treetar.Summary)
	sum  treetar.Summary
}

// guest runs the guest's end. A failure that it tells is the error.
func (t *transfer) guest(ctx context.Context, cmd guestexec.Command) error {
	var said saidBytes
	cmd.Builtin, cmd.User, cmd.Stderr = copyProgram, t.opts.user, &said
	exit, err := guestexec.Run(ctx, t.dial, cmd)
	switch {
	case err != nil:
		return describeExecError(t.vm, err)
	case exit.Code == 0:
	case exit.Code == copyLeftOut:
		t.leftOut(said.lines())
	default:
		return t.failed(exit, said.lines())
	}
	return nil
}

// leftOut takes the guest's word for what it has not copied.
func (t *transfer) leftOut(lines []string) {
	t.sum.Notes = append(t.sum.Notes, lines...)
	t.sum.Skipped += int64(len(lines))
}

func (t *transfer) failed(exit guestexec.Exit, lines []string) error {
	text := "its end of the copy was killed"
	if len(lines) > 0 {
		text = lines[len(lines)-1]
	} else if exit.Signal == 0 {
		text = "its end of the copy failed without a word"
	}
	return banger.Errorf(banger.CodeFailed, "vm %q: %s", t.vm.Name, text)
}

// send copies into the VM.
func (t *transfer) send(ctx context.Context) error {
	argv := []string{"unpack"}
	if t.opts.owners {
		argv = append(argv, "--owners")
	}
	if t.opts.host == stdStream {
		return t.sendStream(ctx, append(argv, "", t.opts.guest))
	}
	read, write := io.Pipe()
	packed := make(chan error, 1)
	packing, cancel := context.WithCancel(ctx)
	defer cancel()
	var sum treetar.Summary
	go func() {
		w := bufio.NewWriterSize(write, copyBuffer)
		var err error
		sum, err = (&treetar.Packer{Progress: t.tell}).Pack(packing, w, t.opts.host)
		if err == nil {
			err = w.Flush()
		}
		write.Close() // an archive that is cut off has no end: the guest sees that
		packed <- err
	}()
	err := t.guest(ctx, guestexec.Command{
		Argv: append(argv, treetar.Top(t.opts.host), t.opts.guest), Stdin: pipeInput{read}, Stdout: io.Discard,
	})
	cancel()
	read.CloseWithError(errGuestDone)
	packErr := <-packed
	sum.Notes, sum.Skipped = append(sum.Notes, t.sum.Notes...), sum.Skipped+t.sum.Skipped
	t.sum = sum
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case packErr != nil && !errors.Is(packErr, errGuestDone) && !errors.Is(packErr, context.Canceled):
		return t.hostError(packErr)
	}
	return err
}

// sendStream has the guest unpack what stdin has.
func (t *transfer) sendStream(ctx context.Context, argv []string) error {
	stdin := t.opts.app.IO.In
	if f, ok := stdin.(*os.File); ok {
		input, err := tty.NewInput(f)
		if err != nil {
			return err
		}
		defer input.Close()
		stdin = input
	}
	return t.guest(ctx, guestexec.Command{Argv: argv, Stdin: stdin, Stdout: io.Discard})
}

// receive copies out of the VM.
func (t *transfer) receive(ctx context.Context) error {
	pack := guestexec.Command{Argv: []string{"pack", t.opts.guest}}
	if t.opts.host == stdStream {
		pack.Stdout = t.opts.app.IO.Out
		return t.guest(ctx, pack)
	}
	read, write := io.Pipe()
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	sent := make(chan error, 1)
	pack.Stdout = write
	go func() {
		err := t.guest(running, pack)
		write.Close()
		sent <- err
	}()
	u := treetar.Unpacker{Progress: t.tell}
	sum, err := u.Unpack(ctx, bufio.NewReaderSize(read, copyBuffer), t.opts.host, treetar.Top(t.opts.guest))
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		cancel() // the guest may have a lot more to send
	}
	read.CloseWithError(errGuestDone)
	guestErr := <-sent
	sum.Notes, sum.Skipped = append(sum.Notes, t.sum.Notes...), sum.Skipped+t.sum.Skipped
	t.sum = sum
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return t.hostError(err)
	case guestErr != nil:
		return guestErr
	case err != nil:
		return banger.Errorf(banger.CodeFailed, "vm %q: what it sent is cut off", t.vm.Name)
	}
	return nil
}

// hostError is a failure of this end.
func (t *transfer) hostError(err error) error {
	code := banger.CodeFailed
	if errors.Is(err, os.ErrNotExist) {
		code = banger.CodeNotFound
	}
	return banger.Errorf(code, "copy: %w", err)
}

// pipeInput is the end of a pipe that guestexec reads, and ends.
type pipeInput struct{ *io.PipeReader }

// Interrupt makes a Read in progress, and all later ones, return.
func (p pipeInput) Interrupt() { p.CloseWithError(errGuestDone) }

// saidBytes keeps the beginning of what a guest says.
type saidBytes struct{ bytes.Buffer }

// Write implements io.Writer.
func (s *saidBytes) Write(p []byte) (int, error) {
	s.Buffer.Write(p[:min(len(p), max(0, maxGuestSaid-s.Len()))])
	return len(p), nil
}

// lines are what it said that is not empty.
func (s *saidBytes) lines() []string {
	return strings.FieldsFunc(s.String(), func(r rune) bool { return r == '\n' || r == '\r' })
}
