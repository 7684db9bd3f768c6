package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/linkwire"
)

// maxStateLine bounds the line before the state of the devices, in bytes.
const maxStateLine = 4 << 10

// openState opens a file of devices' state where the state begins: after its
// first line.
func openState(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	head := make([]byte, maxStateLine)
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	at := bytes.IndexByte(head[:n], '\n')
	if err == nil && at < 0 {
		err = fmt.Errorf("%s: there is no line", path)
	}
	if err == nil {
		_, err = f.Seek(int64(at)+1, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// frozenMachine is the machine of a VM that was started from the template called
// key, for bare starts from the same template.
func (b *bench) frozenMachine(forked vm, key string) (bareMachine, error) {
	m := bareMachine{scratch: b.home.dir}
	home, err := b.home.layout()
	if err != nil {
		return m, err
	}
	dir := home.Template(key)
	m.disks, m.state = dir.Dir(), dir.DeviceState()
	m.commandLine, err = commandLineOf(forked.VMMPID)
	return m, err
}

// restoreAtOnce measures n at once, from the start of the first QEMU to the first
// byte that the last guest's agent answers, in ms. The disks are there before.
func (m bareMachine) restoreAtOnce(ctx context.Context, n int) (_ float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, bareTime)
	defer cancel()
	var vms []*bareVM
	defer func() {
		for _, v := range vms {
			err = errors.Join(err, v.close())
		}
	}()
	for range n {
		v, err := m.prepare(ctx)
		if err != nil {
			return 0, err
		}
		vms = append(vms, v)
	}
	failed := make([]error, n)
	var all sync.WaitGroup
	start := time.Now()
	for i, v := range vms {
		all.Go(func() { failed[i] = m.resume(ctx, v) })
	}
	all.Wait()
	return millis(time.Since(start)), errors.Join(failed...)
}

// resume starts a VM, has it load its guest, and reads its first byte.
func (m bareMachine) resume(ctx context.Context, v *bareVM) error {
	if err := m.start(ctx, v); err != nil {
		return err
	}
	q := monitor{conn: v.conns["qmp"], in: bufio.NewReader(v.conns["qmp"])}
	if err := q.load(fmt.Sprintf("fd:%d", firstFile+len(m.sockets))); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	bell := linkwire.Doorbell{Kind: linkwire.KindReset}
	rand.Read(bell.Nonce[:])
	if _, err := v.conns["ctl"].Write(bell.Append(nil)); err != nil {
		return err
	}
	_, err := io.ReadFull(v.conns["data"], make([]byte, 1))
	return err
}

// monitor is QEMU's, for one command after the other.
type monitor struct {
	conn net.Conn
	in   *bufio.Reader
	// events came while something else was waited for.
	events []qmpMessage
}

type qmpMessage struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Status string `json:"status"`
	} `json:"data"`
}

// load has QEMU load a guest from uri and run it.
func (q *monitor) load(uri string) error {
	capability := func(name string) map[string]any { return map[string]any{"capability": name, "state": true} }
	capabilities := map[string]any{"capabilities": []any{capability("x-ignore-shared"), capability("events")}}
	if err := errors.Join(
		q.do("qmp_capabilities", nil),
		q.do("migrate-set-capabilities", capabilities),
		q.do("migrate-set-parameters", map[string]any{"announce-rounds": 0}),
		// A guest that sends before its network is served crashes QEMU 7.2.
		q.await("NETDEV_STREAM_CONNECTED", ""),
		q.do("migrate-incoming", map[string]any{"uri": uri}),
		q.await("MIGRATION", "completed"),
	); err != nil {
		return err
	}
	return q.do("cont", nil)
}

// do runs one command.
func (q *monitor) do(name string, args map[string]any) error {
	command := map[string]any{"execute": name}
	if args != nil {
		command["arguments"] = args
	}
	if err := json.NewEncoder(q.conn).Encode(command); err != nil {
		return err
	}
	for {
		m, err := q.read()
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		case m.Error != nil:
			return fmt.Errorf("%s: %s", name, m.Error.Desc)
		case m.Return != nil:
			return nil
		case m.Event != "":
			q.events = append(q.events, m)
		}
	}
}

// await returns when an event with a status has come, or had.
func (q *monitor) await(event, status string) error {
	for {
		for _, m := range q.events {
			if m.Event == event && m.Data.Status == status {
				return nil
			}
			if m.Event == event && m.Data.Status == "failed" {
				return fmt.Errorf("%s: failed", event)
			}
		}
		m, err := q.read()
		if err != nil {
			return fmt.Errorf("%s: %w", event, err)
		}
		q.events = append(q.events, m)
	}
}

func (q *monitor) read() (m qmpMessage, err error) {
	line, err := q.in.ReadBytes('\n')
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(line, &m)
}

// templateOf returns the key of the template that a VM's disks were copied from:
// the one of its shape.
func (b *bench) templateOf(forked vm) (string, error) {
	line, err := commandLineOf(forked.VMMPID)
	if err != nil {
		return "", err
	}
	for i := 1; i < len(line.args); i++ {
		var memory struct {
			Path string `json:"mem-path"`
		}
		if line.args[i-1] == "-object" && json.Unmarshal([]byte(line.args[i]), &memory) == nil && memory.Path != "" {
			dir := filepath.Dir(memory.Path)
			if layout.Instance(dir).Memory() == memory.Path {
				return filepath.Base(dir), nil
			}
		}
	}
	return "", fmt.Errorf("vm %q was not started from a template", forked.Name)
}
