package sshd

import (
	"net"
	"os"
	"path/filepath"
	"sync"
)

// agentSocket is the guest's end of a forwarded SSH agent. A nil one is closed.
type agentSocket struct {
	path     string
	listener net.Listener
	once     sync.Once
}

// forwardAgent makes a socket that leads to the client's agent. Only root and
// the user can reach it.
func (s *session) forwardAgent() bool {
	if s.agent != nil || s.started {
		return false
	}
	socket, err := newAgentSocket(int(s.conn.who.UID), int(s.conn.who.GID))
	if err != nil {
		s.conn.server.log.Warn("ssh agent forwarding", "err", err)
		return false
	}
	s.agent = socket
	s.conn.running.Go(func() {
		s.conn.accept(socket.listener, func(net.Conn) (string, []byte) {
			return "auth-agent@openssh.com", nil
		})
	})
	return true
}

func newAgentSocket(uid, gid int) (*agentSocket, error) {
	dir, err := os.MkdirTemp("", "banger-agent-") // 0700, root's until all is made
	if err != nil {
		return nil, err
	}
	a := &agentSocket{path: filepath.Join(dir, "agent.sock")}
	a.listener, err = net.Listen("unix", a.path)
	if err == nil {
		err = os.Chmod(a.path, 0o600)
	}
	if err == nil {
		err = os.Lchown(a.path, uid, gid)
	}
	if err == nil {
		err = os.Chown(dir, uid, gid)
	}
	if err != nil {
		a.close()
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return a, nil
}

// close ends the listener and removes the socket and its directory. The
// directory is the user's by now: only these two names are touched.
func (a *agentSocket) close() {
	if a == nil || a.listener == nil {
		return
	}
	a.once.Do(func() {
		_ = a.listener.Close()
		_ = os.Remove(a.path)
		_ = os.Remove(filepath.Dir(a.path))
	})
}
