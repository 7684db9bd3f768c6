package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/agent/identity"
)

// tcpPort is where serveTCP listens.
const tcpPort = 5201

// cardTime bounds the wait for the network card.
const cardTime = 20 * time.Second

// network gives this guest the address that every guest has.
func network() error {
	ctx, cancel := context.WithTimeout(context.Background(), cardTime)
	defer cancel()
	return identity.ApplyNetwork(ctx, &agentv1.Network{
		Address: banger.GuestAddress + "/" + strconv.Itoa(banger.GuestPrefix), Gateway: banger.GuestGateway, Mtu: banger.GuestMTU,
	})
}

// serveTCP moves bytes: a client says "out N" or "in N" and a line end, and gets N
// zeros, or sends N bytes and gets one. It says on out that it listens.
func serveTCP(out io.Writer) error {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(tcpPort))
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "listening")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := moveTCP(conn); err != nil {
				fmt.Fprintln(conn, "error:", err)
			}
		}()
	}
}

// tcpBlock is how much is moved at once.
const tcpBlock = 256 << 10

func moveTCP(conn net.Conn) error {
	var verb string
	var n int64
	if _, err := fmt.Fscanf(oneByte{conn}, "%s %d\n", &verb, &n); err != nil {
		return err
	}
	buf := make([]byte, tcpBlock)
	switch verb {
	case "out":
		for ; n > 0; n -= int64(len(buf)) {
			if _, err := conn.Write(buf[:min(n, tcpBlock)]); err != nil {
				return err
			}
		}
		return nil
	case "in":
		for n > 0 {
			got, err := conn.Read(buf[:min(n, tcpBlock)])
			if n -= int64(got); err != nil && n > 0 {
				return err
			}
		}
		_, err := conn.Write([]byte{0})
		return err
	}
	return fmt.Errorf("%q is not known", verb)
}

// oneByte reads no further than it is asked: what follows a line is not text.
type oneByte struct{ io.Reader }

func (r oneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1)]) }
