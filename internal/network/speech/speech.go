// Package speech hears what the client of a TCP connection speaks, and for which
// host: the server name of TLS, the Host of every request of HTTP/1. It lets bytes
// through only when what they are for has been judged.
//
// Two parsers that disagree about where a request ends are a way around the rules.
// So what is not written as RFC 9112 has it, in its strictest reading, is no HTTP
// here: it is judged as something else.
package speech

import (
	"bytes"

	"github.com/banger-dev/banger/internal/policy"
)

const (
	// maxHello bounds a TLS client hello and maxHead the head of a request or the
	// trailer of one, in bytes. What is longer is judged as something else.
	maxHello = 32 << 10
	maxHead  = 64 << 10
	// maxVersion bounds the line with the version of SSH (RFC 4253 §4.2).
	maxVersion = 255
	// maxChunkLine bounds the line with the size of a chunk.
	maxChunkLine = 4 << 10
)

// Judge is told what is spoken and, for TLS and HTTP, for which host: for HTTP with
// every request. An error ends the connection.
type Judge func(kind policy.Speech, host string) error

// Listener hears one connection. It belongs to one goroutine.
type Listener struct {
	judge Judge
	// step takes the bytes that come next, all that there are, and returns how many
	// may pass. None means that more are needed.
	step func([]byte) (int, error)
	held []byte
	left int64 // of the body or chunk that passes
	// judged is set once something was.
	judged bool
	// strict has the server confirm what is spoken; awaits is what it is to confirm.
	strict bool
	awaits policy.Speech
}

// New returns a Listener for a connection from its first byte on. A strict one
// holds what is not judged yet, and lets only the first message of TLS or SSH pass
// until Confirm: what looks like one may be nothing of the kind to a server that
// speaks something else. Any other only overhears, so that nobody waits for a line
// that does not end; what it is refused for, a server has not got whole.
func New(judge Judge, strict bool) *Listener {
	l := &Listener{judge: judge, strict: strict}
	l.step = l.first
	return l
}

// Awaits is what the server is to confirm before more may pass, or Unheard.
func (l *Listener) Awaits() policy.Speech { return l.awaits }

// ServerBegin is how many bytes of a server Confirms looks at.
const ServerBegin = len(ssh)

// Confirms reports whether the first bytes of a server, ServerBegin at least, speak
// kind.
func Confirms(kind policy.Speech, p []byte) bool {
	switch kind {
	case policy.TLS:
		return (p[0] == recordHandshake || p[0] == recordAlert) && p[1] == 3
	case policy.SSH:
		return bytes.HasPrefix(p, []byte(ssh))
	}
	return true
}

// Confirm takes the word of the server and returns what has waited for it; the rest
// passes unheard.
func (l *Listener) Confirm() []byte {
	waited := l.held
	l.awaits, l.step, l.held = policy.Unheard, nil, nil
	return waited
}

// Judged reports whether the judge has been asked.
func (l *Listener) Judged() bool { return l.judged }

// Pass takes what the client sent and returns what may go on now; it is valid until
// the next call. After an error nothing may.
func (l *Listener) Pass(p []byte) ([]byte, error) {
	if l.step == nil {
		return p, nil
	}
	passed, err := l.hear(p)
	if err != nil || l.strict {
		return passed, err
	}
	return p, nil
}

// hear takes what the client sent and returns what has been judged of it.
func (l *Listener) hear(p []byte) ([]byte, error) {
	waiting := p
	if len(l.held) > 0 {
		l.held = append(l.held, p...)
		waiting = l.held
	}
	passed := 0
	for passed < len(waiting) && l.step != nil {
		n, err := l.step(waiting[passed:])
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		passed += n
	}
	if l.step == nil {
		passed = len(waiting)
	}
	if passed > 0 || len(l.held) == 0 {
		l.held = bytes.Clone(waiting[passed:])
	}
	return waiting[:passed], nil
}

// End takes the client's end of stream and returns what of it may still go on.
func (l *Listener) End() ([]byte, error) {
	if l.step == nil || l.judged && (len(l.held) == 0 || l.awaits != policy.Unheard) {
		return nil, nil
	}
	if err := l.other(); err != nil || !l.strict {
		return nil, err
	}
	return l.held, nil
}

// through has the rest pass unheard, once the judge agrees.
func (l *Listener) through(kind policy.Speech, host string) error {
	l.judged = true
	if err := l.judge(kind, host); err != nil {
		return err
	}
	l.step = nil
	return nil
}

