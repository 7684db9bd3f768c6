package script

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/banger-dev/banger/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"banger":  func() { os.Exit(cli.Main(os.Args[1:])) },
		"bangerd": func() { os.Exit(bangerd(os.Args[1:])) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("BANGER_HOME", home)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or each program sleeps a second at its end
			env.Defer(func() { stopDaemon(home) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code, "parallel": parallel, "noise": noise,
		},
	})
}

// stopDaemon ends the daemon that a script may have started.
func stopDaemon(home string) {
	cmd := exec.Command("banger", "daemon", "stop")
	cmd.Env = append(os.Environ(), "BANGER_HOME="+home, "GORACE=atexit_sleep_ms=0")
	cmd.Run() // most often there is none
}

// code runs a command and wants an exit code: code 7 banger run …
func code(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := err.(*exec.ExitError); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// parallel runs a command so many times at once; all must succeed.
func parallel(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	var all sync.WaitGroup
	failures := make([]string, n)
	for i := range n {
		all.Go(func() {
			cmd := exec.Command(args[1], args[2:]...)
			cmd.Env = append(os.Environ(), "BANGER_HOME="+ts.Getenv("BANGER_HOME"), "GORACE=atexit_sleep_ms=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				failures[i] = fmt.Sprintf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	if text := strings.Join(failures, ""); text != "" {
		ts.Fatalf("%s", text)
	}
}

// noise writes so many bytes that are not text to a file.
func noise(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	data := make([]byte, n)
	for i, x := 0, uint32(1); i < n; i++ {
		x = x*1664525 + 1013904223
		data[i] = byte(x >> 24)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), data, 0o600))
}
