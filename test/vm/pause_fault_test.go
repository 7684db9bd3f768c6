package vm

import (
	"fmt"
	"testing"
)

// TestFaultsInPauseAndGrowth kills the supervisor, or the VMM, at every step of a
// pause, of its end, and of the growth of a disk: the guest of a supervisor that died
// is as it was asked to be, that of a VMM that died starts again, and the disk has
// grown.
func TestFaultsInPauseAndGrowth(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--no-start", "--name", "hurt", "--disk-size", "1G")
	size := 1
	for _, point := range []string{"pause.marked", "pause.still", "resume.unmarked", "resume.running", "grow.resized"} {
		for _, action := range []string{"kill-self", "kill-peer"} {
			t.Run(point+"="+action, func(t *testing.T) {
				// Its supervisor has the fault, and not who follows.
				h.hurt(point+"="+action, "vm", "start", "hurt")
				before := h.show("hurt")
				paused := h.run("vm", "pause", "hurt")
				resumed := h.run("vm", "resume", "hurt")
				eventually(t, "what died is noticed", func() bool {
					state := h.show("hurt").State
					return state == "running" || state == "stopped" || state == "error"
				})
				size++
				if r := h.run("vm", "set", "--disk-size", fmt.Sprintf("%dG", size), "hurt"); r.code != 0 {
					t.Errorf("set: exit %d %s", r.code, r.stderr)
				}
				after := h.show("hurt")
				if action == "kill-self" && (paused.code != 0 || resumed.code != 0 || after.State != "running" || after.VMMPID != before.VMMPID) {
					t.Errorf("pause: exit %d %s\nresume: exit %d %s\n%+v", paused.code, paused.stderr, resumed.code, resumed.stderr, after)
				}
				if after.State != "running" {
					h.must("vm", "start", "hurt")
				}
				if got := h.sizeOf("hurt", "/root"); got < size*950 {
					t.Errorf("/root has %d MiB of %dG", got, size)
				}
				h.must("vm", "stop", "hurt")
			})
		}
	}
}
