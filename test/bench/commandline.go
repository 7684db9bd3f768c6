package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// firstFile is the number of the first file that a child gets from os/exec.
const firstFile = 3

// commandLine is QEMU's, as a VM of banger has it, made ready for another start.
type commandLine struct {
	args []string
	// sockets are the names of the sockets that are passed to it, in the order of
	// their descriptors from firstFile on.
	sockets []string
	// writable are the file names of the disks that are its own.
	writable []string
}

// passed finds the descriptor of a socket in an option of QEMU.
var passed = regexp.MustCompile(`\b(fd|addr\.str)=[0-9]+`)

// socketName finds the name in the same option.
var socketName = regexp.MustCompile(`\bid=([a-z]+)`)

// commandLineOf reads the command line of a process.
func commandLineOf(pid int) (commandLine, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return commandLine{}, err
	}
	var args []string
	for arg := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte{0}), []byte{0}) {
		args = append(args, string(arg))
	}
	return newCommandLine(args)
}

// newCommandLine takes out of args what names and contains that one VM, and
// gives its sockets descriptors for a child of ours.
func newCommandLine(args []string) (commandLine, error) {
	var c commandLine
	for i := 0; i < len(args); i++ {
		switch {
		case i+1 < len(args) && (args[i] == "-name" || args[i] == "-sandbox"):
			i++
		case i > 0 && (args[i-1] == "-chardev" || args[i-1] == "-netdev") && passed.MatchString(args[i]):
			name := socketName.FindStringSubmatch(args[i])
			if name == nil {
				return c, fmt.Errorf("the VMM has a socket without a name: %s", args[i])
			}
			c.args = append(c.args, passed.ReplaceAllString(args[i], fmt.Sprintf("${1}=%d", firstFile+len(c.sockets))))
			c.sockets = append(c.sockets, name[1])
		default:
			c.args = append(c.args, args[i])
		}
	}
	for _, needed := range []string{"qmp", "ctl", "data", "console"} {
		if !slices.Contains(c.sockets, needed) {
			return c, fmt.Errorf("the VMM has no socket %q: %q", needed, args)
		}
	}
	return c, c.findDisks()
}

// blockdev is what matters of a disk of -blockdev.
type blockdev struct {
	ReadOnly bool `json:"read-only"`
	File     struct {
		Filename string `json:"filename"`
	} `json:"file"`
}

// findDisks lists the writable disks.
func (c *commandLine) findDisks() error {
	for i := 1; i < len(c.args); i++ {
		if c.args[i-1] != "-blockdev" {
			continue
		}
		var b blockdev
		if err := json.Unmarshal([]byte(c.args[i]), &b); err != nil {
			return fmt.Errorf("disk %s: %w", c.args[i], err)
		}
		if !b.ReadOnly {
			c.writable = append(c.writable, filepath.Base(b.File.Filename))
		}
	}
	return nil
}

// booting is the same machine, which boots another initramfs at once.
func (c commandLine) booting(initrd string) commandLine {
	c.args = slices.DeleteFunc(slices.Clone(c.args), func(arg string) bool { return arg == "-S" })
	for i := 1; i < len(c.args); i++ {
		if c.args[i-1] == "-initrd" {
			c.args[i] = initrd
		}
	}
	return c
}

// argv is the command line of a VM whose disks are in dir.
func (c commandLine) argv(dir string) []string {
	argv := slices.Clone(c.args)
	for i := 1; i < len(argv); i++ {
		var b blockdev
		if argv[i-1] != "-blockdev" || json.Unmarshal([]byte(argv[i]), &b) != nil || b.ReadOnly {
			continue
		}
		old, _ := json.Marshal(b.File.Filename)
		name, _ := json.Marshal(filepath.Join(dir, filepath.Base(b.File.Filename)))
		argv[i] = strings.Replace(argv[i], string(old), string(name), 1)
	}
	return argv
}
