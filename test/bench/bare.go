package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-dev/banger/internal/disk"
	"github.com/banger-dev/banger/internal/driver/vmmproc"
	"github.com/banger-dev/banger/internal/unixsock"
)

// bareTime bounds one start of a bare machine.
const bareTime = 2 * time.Minute

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// bareMachine is a VM of QEMU alone: the command line of a VM of banger, so that
// it has the same machine and the same devices, without what contains it.
type bareMachine struct {
	commandLine
	// scratch is where each start gets a directory, on the file system of the
	// VMs; disks is where the writable disks are copied from.
	scratch, disks string
	// state, if set, is the file of the devices' state of the frozen guest that
	// the command line waits for.
	state string
}

// bareVM is one that runs.
type bareVM struct {
	dir    string
	cmd    *exec.Cmd
	stderr bytes.Buffer
	// conns are the other ends of its sockets, by their names.
	conns map[string]net.Conn
	// console reads that socket.
	console *bufio.Scanner
}

// prepare makes the directory of one VM, with its disks.
func (m bareMachine) prepare(ctx context.Context) (*bareVM, error) {
	dir, err := os.MkdirTemp(m.scratch, "bare-")
	if err != nil {
		return nil, err
	}
	for _, name := range m.writable {
		if err := disk.Clone(ctx, filepath.Join(dir, name), filepath.Join(m.disks, name)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	return &bareVM{dir: dir, conns: map[string]net.Conn{}}, nil
}

// start starts QEMU in what was prepared. When ctx ends, so does the VM.
func (m bareMachine) start(ctx context.Context, v *bareVM) error {
	var paths []string
	for _, name := range m.sockets {
		paths = append(paths, filepath.Join(v.dir, name))
	}
	files, err := vmmproc.Listen(paths)
	if err != nil {
		return err
	}
	defer func() { vmmproc.CloseAll(files) }()
	for i, name := range m.sockets {
		conn, err := unixsock.Dial(ctx, paths[i])
		if err != nil {
			return err
		}
		v.conns[name] = conn
	}
	if m.state != "" {
		state, err := openState(m.state)
		if err != nil {
			return err
		}
		files = append(files, state)
	}
	v.console = bufio.NewScanner(v.conns["console"])
	argv := m.argv(v.dir)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.ExtraFiles, cmd.Stderr = v.dir, files, &v.stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	v.cmd = cmd
	return nil
}

// begin prepares and starts one. The caller closes it.
func (m bareMachine) begin(ctx context.Context) (*bareVM, error) {
	v, err := m.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if err := m.start(ctx, v); err != nil {
		return nil, errors.Join(err, v.close())
	}
	return v, nil
}

// await reads the console up to a line that ends with word.
func (v *bareVM) await(word string) error {
	var said []string
	for v.console.Scan() {
		line := strings.TrimSpace(v.console.Text())
		if strings.HasSuffix(line, word) {
			return nil
		}
		said = append(said, line)
	}
	err := v.console.Err()
	if err == nil {
		err = errors.New("its console ended")
	}
	return fmt.Errorf("bare VM: %w\n%s", err, strings.Join(said[max(0, len(said)-10):], "\n"))
}

// close powers it off and removes its files. It returns what QEMU complained
// of, if it had ended before.
func (v *bareVM) close() error {
	for _, conn := range v.conns {
		conn.Close()
	}
	var err error
	if v.cmd != nil {
		v.cmd.Process.Kill()
		v.cmd.Wait()
		if text := strings.TrimSpace(v.stderr.String()); v.cmd.ProcessState.Exited() && text != "" {
			err = fmt.Errorf("QEMU: %s", text)
		}
	}
	return errors.Join(err, os.RemoveAll(v.dir))
}

// boot measures from the start of QEMU to the word of /init, in ms.
func (m bareMachine) boot(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, bareTime)
	defer cancel()
	v, err := m.prepare(ctx)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err = m.start(ctx, v); err == nil {
		err = v.await(leastWord)
	}
	took := millis(time.Since(start))
	return took, errors.Join(err, v.close())
}
