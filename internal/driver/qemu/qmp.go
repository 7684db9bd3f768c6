package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine bounds one QMP message in bytes. What we ask is answered in less than
// a hundredth of it; a VMM that its guest has broken into may send anything.
const maxLine = 64 << 10

// message is what QEMU sends: a greeting, a reply or an event.
type message struct {
	Greeting *struct {
		Version struct {
			Qemu struct{ Major, Minor, Micro int }
		} `json:"version"`
	} `json:"QMP"`
	ID     *uint64         `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *qmpError       `json:"error"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
}

// qmpError is QEMU's refusal of a command.
type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string { return fmt.Sprintf("QEMU: %.300q", e.Desc) }

// readMessage decodes one line, at most maxLine bytes of it.
func readMessage(r *bufio.Reader) (message, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return message{}, fmt.Errorf("QMP: a message longer than %d bytes", maxLine)
	}
	if err != nil {
		return message{}, err
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("QMP: %w", err)
	}
	return m, nil
}

// qmp is a connection to QEMU's monitor. One command is under way at a time.
type qmp struct {
	conn    net.Conn
	onEvent func(name string, data json.RawMessage)

	turn    chan struct{} // one token: who has it may send a command
	replies chan message  // for the command under way
	done    chan struct{} // the reader has returned

	mu   sync.Mutex
	next uint64
	err  error // why the reader returned
}

// newQMP takes over conn: it reads the greeting and negotiates capabilities.
// onEvent is called from the reading goroutine and must not block.
func newQMP(ctx context.Context, conn net.Conn, onEvent func(string, json.RawMessage)) (*qmp, error) {
	q := &qmp{
		conn: conn, onEvent: onEvent, turn: make(chan struct{}, 1),
		replies: make(chan message, 1), done: make(chan struct{}),
	}
	q.turn <- struct{}{}
	r := bufio.NewReaderSize(conn, maxLine)
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	greeting, err := readMessage(r)
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && greeting.Greeting == nil {
		err = errors.New("QMP: no greeting")
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	go q.read(r)
	if err := q.do(ctx, "qmp_capabilities", nil); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

// read hands replies and events out until the connection ends.
func (q *qmp) read(r *bufio.Reader) {
	defer close(q.done)
	defer q.conn.Close() // who still writes is told
	for {
		m, err := readMessage(r)
		if err != nil {
			q.mu.Lock()
			q.err = err
			q.mu.Unlock()
			return
		}
		switch {
		case m.Event != "":
			q.onEvent(m.Event, m.Data)
		case m.ID != nil && q.expects(*m.ID):
			// There is room for the one reply that is waited for; a VMM
			// that sends more than was asked loses them.
			select {
			case q.replies <- m:
			default:
			}
		}
	}
}

func (q *qmp) expects(id uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return id == q.next
}

// begin returns the id of the next command.
func (q *qmp) begin() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next++
	return q.next
}

// command is what QEMU is asked.
type command struct {
	name string
	args any // a JSON object, or nil
	// file, if not nil, goes with it: the connection is a Unix socket then.
	file *os.File
}

func (c command) line(id uint64) ([]byte, error) {
	text := map[string]any{"execute": c.name, "id": id}
	if c.args != nil {
		text["arguments"] = c.args
	}
	line, err := json.Marshal(text)
	return append(line, '\n'), err
}

// do runs a command without arguments. The reply's value goes to result, if
// that is not nil.
func (q *qmp) do(ctx context.Context, name string, result any) error {
	return q.run(ctx, command{name: name}, result)
}

// run runs a command. The reply's value goes to result, if that is not nil.
func (q *qmp) run(ctx context.Context, c command, result any) error {
	select {
	case <-q.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { q.turn <- struct{}{} }()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select { // of a command whose caller left
	case <-q.replies:
	default:
	}
	id := q.begin()
	line, err := c.line(id)
	if err != nil {
		return err
	}
	if err := q.write(ctx, line, c.file); err != nil {
		// Half a command may be out: this connection is of no more use.
		q.conn.Close()
		return fmt.Errorf("QMP %s: %w", c.name, cause(ctx, err))
	}
	return q.reply(ctx, id, c.name, result)
}

// write sends a line, and file with its first byte.
func (q *qmp) write(ctx context.Context, line []byte, file *os.File) (err error) {
	q.conn.SetWriteDeadline(time.Time{}) // an earlier caller's end may have set one
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		q.conn.SetWriteDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-fired // it must not meet the next command
		}
	}()
	if file != nil {
		conn, ok := q.conn.(*net.UnixConn)
		if !ok {
			return errors.New("no Unix socket")
		}
		n, _, err := conn.WriteMsgUnix(line, unix.UnixRights(int(file.Fd())), nil)
		if err != nil {
			return err
		}
		line = line[n:]
	}
	_, err = q.conn.Write(line)
	return err
}

// reply waits for the answer to command id.
func (q *qmp) reply(ctx context.Context, id uint64, command string, result any) error {
	for {
		select {
		case m := <-q.replies:
			switch {
			case *m.ID != id:
				continue
			case m.Error != nil:
				return fmt.Errorf("QMP %s: %w", command, m.Error)
			case result != nil:
				return json.Unmarshal(m.Return, result)
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-q.done:
			return fmt.Errorf("QMP %s: %w", command, q.ended())
		}
	}
}

// ended is why the connection ended.
func (q *qmp) ended() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil || errors.Is(q.err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return q.err
}

// close ends the connection and waits for its reader.
func (q *qmp) close() {
	q.conn.Close() // the reader may have closed it already
	<-q.done
}
