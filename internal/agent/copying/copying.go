// Package copying is the guest's end of banger vm cp: a process that packs a tree to
// its stdout, or unpacks one from its stdin.
//
//	pack PATH              writes the archive of PATH, under treetar.Top(PATH)
//	unpack TOP PATH        makes what stdin holds, below TOP, at PATH
//	unpack --owners TOP PATH
//
// It ends with 0; with 1 and one line on stderr when it failed; with 3 when it is done
// and some of it could not be copied, which is said in lines on stderr.
package copying

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/treetar"
)

// Name of the program, as banger.agent.v1.ExecStart has it.
const Name = "copy"

// The exit codes besides 0.
const (
	failed  = 1
	skipped = 3
)

// garbage lets the heap grow to so many times what is in use, in percent.
const garbage = 1000

// pipeSize is what any process may give a pipe (Linux's fs.pipe-max-size), in bytes.
const pipeSize = 1 << 20

// writeBuffer gathers what an archive is made of, in bytes: headers and small files.
const writeBuffer = 64 << 10

// Main runs the program, and returns its exit code.
func Main(args []string, in io.Reader, out, errs io.Writer) int {
	settle(in, out)
	sum, err := run(args, in, out)
	if err != nil {
		fmt.Fprintln(errs, err)
		return failed
	}
	for _, note := range sum.Notes {
		fmt.Fprintln(errs, note)
	}
	if sum.Skipped > 0 {
		return skipped
	}
	return 0
}

// settle fits this process to its work. It keeps little and is over soon: what it lets
// go of is hardly worth a search. With one processor, Go's scheduler would wake
// another thread at each call that takes longer than 20 µs, to have it find nothing:
// not while a second one seems to be idle. And a large pipe is filled and emptied in
// fewer turns.
func settle(files ...any) {
	debug.SetGCPercent(garbage)
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0)))
	for _, f := range files {
		if f, ok := f.(*os.File); ok {
			// No pipe, or none that may be so large: it is as large as it was.
			_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, pipeSize)
		}
	}
}

func run(args []string, in io.Reader, out io.Writer) (treetar.Summary, error) {
	switch {
	case len(args) == 2 && args[0] == "pack":
		w := bufio.NewWriterSize(out, writeBuffer)
		sum, err := new(treetar.Packer).Pack(context.Background(), w, args[1])
		return sum, errors.Join(err, w.Flush())
	case len(args) == 3 && args[0] == "unpack":
		return unpack(treetar.Unpacker{}, in, args[1:])
	case len(args) == 4 && args[0] == "unpack" && args[1] == "--owners":
		return unpack(treetar.Unpacker{Owners: true}, in, args[2:])
	}
	return treetar.Summary{}, fmt.Errorf("usage: pack PATH, or unpack [--owners] TOP PATH, not %q", args)
}

func unpack(u treetar.Unpacker, in io.Reader, args []string) (treetar.Summary, error) {
	sum, err := u.Unpack(context.Background(), bufio.NewReaderSize(in, writeBuffer), args[1], args[0])
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the archive is cut off")
	}
	var path *os.PathError
	if errors.As(err, &path) && path.Path == "." {
		err = path.Err
	}
	return sum, err
}
