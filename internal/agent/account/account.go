// Package account knows the guest's users: who a command runs as, and the
// environment that a login gives it. It reads passwd, group and environment
// files itself, because the agent is a static program, and takes them as the
// hostile input that an image's files are: bounded in size, bad lines skipped.
package account

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
)

// ErrUnknown is a user or group that the guest does not have.
var ErrUnknown = errors.New("no such user or group")

// maxGroups bounds the supplementary groups of a user; Linux's own bound is
// 65536, and no image comes near this one.
const maxGroups = 1024

// Account is who a command runs as.
type Account struct {
	Name   string // the number, if passwd has no name for it
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
	Home   string
	Shell  string
	// Listed reports whether passwd has the user: a bare number runs without.
	Listed bool
}

// Database is the directory with passwd, group and environment: "/etc".
type Database string

// Lookup finds "user", "uid", "user:group" or "uid:gid"; "" is root. As in
// container engines a number need not be listed, and with an explicit group
// there are no supplementary ones. The error wraps ErrUnknown.
func (d Database) Lookup(spec string) (*Account, error) {
	user, group, explicit := strings.Cut(spec, ":")
	a, err := d.user(user)
	if err != nil {
		return nil, err
	}
	if explicit {
		a.GID, err = d.group(group)
		return a, err
	}
	if a.Listed {
		a.Groups = d.groupsOf(a)
	}
	return a, nil
}

func (d Database) user(name string) (*Account, error) {
	if name == "" {
		name = "root"
	}
	number, numeric := parseID(name)
	var byName, byID *Account
	d.lines("passwd", func(line string) bool {
		if !strings.Contains(line, name) {
			return true // most lines: this runs before every command
		}
		a, ok := parseUser(line)
		if ok && a.Name == name {
			byName = &a
		}
		if ok && numeric && a.UID == number && byID == nil {
			byID = &a
		}
		return byName == nil
	})
	switch {
	case byName != nil:
		return byName, nil
	case byID != nil:
		return byID, nil
	case numeric:
		return &Account{Name: name, UID: number, Home: "/", Shell: defaultShell}, nil
	case name == "root":
		return &Account{Name: name, Home: "/root", Shell: defaultShell}, nil
	}
	return nil, fmt.Errorf("user %q: %w", name, ErrUnknown)
}

const defaultShell = "/bin/sh"

// parseUser decodes name:password:uid:gid:gecos:home:shell.
func parseUser(line string) (Account, bool) {
	f := strings.Split(line, ":")
	if len(f) < 7 || f[0] == "" {
		return Account{}, false
	}
	uid, okUser := parseID(f[2])
	gid, okGroup := parseID(f[3])
	a := Account{Name: f[0], UID: uid, GID: gid, Home: f[5], Shell: f[6], Listed: true}
	if a.Home == "" {
		a.Home = "/"
	}
	if a.Shell == "" {
		a.Shell = defaultShell
	}
	return a, okUser && okGroup
}

func (d Database) group(name string) (uint32, error) {
	number, numeric := parseID(name)
	found := false
	var gid uint32
	d.lines("group", func(line string) bool {
		f := strings.Split(line, ":")
		if len(f) < 3 || f[0] != name {
			return true
		}
		gid, found = parseID(f[2])
		return !found
	})
	switch {
	case found:
		return gid, nil
	case numeric:
		return number, nil
	}
	return 0, fmt.Errorf("group %q: %w", name, ErrUnknown)
}

// GroupID returns the number of a group, and whether the guest has it.
func (d Database) GroupID(name string) (uint32, bool) {
	gid, err := d.group(name)
	return gid, err == nil
}

func (d Database) groupsOf(a *Account) []uint32 {
	var groups []uint32
	d.lines("group", func(line string) bool {
		if !strings.Contains(line, a.Name) {
			return true
		}
		f := strings.Split(line, ":")
		if len(f) < 4 {
			return true
		}
		gid, ok := parseID(f[2])
		if !ok || gid == a.GID {
			return true
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if strings.TrimSpace(member) == a.Name {
				groups = append(groups, gid)
				break
			}
		}
		return len(groups) < maxGroups
	})
	return groups
}

// parseID takes a user or group number; 2^32-1 means "none" to the kernel.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1
}

// Permits reports whether the mode bits of a file let the account do all of
// want (4 read, 2 write, 1 execute). Root may do all, except execute a file
// that nobody may.
func (a *Account) Permits(info fs.FileInfo, want fs.FileMode) bool {
	mode := info.Mode().Perm()
	if a.UID == 0 {
		return want&1 == 0 || info.IsDir() || mode&0o111 != 0
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && stat.Uid == a.UID:
		mode >>= 6
	case ok && a.inGroup(stat.Gid):
		mode >>= 3
	}
	return mode&want == want
}

func (a *Account) inGroup(gid uint32) bool {
	if gid == a.GID {
		return true
	}
	for _, g := range a.Groups {
		if g == gid {
			return true
		}
	}
	return false
}
