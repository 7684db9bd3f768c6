package sshd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/agent/process"
)

const (
	maxEnv      = 64
	maxEnvValue = 32 << 10
)

// session is one session channel: one command.
type session struct {
	conn     *connection
	channel  ssh.Channel
	env      []string
	terminal *process.Terminal
	agent    *agentSocket
	process  *process.Process
	started  bool          // a command was asked for
	closed   chan struct{} // the channel is closed
}

func (c *connection) session(ch ssh.NewChannel) {
	channel, requests, err := ch.Accept()
	if err != nil {
		return
	}
	s := &session{conn: c, channel: channel, closed: make(chan struct{})}
	for req := range requests {
		ok, then := s.request(req)
		if req.WantReply {
			_ = req.Reply(ok, nil)
		}
		if then != nil {
			c.running.Go(then)
		}
	}
	close(s.closed)
	if s.process != nil {
		s.process.Leave()
	}
	s.agent.close()
}

// request answers one request. then is what the reply comes before.
func (s *session) request(req *ssh.Request) (ok bool, then func()) {
	switch req.Type {
	case "env":
		return s.setenv(req.Payload), nil
	case "pty-req":
		return s.requestTerminal(req.Payload), nil
	case "window-change":
		return s.resize(req.Payload), nil
	case "signal":
		return s.signal(req.Payload), nil
	case "auth-agent-req@openssh.com":
		return s.forwardAgent(), nil
	case "shell", "exec", "subsystem":
		spec, ok := s.command(req)
		if !ok || s.started {
			return false, nil
		}
		s.started = true
		return true, s.start(spec)
	}
	return false, nil
}

// setenv takes the variables that OpenSSH's servers usually accept, and ours.
func (s *session) setenv(payload []byte) bool {
	var v struct{ Name, Value string }
	if err := ssh.Unmarshal(payload, &v); err != nil {
		return false
	}
	allowed := v.Name == "LANG" || v.Name == "TERM" ||
		strings.HasPrefix(v.Name, "LC_") || strings.HasPrefix(v.Name, "BANGER_")
	if !allowed || strings.ContainsAny(v.Name+v.Value, "\x00") || strings.Contains(v.Name, "=") ||
		len(s.env) >= maxEnv || len(v.Name)+len(v.Value) > maxEnvValue {
		return false
	}
	s.env = append(s.env, v.Name+"="+v.Value)
	return true
}

func (s *session) requestTerminal(payload []byte) bool {
	var pty struct {
		Term          string
		Cols, Rows    uint32
		Width, Height uint32
		Modes         string
	}
	err := ssh.Unmarshal(payload, &pty)
	if err != nil || s.started || s.terminal != nil || strings.ContainsRune(pty.Term, 0) {
		return false
	}
	if pty.Term != "" {
		s.env = append(s.env, "TERM="+pty.Term)
	}
	s.terminal = &process.Terminal{Rows: pty.Rows, Cols: pty.Cols, Modes: parseModes(pty.Modes)}
	return true
}

// parseModes decodes the terminal modes of RFC 4254, section 8: a number and a
// uint32 each, ended by 0 or by a number from 160 on.
func parseModes(encoded string) map[uint8]uint32 {
	modes := map[uint8]uint32{}
	for b := []byte(encoded); len(b) >= 5 && b[0] != 0 && b[0] < 160; b = b[5:] {
		modes[b[0]] = binary.BigEndian.Uint32(b[1:])
	}
	return modes
}

func (s *session) resize(payload []byte) bool {
	var size struct{ Cols, Rows, Width, Height uint32 }
	if err := ssh.Unmarshal(payload, &size); err != nil || s.process == nil {
		return false
	}
	s.process.Resize(size.Rows, size.Cols)
	return true
}

func (s *session) signal(payload []byte) bool {
	var signal struct{ Name string }
	if err := ssh.Unmarshal(payload, &signal); err != nil || s.process == nil {
		return false
	}
	number := unix.SignalNum("SIG" + signal.Name)
	if number == 0 {
		return false
	}
	s.process.Signal(number)
	return true
}

// command is what a shell, exec or subsystem request asks for.
func (s *session) command(req *ssh.Request) (*process.Spec, bool) {
	who := s.conn.who
	spec := &process.Spec{User: who.Name, Terminal: s.terminal, Stdin: true}
	// The client is the host's end of the link, whatever port it comes from.
	// bash reads ~/.bashrc for a remote command when it sees these.
	spec.Env = append(spec.Env,
		"SSH_CLIENT="+banger.GuestGateway+" 0 22",
		"SSH_CONNECTION="+banger.GuestGateway+" 0 "+banger.GuestAddress+" 22")
	spec.Env = append(spec.Env, s.env...)
	if s.agent != nil {
		spec.Env = append(spec.Env, "SSH_AUTH_SOCK="+s.agent.path)
	}
	if req.Type == "shell" {
		spec.Shell = true
		return spec, true
	}
	var text struct{ Text string }
	if err := ssh.Unmarshal(req.Payload, &text); err != nil {
		return nil, false
	}
	if req.Type == "exec" {
		spec.Argv = []string{process.LoginShell(who), "-c", text.Text}
		return spec, true
	}
	spec.File, spec.Argv, spec.Terminal = "/proc/self/exe", []string{SFTPName}, nil
	return spec, text.Text == "sftp"
}

// start runs the command, and returns what follows it to its end.
func (s *session) start(spec *process.Spec) func() {
	p, err := s.conn.server.manager.Start(*spec)
	if err != nil {
		return func() { s.fail(err) }
	}
	s.process = p
	s.conn.running.Go(func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := s.channel.Read(buf)
			if n > 0 {
				_, _ = p.Write(buf[:n])
			}
			if err != nil {
				p.CloseInput()
				return
			}
		}
	})
	return s.follow
}

// fail reports a command that could not be run as its shell would.
func (s *session) fail(err error) {
	code := 125
	if start, ok := errors.AsType[*process.StartError](err); ok {
		code = start.ExitCode()
	}
	_, _ = fmt.Fprintf(s.channel.Stderr(), "banger: %v\r\n", err)
	s.end(process.Exit{Code: code})
}

// follow copies the output and tells how the command ended.
func (s *session) follow() {
	stdout, stderr := io.Writer(s.channel), io.Writer(s.channel.Stderr())
	if err := s.process.Copy(stdout, stderr); err != nil {
		s.process.Leave()
		return
	}
	select {
	case <-s.process.Done():
		s.end(s.process.Wait())
	case <-s.closed:
	}
}

// end closes the channel with how the command ended. After exit-signal comes
// exit-status with 128+N as well: OpenSSH's client knows only the second, and
// exits with 255 if it does not come.
func (s *session) end(exit process.Exit) {
	s.agent.close()
	_ = s.channel.CloseWrite()
	if exit.Signal != 0 {
		name := strings.TrimPrefix(signalName(exit.Signal), "SIG")
		_, _ = s.channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name    string
			Core    bool
			Message string
			Lang    string
		}{Name: name}))
	}
	status := ssh.Marshal(struct{ Status uint32 }{uint32(exit.Code)})
	_, _ = s.channel.SendRequest("exit-status", false, status)
	_ = s.channel.Close()
}

func signalName(signal syscall.Signal) string {
	if name := unix.SignalName(signal); name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d@banger", int(signal)) // real-time ones have no name
}
