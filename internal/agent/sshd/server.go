// Package sshd is the agent's SSH server: the second door to its process
// manager, for ssh, scp, sftp, rsync, editors and port forwarding. It stands on
// x/crypto/ssh alone; the channels that a login needs are few.
//
// Only public keys are accepted, those that the host gave. The client is the
// VM's owner and trusted with the guest; what it opens is bounded all the same,
// because a client may be broken.
package sshd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/banger-dev/banger/internal/agent/process"
)

const (
	// handshakeTimeout bounds key exchange and authentication; under emulation
	// they take most of a second.
	handshakeTimeout = 30 * time.Second
	maxAuthTries     = 6
	maxConnections   = 64
	maxChannels      = 256 // of one connection
	maxListeners     = 32  // of one connection
)

// Options is what a Server needs; all fields but AuthorizedKeys must be given.
type Options struct {
	// HostKey is an OpenSSH private key, PEM.
	HostKey []byte
	// AuthorizedKeys are lines as in an authorized_keys file; their options
	// are not supported.
	AuthorizedKeys []string
	Manager        *process.Manager
	Log            *slog.Logger
}

// Server serves SSH connections.
type Server struct {
	config  *ssh.ServerConfig
	allowed map[string]struct{} // wire format of the authorised keys
	manager *process.Manager
	log     *slog.Logger
	serving sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

var errRefused = errors.New("not authorised")

// New returns a server. It fails if a key cannot be read.
func New(o Options) (*Server, error) {
	key, err := ssh.ParsePrivateKey(o.HostKey)
	if err != nil {
		return nil, fmt.Errorf("ssh host key: %w", err)
	}
	s := &Server{
		allowed: map[string]struct{}{}, manager: o.Manager, log: o.Log,
		conns: map[net.Conn]struct{}{},
	}
	for _, line := range o.AuthorizedKeys {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("authorised ssh key: %w", err)
		}
		s.allowed[string(key.Marshal())] = struct{}{}
	}
	s.config = &ssh.ServerConfig{
		ServerVersion:     "SSH-2.0-banger",
		MaxAuthTries:      maxAuthTries,
		PublicKeyCallback: s.authorise,
	}
	s.config.AddHostKey(key)
	return s, nil
}

// authorise takes the authorised keys, for every user that the guest has.
func (s *Server) authorise(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	if _, ok := s.allowed[string(key.Marshal())]; !ok {
		return nil, errRefused
	}
	who, err := s.manager.Users().Lookup(meta.User())
	if err != nil {
		return nil, err
	}
	// No bare numbers, and no "user:group".
	if meta.User() != who.Name || !who.Listed && who.UID != 0 {
		return nil, errRefused
	}
	return &ssh.Permissions{}, nil
}

// Serve serves one connection and closes it. It returns when the connection has
// ended and nothing of it runs any more, except commands that have a grace.
func (s *Server) Serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	if !s.admit(conn) {
		return
	}
	defer s.serving.Done()
	defer s.dismiss(conn)
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout))
	sshConn, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		s.log.Debug("ssh handshake failed", "err", err)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	who, err := s.manager.Users().Lookup(sshConn.User())
	if err != nil { // gone since it was authorised
		return
	}
	newConnection(s, sshConn, who).serve(channels, requests)
}

func (s *Server) admit(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= maxConnections {
		s.log.Warn("ssh connection refused", "open", len(s.conns), "closed", s.closed)
		return false
	}
	s.conns[conn] = struct{}{}
	s.serving.Add(1)
	return true
}

func (s *Server) dismiss(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// Close ends all connections and waits until they are served. Later ones are
// closed at once.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
}
