package supervisor

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/driver/testguest"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/linkwire"
	"github.com/libp2p/go-yamux/v5"
	"google.golang.org/protobuf/proto"
)

// guestVariable chooses the fake VMM's guest: a name of hostileGuests.
const guestVariable = "BANGER_TEST_GUEST"

// hostileGuests are what a guest may do with the connection of an agent's call.
// Each says on its console when it has been cut off.
var hostileGuests = map[string]func(conn net.Conn){
	// events without end, each another one, of names that break when they are cut
	"floods events": func(conn net.Conn) {
		for n := 0; ; n++ {
			names := []string{strings.Repeat("ü", n%2) + "x" + strings.Repeat("ü", maxUnitName)}
			event, err := proto.Marshal(&agentv1.Event{Ready: "system", FailedUnits: names})
			if err != nil || !sendMessage(conn, 1, rpcData, event) {
				return
			}
		}
	},
	// another set of hundreds of ports again and again
	"floods listeners": func(conn net.Conn) {
		for n := uint32(0); ; n++ {
			m := &agentv1.ListenersResponse{}
			for i := range uint32(300) {
				m.Listeners = append(m.Listeners, &agentv1.Listener{
					Address: make([]byte, 4), Port: 20000 + n%2*300 + i, Pid: -1, Process: "\x1b[2J", Command: strings.Repeat("x", 128),
				})
			}
			said, err := proto.Marshal(m)
			if err != nil || !sendMessage(conn, 1, rpcData, said) {
				return
			}
		}
	},
	"answers calls that nobody made": func(conn net.Conn) {
		for id := uint32(1001); sendMessage(conn, id, rpcResponse, nil); id += 2 {
		}
	},
	"sends giant messages": func(conn net.Conn) {
		for sendMessage(conn, 1, rpcData, make([]byte, 4<<20)) {
		}
	},
	"sends garbage": func(conn net.Conn) {
		junk := []byte(strings.Repeat("\xff\x00GET / HTTP/1.1\r\n", 4096))
		for {
			if _, err := conn.Write(junk); err != nil {
				return
			}
		}
	},
	"ends every session": func(conn net.Conn) {
		// No agent opens streams: the host ends the session for it.
		if own, err := conn.(linkwire.Stream).MuxStream.(*yamux.Stream).Session().OpenStream(context.Background()); err == nil {
			io.Copy(io.Discard, own)
		}
	},
	"never answers": func(conn net.Conn) { io.Copy(io.Discard, conn) },
}

// sendMessage writes one ttrpc message and reports whether it was taken.
func sendMessage(conn net.Conn, id uint32, kind byte, body []byte) bool {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, id)
	_, err := conn.Write(append(append(b, kind, 0), body...))
	return err == nil
}

// chosenServices is the guest that the environment names.
func chosenServices(m testguest.Machine) testguest.Handler {
	attack := hostileGuests[os.Getenv(guestVariable)]
	if attack == nil {
		return guestServices(m)
	}
	return func(port uint32, conn net.Conn) {
		defer conn.Close()
		if port != linkwire.PortRPC {
			io.Copy(conn, conn)
			return
		}
		// The call comes first: what is sent before it belongs to none.
		io.ReadFull(conn, make([]byte, rpcHeader))
		attack(conn)
		fmt.Fprintln(m.Console, "cut off")
	}
}

// launchHostile starts a supervisor with a hostile guest. log is its stderr.
func launchHostile(t *testing.T, dir layout.Instance, guest string) (cmd *exec.Cmd, log string) {
	t.Helper()
	log = dir.SupervisorLog()
	file, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd = exec.Command(os.Args[0], "supervise", dir.Dir())
	cmd.Env = append(os.Environ(), guestVariable+"="+guest)
	cmd.Stderr = file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endVMM(dir); cmd.Process.Kill(); cmd.Wait() })
	return cmd, log
}

// resident is the memory of a process in KiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var kib int
	_, after, _ := strings.Cut(string(data), "VmRSS:")
	fmt.Sscan(after, &kib)
	return kib
}

// TestHostileGuests: whatever the guest does, the supervisor stays small and
// quiet, its status can be read, and the VM can be stopped.
func TestHostileGuests(t *testing.T) {
	for guest := range hostileGuests {
		t.Run(guest, func(t *testing.T) {
			t.Parallel()
			dir := instance(t)
			cmd, log := launchHostile(t, dir, guest)
			await(t, dir, func(r *vmv1.StatusResponse) bool { return r.State == stateRunning && r.Ready != "" })
			before := resident(t, cmd.Process.Pid)
			if guest != "never answers" {
				awaitConsole(t, dir, "cut off", 5)
			}
			if grown := resident(t, cmd.Process.Pid) - before; grown > 48<<10 {
				t.Errorf("the supervisor took %d KiB more", grown)
			}
			if st, err := os.Stat(log); err != nil || st.Size() > 32<<10 {
				t.Errorf("the supervisor wrote %d bytes of log: %v", st.Size(), err)
			}
			begun := time.Now()
			stop, err := client(dir).Stop(t.Context(), connect.NewRequest(&vmv1.StopRequest{TimeoutMs: 1000}))
			if err != nil || stop.Msg.Clean {
				t.Errorf("stop: %v, %v", stop, err)
			}
			if took := time.Since(begun); took > killTime {
				t.Errorf("stop took %v", took)
			}
			cmd.Wait()
			if e := exitOf(t, dir); e.Reason != "powered off" {
				t.Errorf("exit %+v", e)
			}
		})
	}
}

// awaitConsole waits until the console has said words that many times.
func awaitConsole(t *testing.T, dir layout.Instance, words string, times int) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); ; {
		data, _ := os.ReadFile(dir.Console())
		if strings.Count(string(data), words) >= times {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("the console did not say %q %d times:\n%s", words, times, data)
		}
	}
}