// opening lets the first message of a protocol, of size bytes, pass.
func (l *Listener) opening(kind policy.Speech, host string, size int) (int, error) {
	if err := l.through(kind, host); err != nil || !l.strict {
		return 0, err
	}
	l.awaits = kind
	l.step = func([]byte) (int, error) { return 0, nil }
	return size, nil
}

// other is for bytes that are nothing known.
func (l *Listener) other() error { return l.through(policy.Other, "") }

// ssh begins the first line of either side (RFC 4253 §4.2).
const ssh = "SSH-"

// first tells from the first bytes what is spoken.
func (l *Listener) first(p []byte) (int, error) {
	switch {
	case p[0] == recordHandshake:
		l.step = l.hello
		return l.hello(p)
	case bytes.HasPrefix(p, []byte(ssh)):
		l.step = l.version
		return l.version(p)
	case bytes.HasPrefix([]byte(ssh), p):
		return 0, nil
	}
	l.step = l.head
	return l.head(p)
}

// hello waits for the whole client hello.
func (l *Listener) hello(p []byte) (int, error) {
	host, size, state := serverName(p)
	switch state {
	case complete:
		return l.opening(policy.TLS, host, size)
	case partial:
		return 0, nil
	}
	return 0, l.other()
}

// version waits for the whole first line of SSH.
func (l *Listener) version(p []byte) (int, error) {
	line, _, ended := bytes.Cut(p[:min(len(p), maxVersion)], []byte("\n"))
	switch {
	case !isValue(string(bytes.TrimSuffix(line, []byte("\r")))) && ended, !ended && len(p) >= maxVersion:
		return 0, l.other()
	case !ended:
		return 0, nil
	}
	return l.opening(policy.SSH, "", len(line)+1)
}

// head waits for the whole head of a request, and goes on with its body.
func (l *Listener) head(p []byte) (int, error) {
	head, state := wholeHead(p)
	switch state {
	case partial:
		return 0, nil
	case broken:
		return 0, l.other()
	}
	r, ok := parseRequest(head)
	if !ok {
		return 0, l.other()
	}
	l.judged = true
	if err := l.judge(policy.HTTP, r.host); err != nil {
		return 0, err
	}
	switch {
	case r.chunked:
		l.step = l.chunkLine
	case r.length > 0:
		l.left, l.step = r.length, l.body
	}
	return len(head), nil
}

// body lets a body of known length pass.
func (l *Listener) body(p []byte) (int, error) {
	n := l.some(p)
	if l.left == 0 {
		l.step = l.head
	}
	return n, nil
}

// some takes what of p belongs to what passes.
func (l *Listener) some(p []byte) int {
	n := int(min(int64(len(p)), l.left))
	l.left -= int64(n)
	return n
}

// chunkLine reads the size of the next chunk (RFC 9112 §7.1).
func (l *Listener) chunkLine(p []byte) (int, error) {
	line, state := wholeLine(p, maxChunkLine)
	if state == partial {
		return 0, nil
	}
	size, ok := chunkSize(line)
	if state == broken || !ok {
		return 0, l.other()
	}
	l.left, l.step = size, l.chunk
	if size == 0 {
		l.step = l.trailer
	}
	return len(line) + 2, nil
}

// chunk lets the bytes of a chunk pass.
func (l *Listener) chunk(p []byte) (int, error) {
	n := l.some(p)
	if l.left == 0 {
		l.step = l.chunkEnd
	}
	return n, nil
}

// chunkEnd takes the end of line after a chunk.
func (l *Listener) chunkEnd(p []byte) (int, error) {
	switch {
	case len(p) == 1 && p[0] == '\r':
		return 0, nil
	case len(p) >= 2 && p[0] == '\r' && p[1] == '\n':
		l.step = l.chunkLine
		return 2, nil
	}
	return 0, l.other()
}

// trailer takes the fields after the last chunk, and the empty line.
func (l *Listener) trailer(p []byte) (int, error) {
	if len(p) == 1 && p[0] == '\r' {
		return 0, nil
	}
	end := 2
	if !bytes.HasPrefix(p, []byte("\r\n")) {
		fields, state := wholeHead(p)
		if state == partial {
			return 0, nil
		}
		if _, ok := parseFields(fields); state == broken || !ok {
			return 0, l.other()
		}
		end = len(fields)
	}
	l.step = l.head
	return end, nil
}
