package tty

import (
	"io"
	"os"
	"sync"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

func TestRawAndRestore(t *testing.T) {
	ptmx, pts, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	defer pts.Close()
	before, err := unix.IoctlGetTermios(int(pts.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	terminal := New(pts)
	for range 2 { // twice is as good as once
		if err := terminal.Raw(); err != nil {
			t.Fatal(err)
		}
	}
	if raw, _ := unix.IoctlGetTermios(int(pts.Fd()), unix.TCGETS); raw.Lflag&unix.ICANON != 0 {
		t.Error("not raw")
	}
	terminal.Restore()
	terminal.Restore()
	if after, _ := unix.IoctlGetTermios(int(pts.Fd()), unix.TCGETS); *after != *before {
		t.Errorf("%+v, was %+v", after, before)
	}
	if !IsTerminal(pts) {
		t.Error("a terminal is not known as one")
	}
}

func TestInput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	in, err := NewInput(r)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "hello")
	buf := make([]byte, 10)
	if n, err := in.Read(buf); n != 5 || err != nil {
		t.Fatalf("Read: %d, %v", n, err)
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		if n, err := in.Read(buf); n != 0 || err != io.EOF {
			t.Errorf("interrupted Read: %d, %v", n, err)
		}
	})
	in.Interrupt()
	reader.Wait()
	in.Close()
	// The file is as it was: open, and with its bytes.
	io.WriteString(w, "more")
	if n, err := r.Read(buf); n != 4 || err != nil {
		t.Errorf("the file: %d, %v", n, err)
	}
}

func TestInputEnds(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in, err := NewInput(r)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	w.Close()
	if n, err := in.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("Read: %d, %v", n, err)
	}
}
