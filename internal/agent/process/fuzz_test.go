package process

import (
	"bytes"
	"encoding/hex"
	"io"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
)

// FuzzServeExec gives the door a stream of hostile bytes after a good start.
func FuzzServeExec(f *testing.F) {
	start, _ := proto.Marshal(&agentv1.ExecStart{Id: newID(), Argv: []string{"cat"}, Stdin: true})
	good := stream.Append(nil, stream.Start, start)
	f.Add([]byte{}, true)
	f.Add(stream.Append(nil, stream.Stdin, []byte("hello")), true)
	f.Add(stream.AppendAck(nil, 1<<60), true)
	f.Add(stream.Append(nil, stream.Signal, []byte{8, 255, 255, 255, 255, 15}), true)
	f.Add(stream.Append(stream.Append(nil, stream.StdinEOF, nil), stream.Stdin, []byte("after")), true)
	seed, _ := hex.DecodeString("01ffffff7f")
	f.Add(seed, false)
	f.Fuzz(func(t *testing.T, data []byte, started bool) {
		if !started && bytes.HasPrefix(data, []byte{byte(stream.Start)}) && len(data) > 200 {
			return // it must not find a command of its own to run
		}
		m := testManager(t, Options{Grace: time.Millisecond, Quiet: time.Millisecond})
		conn := serveOn(t, m, nil)
		if started {
			data = append(bytes.Clone(good), data...)
		}
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_, _ = io.Copy(io.Discard, conn)
		}()
		_, _ = conn.Write(data)
		_ = conn.Close()
		<-drained
		eventually(t, "the process goes with its client", func() bool { return m.count() == 0 })
	})
}
