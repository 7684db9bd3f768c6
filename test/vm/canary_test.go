package vm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// canaryEnv are variables that say whose a process is.
func canaryEnv() []string {
	return []string{
		"USER=canary-of-a-user", "LOGNAME=canary-of-a-user", "BANGER_CANARY=canary-of-the-environment",
		"SSH_AUTH_SOCK=/canary-of-a-socket", "LC_ALL=C.UTF-8", "EDITOR=canary-of-an-editor",
	}
}

// canaryConfig has in every value that a VM's start makes use of something to
// recognise.
const canaryConfig = `# canary-of-a-comment
[network]
dns_upstream = "127.77.88.99:5399"
allow_private = ["10.231.177.43/32"]
`

// TestTemplateIsNobodys: what a user, the user's VMs and the host are known by is
// in no part of a template.
func TestTemplateIsNobodys(t *testing.T) {
	h := newHome(t)
	h.ownTemplates(t)
	h.env = append(h.env, canaryEnv()...)
	h.configure(canaryConfig)
	// One VM was here before, with the same daemon.
	h.must("vm", "create", "--cold", "--name", "canary-of-a-name", "--memory", "512M")
	h.must("vm", "exec", "canary-of-a-name", "--", "sh", "-c", "echo canary-of-a-command > /root/canary-of-a-file")
	machine := h.must("vm", "exec", "canary-of-a-name", "--", "cat", "/etc/machine-id")
	canaries := append(h.canaries(), machine, h.show("canary-of-a-name").ID)
	template := filepath.Join(h.dir, "state", "templates", h.must("image", "warm", "-q", "--memory", "512M"))
	h.must("vm", "create", "--name", "canary-of-a-fork", "--memory", "512M")
	for _, file := range []string{"memory", "devices", "overlay.ext4", "work.ext4"} {
		found, err := search(filepath.Join(template, file), canaries)
		must(t, err)
		if len(found) > 0 {
			t.Errorf("in the %s of a template are %q", file, found)
		}
	}
	checkSpareIsNobodys(t, h, canaries)
	// That nothing was found is worth something where what is there is found.
	for file, there := range map[string]string{"memory": "banger-agent", "devices": "virtio", "overlay.ext4": "machine-id"} {
		if found, err := search(filepath.Join(template, file), []string{there}); err != nil || len(found) != 1 {
			t.Errorf("%q is not found in the %s: %v", there, file, err)
		}
	}
}

// canaries are what the home and the host are known by.
func (h *home) canaries() []string {
	h.t.Helper()
	all := []string{
		"canary-of-", "127.77.88.99", "10.231.177.43", h.dir, bin, filepath.Join(cache, "state"),
	}
	public, err := os.ReadFile(filepath.Join(h.dir, "config", "ssh", "id_ed25519.pub"))
	must(h.t, err)
	all = append(all, strings.Fields(string(public))[1][24:]) // what is before is in every key
	private, err := os.ReadFile(filepath.Join(h.dir, "config", "ssh", "id_ed25519"))
	must(h.t, err)
	secret := strings.Split(string(private), "\n")
	all = append(all, secret[len(secret)/2])
	if id, err := os.ReadFile("/etc/machine-id"); err == nil && len(bytes.TrimSpace(id)) > 0 {
		all = append(all, string(bytes.TrimSpace(id)))
	}
	return all
}

// Of a file that is searched, this much is read at once, and no canary is longer
// than overlap, in bytes.
const (
	chunk   = 1 << 20
	overlap = 256
)

// search returns those of the texts that are in a file, of which only what is no
// hole is read. No text may hold a zero byte: it would not be found where it
// reaches into a hole.
func search(path string, texts []string) (found []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	seen := make(map[string]bool)
	for end := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole is left
		}
		if err != nil {
			return nil, os.NewSyscallError("lseek", err)
		}
		if end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
			return nil, os.NewSyscallError("lseek", err)
		}
		if err := searchPart(io.NewSectionReader(f, start, end-start), texts, seen); err != nil {
			return nil, err
		}
	}
	for _, text := range texts {
		if seen[text] {
			found = append(found, text)
		}
	}
	return found, nil
}

// searchPart notes in seen which texts are in r.
func searchPart(r io.Reader, texts []string, seen map[string]bool) error {
	buf := make([]byte, 0, overlap+chunk)
	for {
		n, err := io.ReadFull(r, buf[len(buf):len(buf)+chunk])
		buf = buf[:len(buf)+n]
		for _, text := range texts {
			if !seen[text] && bytes.Contains(buf, []byte(text)) {
				seen[text] = true
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		kept := copy(buf[:overlap], buf[max(0, len(buf)-overlap):])
		buf = buf[:kept]
	}
}

// TestSearch: what lies across two reads, and beside a hole, is found.
func TestSearch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(1<<30))
	for _, at := range []int64{64<<20 + chunk - 3, 512 << 20, 1<<30 - 6} {
		_, err := f.WriteAt([]byte("canary"), at)
		must(t, err)
		found, err := search(path, []string{"canary", "another"})
		must(t, err)
		if len(found) != 1 || found[0] != "canary" {
			t.Errorf("at %d: found %q", at, found)
		}
		_, err = f.WriteAt(make([]byte, 6), at)
		must(t, err)
	}
	if found, err := search(path, []string{"canary"}); err != nil || len(found) > 0 {
		t.Errorf("found %q, %v", found, err)
	}
}

// checkSpareIsNobodys: nor is anything of it in a spare, its guest's memory
// included. Its spec, which is the host's, names the home.
func checkSpareIsNobodys(t *testing.T, h *home, canaries []string) {
	t.Helper()
	dir := h.awaitSpare()
	abroad := slices.DeleteFunc(slices.Clone(canaries), func(c string) bool { return c == h.dir })
	for file, not := range map[string][]string{"spec.json": abroad, "overlay.ext4": canaries, "work.ext4": canaries, "console.log": canaries} {
		if found, err := search(filepath.Join(dir, file), not); err != nil || len(found) > 0 {
			t.Errorf("in the %s of a spare are %q, %v", file, found, err)
		}
	}
	var handle struct {
		PID int `json:"pid"`
	}
	data, err := os.ReadFile(filepath.Join(dir, "vmm.json"))
	must(t, errors.Join(err, json.Unmarshal(data, &handle)))
	memory := guestMemory(t, handle.PID)
	for _, canary := range canaries {
		if bytes.Contains(memory, []byte(canary)) {
			t.Errorf("%q is in the memory of a spare", canary)
		}
	}
	if !bytes.Contains(memory, []byte("banger-agent")) {
		t.Error("that is not a guest's memory")
	}
}

// guestMemory is the memory of the guest of a VMM: 512 MiB in one piece.
func guestMemory(t *testing.T, vmm int) []byte {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", vmm))
	must(t, err)
	file, err := os.Open(fmt.Sprintf("/proc/%d/mem", vmm))
	must(t, err)
	defer file.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		if n, _ := fmt.Sscanf(line, "%x-%x", &from, &to); n != 2 || to-from != 512<<20 {
			continue
		}
		memory := make([]byte, to-from)
		_, err := file.ReadAt(memory, from)
		must(t, err)
		return memory
	}
	t.Fatalf("VMM %d has no guest:\n%s", vmm, maps)
	return nil
}
