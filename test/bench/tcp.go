package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/network"
)

// tcpPort is where the server of rawGuest listens.
const tcpPort = 5201

// dialer connects to that server.
type dialer func(context.Context) (net.Conn, error)

// tcp measures a connection into the guest through the VM's own address on this
// host, against one that is made on the network stack itself: in this process, to
// the same server in the same machine. Between them are the sockets of the host's
// loopback, and the copying to and from them.
func (b *bench) tcp(ctx context.Context) (_ []row, err error) {
	machine, err := b.rawMachine(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bare, err := machine.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bare.close()) }()
	if err := bare.await("bench: raw"); err != nil {
		return nil, err
	}
	stack, err := network.New(network.Config{})
	if err != nil {
		return nil, err
	}
	defer stack.Close()
	attached := make(chan error, 1)
	go func() { attached <- stack.Attach(ctx, bare.conns["net"]) }()
	defer func() { cancel(); <-attached }()
	forwarded, end, err := b.serveTCP(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	raw := func(ctx context.Context) (net.Conn, error) {
		return stack.DialContext(ctx, netip.AddrPortFrom(netip.MustParseAddr(banger.GuestAddress), tcpPort))
	}
	ours := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", forwarded)
	}
	return b.tcpRows(ctx, ours, raw)
}

// tcpRows measures both directions.
func (b *bench) tcpRows(ctx context.Context, ours, raw dialer) (_ []row, err error) {
	out := row{Name: "TCP out of the guest, through a forwarded port", Unit: "MiB/s", HigherIsBetter: true}
	in := row{Name: "TCP into the guest, through a forwarded port", Unit: "MiB/s", HigherIsBetter: true}
	if out, err = out.measured(ctx, b.n, tcpOut(ours), yard{name: "the stack itself", limit: 0.8, probe: tcpOut(raw)}); err != nil {
		return nil, err
	}
	if in, err = in.measured(ctx, b.n, tcpIn(ours), yard{name: "the stack itself", limit: 0.8, probe: tcpIn(raw)}); err != nil {
		return []row{out}, err
	}
	return []row{out, in}, nil
}

// serveTCP runs the server of rawGuest in the VM, and returns where it is reached
// once that is so. end stops it.
func (b *bench) serveTCP(ctx context.Context) (address string, end func(), err error) {
	program, err := os.Open(filepath.Join(b.home.dir, "raw-init"))
	if err != nil {
		return "", nil, err
	}
	defer program.Close()
	upload := b.home.command(ctx, "vm", "exec", b.vm.Name, "--", "sh", "-c", "cat >/root/tcp && chmod 755 /root/tcp")
	upload.Stdin = program
	if err := finish(upload); err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bareTime)
	defer cancel()
	server := b.home.command(ctx, "vm", "exec", b.vm.Name, "--", "sh", "-c",
		"setsid /root/tcp serve >/root/tcp.log 2>&1 & until grep -q listening /root/tcp.log; do sleep 0.1; done")
	if err := finish(server); err != nil {
		return "", nil, err
	}
	end = func() {
		if err := b.home.run(context.WithoutCancel(ctx), "vm", "exec", b.vm.Name, "--", "pkill", "-x", "tcp"); err != nil {
			b.say("the server in the VM does not end: %v", err)
		}
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := b.home.output(ctx, "vm", "ports", "-q", b.vm.Name)
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); strings.HasSuffix(line, fmt.Sprint(":", tcpPort)) {
				return line, end, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			end()
			return "", nil, errors.Join(err, ctx.Err())
		}
	}
}

// begin connects and says what is wanted. When ctx ends, so does the connection.
func (d dialer) begin(ctx context.Context, verb string) (conn net.Conn, end func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, bareTime)
	conn, err = d(ctx)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	end = func() { stop(); conn.Close(); cancel() }
	if _, err := fmt.Fprintf(conn, "%s %d\n", verb, pipeBytes); err != nil {
		end()
		return nil, nil, err
	}
	return conn, end, nil
}

// tcpOut takes bytes from the server.
func tcpOut(d dialer) probe {
	return func(ctx context.Context) (float64, error) {
		conn, end, err := d.begin(ctx, "out")
		if err != nil {
			return 0, err
		}
		defer end()
		start := time.Now()
		var got counter
		_, err = io.CopyBuffer(&got, struct{ io.Reader }{conn}, make([]byte, tcpBlock))
		value := speed(start)
		if err == nil && got != pipeBytes {
			err = fmt.Errorf("%d bytes came, not %d", got, pipeBytes)
		}
		return value, err
	}
}

// tcpBlock is how much is read and written at once.
const tcpBlock = 256 << 10

// tcpIn gives bytes to the server.
func tcpIn(d dialer) probe {
	return func(ctx context.Context) (float64, error) {
		conn, end, err := d.begin(ctx, "in")
		if err != nil {
			return 0, err
		}
		defer end()
		start := time.Now()
		if _, err := io.CopyBuffer(struct{ io.Writer }{conn}, io.LimitReader(zeros{}, pipeBytes), make([]byte, tcpBlock)); err != nil {
			return 0, err
		}
		word, err := bufio.NewReader(conn).ReadByte()
		value := speed(start)
		if err == nil && word != 0 {
			err = fmt.Errorf("the server says %q", word)
		}
		return value, err
	}
}
