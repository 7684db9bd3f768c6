package sshd

import (
	"context"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/banger-dev/banger/internal/agent/account"
)

// connection is one authenticated client.
type connection struct {
	server *Server
	ssh    *ssh.ServerConn
	who    *account.Account
	// ctx ends with the connection.
	ctx    context.Context
	cancel context.CancelFunc
	// slots bounds the channels that are open, by either end.
	slots   chan struct{}
	running sync.WaitGroup

	mu        sync.Mutex
	listeners map[string]net.Listener // of remote forwards, by the address asked for
}

func newConnection(s *Server, conn *ssh.ServerConn, who *account.Account) *connection {
	c := &connection{
		server: s, ssh: conn, who: who,
		slots: make(chan struct{}, maxChannels), listeners: map[string]net.Listener{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// serve returns when the connection has ended and all its channels are done.
func (c *connection) serve(channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	c.running.Go(func() { c.global(requests) })
	for ch := range channels {
		if !c.acquire() {
			_ = ch.Reject(ssh.ResourceShortage, "too many channels")
			continue
		}
		c.running.Go(func() {
			defer c.release()
			c.open(ch)
		})
	}
	c.cancel()
	c.closeListeners()
	_ = c.ssh.Close()
	c.running.Wait()
}

func (c *connection) acquire() bool {
	select {
	case c.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (c *connection) release() { <-c.slots }

func (c *connection) open(ch ssh.NewChannel) {
	switch ch.ChannelType() {
	case "session":
		c.session(ch)
	case "direct-tcpip":
		c.directTCP(ch)
	case "direct-streamlocal@openssh.com":
		c.directUnix(ch)
	default:
		_ = ch.Reject(ssh.UnknownChannelType, "no such channel")
	}
}

// global answers the requests that belong to no channel.
func (c *connection) global(requests <-chan *ssh.Request) {
	for req := range requests {
		ok, payload := false, []byte(nil)
		switch req.Type {
		case "tcpip-forward":
			ok, payload = c.listen(req.Payload)
		case "cancel-tcpip-forward":
			ok = c.unlisten(req.Payload)
		case "keepalive@openssh.com":
			ok = true
		}
		if req.WantReply {
			_ = req.Reply(ok, payload)
		}
	}
}
