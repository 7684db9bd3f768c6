package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

// Use is what a process has used.
type Use struct {
	// CPU is its processor time since it began, that of all its threads.
	CPU time.Duration
	// Memory is resident, in bytes; what it shares with others counts in full.
	Memory int64
}

// tick is the unit of times in /proc/PID/stat: Linux tells user space 100 a second
// on every architecture (USER_HZ).
const tick = time.Second / 100

// UseOf reads what a process has used; the error is ErrGone if there is none.
func UseOf(pid int) (Use, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) {
		return Use{}, ErrGone
	}
	if err != nil {
		return Use{}, err
	}
	return parseUse(text, int64(os.Getpagesize()))
}

// The fields of /proc/PID/stat that are read, counted from the one behind the name
// (proc(5), which counts that as the third).
const (
	userField     = 14 - 3
	systemField   = 15 - 3
	residentField = 24 - 3
)

func parseUse(text []byte, page int64) (Use, error) {
	// The name may hold anything, a parenthesis too.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) <= residentField {
		return Use{}, errors.New("a /proc/PID/stat that is too short")
	}
	number := func(i int) int64 {
		n, err := strconv.ParseInt(string(fields[i]), 10, 64)
		if err != nil || n < 0 {
			return 0
		}
		return n
	}
	return Use{
		CPU:    time.Duration(number(userField)+number(systemField)) * tick,
		Memory: number(residentField) * page,
	}, nil
}
