package listen

import (
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxProcesses and maxFiles bound a search: so many processes, and so many
	// open files of each.
	maxProcesses = 8192
	maxFiles     = 16384
	// maxName and maxCommand bound the texts, in bytes.
	maxName    = 32
	maxCommand = 128
)

// process is one that holds a socket; pid 0 is none.
type process struct {
	pid           int
	name, command string
}

// findProcesses returns the holders of the sockets of wanted, by inode. Of several
// it is the oldest: a server, not the workers that have inherited its socket. An
// init system that opened it for a service comes last.
func findProcesses(proc string, wanted map[uint64]bool) map[uint64]process {
	found := map[uint64]process{}
	for _, pid := range pids(proc) {
		for _, inode := range socketsOf(proc, pid) {
			if _, known := found[inode]; known || !wanted[inode] {
				continue
			}
			found[inode] = describe(proc, pid)
			if len(found) == len(wanted) {
				return found
			}
		}
	}
	return found
}

// pids are those of the guest's processes, lowest first and 1 last.
func pids(proc string) []int {
	dir, err := os.Open(proc)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // what was read is worth a look, whatever ended it
	var list []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && pid > 1 {
			list = append(list, pid)
		}
	}
	slices.Sort(list)
	return append(list[:min(len(list), maxProcesses)], 1)
}

// socketsOf are the sockets that a process has open. One that has ended has none.
func socketsOf(proc string, pid int) []uint64 {
	path := proc + "/" + strconv.Itoa(pid) + "/fd"
	dir, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(maxFiles)
	var list []uint64
	for _, name := range names {
		target, err := os.Readlink(path + "/" + name)
		if err != nil {
			continue
		}
		if rest, ok := strings.CutPrefix(target, "socket:["); ok {
			if inode, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64); err == nil {
				list = append(list, inode)
			}
		}
	}
	return list
}

func describe(proc string, pid int) process {
	dir := proc + "/" + strconv.Itoa(pid)
	return process{
		pid:     pid,
		name:    cut(strings.TrimSuffix(head(dir+"/comm", maxName+1), "\n"), maxName),
		command: cut(strings.Trim(strings.ReplaceAll(head(dir+"/cmdline", maxCommand), "\x00", " "), " "), maxCommand),
	}
}

// head is the beginning of a file, as far as it can be read.
func head(path string, limit int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, limit))
	return string(data)
}

// cut shortens a text to limit bytes and makes it UTF-8, without which no message
// could be sent.
func cut(s string, limit int) string {
	return strings.ToValidUTF8(s[:min(len(s), limit)], "")
}
