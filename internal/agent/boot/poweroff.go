package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// freezeTimeout bounds the wait for the disks to become read-only.
const freezeTimeout = 5 * time.Second

// powerOff ends the VM with clean disks. It does not return.
func powerOff(reboot bool) {
	freezeDisks()
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if reboot {
		how = unix.LINUX_REBOOT_CMD_RESTART
	}
	err := unix.Reboot(how)
	fmt.Fprintf(os.Stderr, "banger: cannot power off: %v\n", err)
	// PID 1 that ends is a kernel panic, and the VMM ends at that.
	os.Exit(1)
}

// freezeDisks writes everything to the disks and makes them read-only, so that
// a stopped VM's disks are clean. The overlay's disk is mounted where nobody
// can reach it, so the kernel's emergency remount is the only way.
func freezeDisks() {
	unix.Sync()
	log, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		defer log.Close()
		_, _ = log.Seek(0, io.SeekEnd)
	}
	if os.WriteFile("/proc/sysrq-trigger", []byte("u"), 0) == nil && err == nil {
		waitFrozen(log)
	}
}

// waitFrozen waits until the kernel has logged that all disks are read-only. It
// is done in the background, and a file system says that it is read-only before
// its last block is written, so there is nothing else to go by.
func waitFrozen(log *os.File) {
	_ = log.SetReadDeadline(time.Now().Add(freezeTimeout))
	record := make([]byte, 8<<10) // the kernel's bound of one
	for {
		n, err := log.Read(record)
		if err != nil && !errors.Is(err, unix.EPIPE) { // EPIPE: some were overwritten
			return
		}
		if bytes.Contains(record[:max(n, 0)], []byte("Emergency Remount complete")) {
			return
		}
	}
}

// FinishVerb is the argument by which systemd's last step runs this program.
const FinishVerb = "finish"

// finisher is where systemd looks for programs to run before it ends the VM
// (systemd-shutdown(8)).
const finisher = "usr/lib/systemd/system-shutdown/banger"

// installFinisher has systemd run Finish at the end. The script names the
// agent's own program, which systemd leaves running, and so needs nothing from
// the image.
func installFinisher(root string, agent int) error {
	path := filepath.Join(root, finisher)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	script := fmt.Sprintf("#!/proc/%d/exe %s\n", agent, FinishVerb)
	if old, err := os.ReadFile(path); err == nil && string(old) == script {
		return nil
	}
	if err := os.WriteFile(path+".new", []byte(script), 0o755); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Finish is systemd's last step: the disks are made clean. verb is what systemd
// does next; a halt would leave the VM standing for ever, so it becomes a power
// off.
func Finish(verb string) {
	if verb == "halt" {
		powerOff(false)
	}
	freezeDisks()
}
