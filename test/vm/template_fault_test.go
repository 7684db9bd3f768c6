package vm

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// makingShape is the smallest that a template of these tests has.
var makingShape = []string{"--memory", "512M"}

// TestFaultsInMaking kills daemon, maker or VMM at every step of the making of a
// template and of its removal: nothing of it is left, and the next is whole.
func TestFaultsInMaking(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.ownTemplates(t)
	for _, fault := range []string{
		"template.prepare=kill-self", "template.prepared=kill-self",
		"template.launched=kill-self", "template.launched=kill-peer",
		"template.saved=kill-self", "template.saved=kill-peer",
		"template.running=kill-self", "template.running=kill-peer",
		"template.freeze=kill-self", "template.freeze=kill-peer",
		"template.memory=kill-self", "template.frozen=kill-self", "template.publish=kill-self",
	} {
		t.Run(fault, func(t *testing.T) {
			r := h.hurt(fault, append([]string{"image", "warm"}, makingShape...)...)
			if r.code == 0 || strings.Count(r.stderr, "try: ") > 1 {
				t.Errorf("exit %d\n%s", r.code, r.stderr)
			}
			h.nothingMade(t)
			if list := h.must("template", "list", "-q"); list != "" {
				t.Errorf("templates: %s", list)
			}
		})
	}
	h.must(append([]string{"image", "warm"}, makingShape...)...)
	h.must(append([]string{"vm", "create", "--name", "fork"}, makingShape...)...)
	h.hurt("template.remove=kill-self", "template", "prune", "--all")
	h.nothingMade(t)
	if list := h.must("template", "list", "-q"); list != "" {
		t.Errorf("removed, and there: %s", list)
	}
	if said := h.must("vm", "exec", "fork", "--", "echo", "here"); said != "here" {
		t.Errorf("the fork of a template that was removed says %q", said)
	}
}

// hurt runs a command with a new daemon that a fault is set for.
func (h *home) hurt(fault string, args ...string) result {
	h.t.Helper()
	h.must("daemon", "stop")
	cmd := h.command(args...)
	cmd.Env = append(cmd.Env, "BANGER_FAULT="+fault)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	r := h.finish(cmd, &stdout, &stderr)
	h.t.Logf("%s: exit %d\n%s", fault, r.code, r.stderr)
	h.run("daemon", "stop")
	return r
}

// nothingMade checks that the next daemon leaves no process and no file of a
// template that is being made or removed.
func (h *home) nothingMade(t *testing.T) {
	t.Helper()
	dir := filepath.Join(h.dir, "state", "templates")
	h.must("daemon", "start")
	eventually(t, "what was unfinished is gone", func() bool {
		left, err := filepath.Glob(filepath.Join(dir, ".tmp-*"))
		return err == nil && len(left) == 0
	})
	for _, p := range h.processes() {
		if strings.Contains(p, dir+"/.tmp-") {
			t.Errorf("left: %s", p)
		}
	}
}

// TestFullHostInMaking: a host that fills up while a template is made ends that,
// with words, and leaves nothing half-made. The templates are on a file system
// of their own, in the command's own namespace.
func TestFullHostInMaking(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.ownTemplates(t)
	dir := filepath.Join(h.dir, "state", "templates")
	must(t, os.Mkdir(dir, 0o700))
	for size, words := range map[string]string{"2M": "no space left", "40M": "no space is left on the host", "90M": "no space is left on the host"} {
		script := fmt.Sprintf(`mount -t tmpfs -o size=%s tmpfs %s || exit 99
banger image warm --memory 512M; code=$?
find %[2]s -mindepth 1 ! -name lock; banger daemon stop >&2; exit $code`, size, dir)
		cmd := exec.Command("sh", "-c", script)
		cmd.Env, cmd.Dir = h.env, h.dir
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		r := h.finish(cmd, &stdout, &stderr)
		t.Logf("%s: exit %d\n%s", size, r.code, r.stderr)
		if r.code == 0 || r.code == 99 || !strings.Contains(r.stderr, words) || !strings.Contains(r.stderr, "is not made") {
			t.Errorf("with %s: exit %d, %s", size, r.code, r.stderr)
		}
		if r.stdout != "" {
			t.Errorf("with %s is left: %s", size, r.stdout)
		}
	}
}
