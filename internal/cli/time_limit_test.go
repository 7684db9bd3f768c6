package cli

import (
	"io"
	"net"
	"strings"
	"testing"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
)

// lateGuest ends what has a limit because of that, and all else with 0.
func lateGuest(start *agentv1.ExecStart, _ *stream.Reader, conn net.Conn) {
	send(conn, stream.Started, &agentv1.ExecStarted{Pid: 1})
	conn.Write(stream.Append(nil, stream.Stdout, []byte("half\n")))
	send(conn, stream.Exit, &agentv1.ExecExit{Code: 124, TimeOver: start.TimeLimitMs == 90000})
	io.Copy(io.Discard, conn)
}

func TestTimeLimit(t *testing.T) {
	d := newFakeDaemon(t)
	d.guest = lateGuest
	d.add("dev", "running")
	const said = `vm "dev": the command took longer than 1m30s, and was ended; try: a longer --time-limit`
	w := newWorld(t, d, "")
	w.expect(t, w.run("exec", "--time-limit", "90s", "dev", "--", "make"), 124, "half\n", "banger: "+said+"\n")
	if n := strings.Count(w.err.String(), "\n"); n != 1 {
		t.Errorf("%d lines: %s", n, w.err.String())
	}
	w = newWorld(t, d, "")
	w.expect(t, w.run("exec", "--json", "--progress", "json", "--time-limit", "90s", "dev", "--", "make"), 124, "", `"code":"timeout"`)
	if !strings.Contains(w.out.String(), `"exit_code": 124`) || !strings.Contains(w.out.String(), `"time_over": true`) {
		t.Errorf("%s", w.out.String())
	}
	w = newWorld(t, d, "")
	w.expect(t, w.run("exec", "dev", "--", "make"), 124, "half\n", "") // the command's own
	if w.err.Len() != 0 {
		t.Errorf("%s", w.err.String())
	}
	w = newWorld(t, d, "")
	w.expect(t, w.run("run", "--rm", "--time-limit", "90s", "--", "make"), 124, "half\n", "longer than 1m30s")
	if !d.did("delete quiet-otter") {
		t.Errorf("the VM of --rm is left: %v", d.calls)
	}
	w = newWorld(t, d, "")
	w.expect(t, w.run("exec", "--time-limit", "soon", "dev", "--", "make"), 125, "", `--time-limit "soon" is not a time such as 90s, 2h or 7d; try: --time-limit 2h`)
}
