package listen

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// socket is one that listens.
type socket struct {
	addr  netip.Addr
	port  uint16
	inode uint64
}

// stateListen is TCP_LISTEN as the tables write it (include/net/tcp_states.h).
const stateListen = "0A"

// readTable appends the listening sockets of /proc/net/tcp or tcp6 to list. A
// kernel without that protocol has none.
func readTable(path string, list []socket) ([]socket, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseTable(f, list)
}

// count is the word after a beginning of a line of a small file; empty if there is
// none.
func count(path, beginning string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	var buf [512]byte
	n, _ := f.Read(buf[:]) // what was not read has no such line
	_, rest, _ := strings.Cut(string(buf[:n]), beginning)
	if end := strings.IndexAny(rest, " \n"); end >= 0 {
		rest = rest[:end]
	}
	return rest
}

// parseTable reads a table up to its first socket that does not listen: those
// that do come first.
func parseTable(r io.Reader, list []socket) ([]socket, error) {
	lines := bufio.NewScanner(r)
	lines.Scan() // the head
	for n := 0; n < maxRead && lines.Scan(); n++ {
		s, listens, err := parseLine(lines.Text())
		if err != nil {
			return nil, err
		}
		if !listens {
			return list, nil
		}
		list = append(list, s)
	}
	return list, lines.Err()
}

// parseLine reads: slot, local address, remote address, state, queues, timer,
// retransmits, uid, timeout, inode, …
func parseLine(line string) (s socket, listens bool, err error) {
	bad := func() (socket, bool, error) { return socket{}, false, fmt.Errorf("socket table: line %.80q", line) }
	fields := strings.Fields(line)
	if len(fields) < 10 {
		return bad()
	}
	if fields[3] != stateListen {
		return socket{}, false, nil
	}
	addr, port, ok := strings.Cut(fields[1], ":")
	if !ok {
		return bad()
	}
	if s.addr, ok = parseAddr(addr); !ok {
		return bad()
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return bad()
	}
	s.port = uint16(number)
	if s.inode, err = strconv.ParseUint(fields[9], 10, 64); err != nil {
		return bad()
	}
	return s, true, nil
}

// parseAddr reads an address, which is written as numbers of 32 bits of this
// machine's order.
func parseAddr(text string) (netip.Addr, bool) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	return netip.AddrFromSlice(raw)
}
