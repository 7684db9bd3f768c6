package speech

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/banger-dev/banger/internal/policy"
)

// request is what must be known of one.
type request struct {
	host    string
	length  int64
	chunked bool
}

// maxMethod is the longest method that is taken for one, in bytes.
const maxMethod = 32

// maxHost is the longest host that is taken for one, in bytes.
const maxHost = 255

// wholeHead returns the lines up to and with an empty one. It is broken as soon as
// it cannot become the head of a request, or fields, any more.
func wholeHead(p []byte) ([]byte, progress) {
	start := p[:min(len(p), maxMethod+1)]
	if i := bytes.IndexAny(start, " :"); i >= 0 {
		start = start[:i]
	}
	if !isToken(string(start)) {
		return nil, broken // neither a method nor a field
	}
	for at := 0; ; {
		i := bytes.IndexByte(p[at:], '\n')
		if i < 0 {
			if len(p) > maxHead {
				return nil, broken
			}
			return nil, partial
		}
		end := at + i + 1
		if i == 0 || p[end-2] != '\r' || end > maxHead {
			return nil, broken
		}
		if i == 1 {
			return p[:end], complete
		}
		at = end
	}
}

// isToken reports whether text is a token, as methods and the names of fields are
// (RFC 9110 §5.6.2).
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// isValue reports whether text may be the value of a field: no control character
// but the tabulator.
func isValue(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// wholeLine returns a line without its end.
func wholeLine(p []byte, most int) ([]byte, progress) {
	i := bytes.IndexByte(p[:min(len(p), most)], '\n')
	switch {
	case i < 0 && len(p) >= most:
		return nil, broken
	case i < 0:
		return nil, partial
	case i == 0 || p[i-1] != '\r':
		return nil, broken
	}
	return p[:i-1], complete
}

// parseRequest reads the head of a request. It is false for all that a server might
// read in another way: then nobody can say for which host it is.
func parseRequest(head []byte) (r request, ok bool) {
	line, rest, _ := strings.Cut(string(head), "\r\n")
	words := strings.Split(line, " ")
	if len(words) != 3 || !isToken(words[0]) || len(words[0]) > maxMethod {
		return r, false
	}
	method, target, version := words[0], words[1], words[2]
	if version != "HTTP/1.1" && version != "HTTP/1.0" || method == "CONNECT" {
		return r, false // a tunnel has no host but the one at its end
	}
	fields, ok := parseFields([]byte(rest))
	if !ok || len(fields["host"]) > 1 || len(fields["host"]) == 0 && version == "HTTP/1.1" {
		return r, false
	}
	if len(fields["host"]) == 1 {
		r.host = policy.CleanHost(fields["host"][0])
	}
	if !plainHost(r.host) || !targetFits(target, r.host) {
		return r, false
	}
	return r, r.frame(fields, version)
}

// plainHost refuses hosts that a server might cut elsewhere, and what is longer than
// any name.
func plainHost(host string) bool {
	return len(host) <= maxHost && !strings.ContainsAny(host, " \t,;/\\@?#%")
}

// targetFits reports whether the target of a request says nothing of another host.
func targetFits(target, host string) bool {
	if strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return false
	}
	if strings.HasPrefix(target, "/") || target == "*" {
		return true
	}
	_, authority, absolute := strings.Cut(target, "://")
	if !absolute {
		return false
	}
	if i := strings.IndexAny(authority, "/?#"); i >= 0 {
		authority = authority[:i]
	}
	return plainHost(authority) && policy.CleanHost(authority) == host
}

// frame reads how long the body is (RFC 9112 §6), which must be said once.
func (r *request) frame(fields map[string][]string, version string) bool {
	lengths, encodings := fields["content-length"], fields["transfer-encoding"]
	switch {
	case len(lengths)+len(encodings) > 1:
		return false
	case len(encodings) == 1:
		r.chunked = strings.EqualFold(encodings[0], "chunked")
		return r.chunked && version == "HTTP/1.1"
	case len(lengths) == 1:
		length, ok := decimal(lengths[0])
		r.length = length
		return ok
	}
	return true
}

// decimal reads digits and nothing else.
func decimal(text string) (int64, bool) {
	if text == "" || len(text) > 18 || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// parseFields reads header fields up to the empty line; names come in lower case.
func parseFields(text []byte) (map[string][]string, bool) {
	fields := map[string][]string{}
	for line := range strings.SplitSeq(strings.TrimSuffix(string(text), "\r\n"), "\r\n") {
		if line == "" {
			continue // what Split finds after the last
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !ok || !isToken(name) || !isValue(value) {
			return nil, false
		}
		name = strings.ToLower(name)
		fields[name] = append(fields[name], value)
	}
	return fields, true
}

// chunkSize reads the line before a chunk: hexadecimal digits, and perhaps an
// extension, which is passed over.
func chunkSize(line []byte) (int64, bool) {
	digits, extension, _ := strings.Cut(string(line), ";")
	if digits == "" || len(digits) > 15 || strings.Trim(digits, "0123456789abcdefABCDEF") != "" ||
		!isValue(extension) {
		return 0, false
	}
	size, err := strconv.ParseInt(digits, 16, 64)
	return size, err == nil
}
