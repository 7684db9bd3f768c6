package sshd

import (
	"io"
	"net"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"
)

// dialTimeout bounds a forwarded dial inside the guest.
const dialTimeout = 15 * time.Second

// lastWrites bounds how long the last bytes of a closed channel are written.
const lastWrites = time.Minute

// directTCP is a connection that the client forwards to a place that the guest
// can reach (ssh -L, -D, -W).
func (c *connection) directTCP(ch ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(ch.ExtraData(), &to); err != nil || to.Port > 65535 {
		_ = ch.Reject(ssh.ConnectionFailed, "bad address")
		return
	}
	c.forward(ch, "tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
}

// directUnix is the same for a unix socket. The agent dials as root, so that
// only root may ask it to.
func (c *connection) directUnix(ch ssh.NewChannel) {
	var to struct {
		Path      string
		Reserved  string
		Reserved2 uint32
	}
	if c.who.UID != 0 {
		_ = ch.Reject(ssh.Prohibited, "sockets are forwarded for root only")
		return
	}
	if err := ssh.Unmarshal(ch.ExtraData(), &to); err != nil {
		_ = ch.Reject(ssh.ConnectionFailed, "bad path")
		return
	}
	c.forward(ch, "unix", to.Path)
}

func (c *connection) forward(ch ssh.NewChannel, network, address string) {
	dialer := &net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(c.ctx, network, address)
	if err != nil {
		_ = ch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	channel, requests, err := ch.Accept()
	if err != nil {
		_ = conn.Close()
		return
	}
	c.splice(channel, requests, conn)
}

// splice copies both ways until both ends have said all, or the channel closes.
// It closes both.
func (c *connection) splice(channel ssh.Channel, requests <-chan *ssh.Request, conn net.Conn) {
	c.running.Go(func() {
		ssh.DiscardRequests(requests) // until the channel is closed
		// What has come from it may still be on its way to conn.
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		_ = conn.SetWriteDeadline(time.Now().Add(lastWrites))
	})
	upload := make(chan struct{})
	c.running.Go(func() {
		defer close(upload)
		_, _ = io.Copy(conn, channel)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	_, _ = io.Copy(channel, conn)
	_ = channel.CloseWrite()
	<-upload
	_ = channel.Close()
	_ = conn.Close()
}

// listenAddress is the payload of tcpip-forward and its cancellation.
type listenAddress struct {
	Host string
	Port uint32
}

func (a listenAddress) key() string { return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))) }

// listen begins a remote forward (ssh -R), on the guest's loopback only, as
// OpenSSH does by default.
func (c *connection) listen(payload []byte) (bool, []byte) {
	var at listenAddress
	if err := ssh.Unmarshal(payload, &at); err != nil || at.Port > 65535 {
		return false, nil
	}
	if c.who.UID != 0 && at.Port != 0 && at.Port < 1024 {
		return false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil || len(c.listeners) >= maxListeners {
		return false, nil
	}
	host := "127.0.0.1"
	if at.Host == "::1" {
		host = at.Host
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(at.Port))))
	if err != nil {
		c.server.log.Debug("ssh remote forward", "err", err)
		return false, nil
	}
	asked := at.Port
	if tcp, ok := listener.Addr().(*net.TCPAddr); ok {
		at.Port = uint32(tcp.Port)
	}
	c.listeners[at.key()] = listener
	c.running.Go(func() { c.acceptForwarded(listener, at) })
	if asked != 0 {
		return true, nil
	}
	return true, ssh.Marshal(struct{ Port uint32 }{at.Port})
}

func (c *connection) unlisten(payload []byte) bool {
	var at listenAddress
	if err := ssh.Unmarshal(payload, &at); err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	listener, ok := c.listeners[at.key()]
	if ok {
		_ = listener.Close()
		delete(c.listeners, at.key())
	}
	return ok
}

func (c *connection) closeListeners() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, listener := range c.listeners {
		_ = listener.Close()
	}
}

func (c *connection) acceptForwarded(listener net.Listener, at listenAddress) {
	c.accept(listener, func(conn net.Conn) (string, []byte) {
		origin := listenAddress{Host: "127.0.0.1"}
		if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
			origin = listenAddress{Host: tcp.IP.String(), Port: uint32(tcp.Port)}
		}
		return "forwarded-tcpip", append(ssh.Marshal(at), ssh.Marshal(origin)...)
	})
}

// accept opens a channel to the client for each connection, until the listener
// is closed. describe gives the channel's type and its extra data.
func (c *connection) accept(listener net.Listener, describe func(net.Conn) (string, []byte)) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		if !c.acquire() {
			_ = conn.Close()
			continue
		}
		c.running.Go(func() {
			defer c.release()
			kind, extra := describe(conn)
			channel, requests, err := c.ssh.OpenChannel(kind, extra)
			if err != nil {
				_ = conn.Close()
				return
			}
			c.splice(channel, requests, conn)
		})
	}
}
