//go:build faultinject

package fault

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// Enabled says whether this build obeys BANGER_FAULT.
const Enabled = true

// Point does what BANGER_FAULT says for name. peers are the processes that the
// action kill-peer ends.
func Point(name string, peers ...int) error {
	for rule := range strings.SplitSeq(os.Getenv("BANGER_FAULT"), ",") {
		point, action, _ := strings.Cut(rule, "=")
		if point == name {
			return act(name, action, peers)
		}
	}
	return nil
}

func act(name, action string, peers []int) error {
	verb, arg, _ := strings.Cut(action, ":")
	switch verb {
	case "kill-self":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "kill-peer":
		for _, pid := range peers {
			if pid > 1 {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		return nil
	case "error":
		return fmt.Errorf("injected fault at %s", name)
	case "gate":
		f, err := os.Open(arg)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(io.Discard, f)
		return err
	}
	return fmt.Errorf("BANGER_FAULT: unknown action %q at %s", action, name)
}
