package speech

import (
	"strings"

	"golang.org/x/crypto/cryptobyte"
)

// Numbers of TLS (RFC 8446 §4, §5.1 and RFC 6066 §3).
const (
	recordHandshake = 22
	recordAlert     = 21
	recordHeader    = 5
	maxRecord       = 1 << 14
	typeClientHello = 1
	extServerName   = 0
	nameTypeHost    = 0
)

// progress is how far a parser came.
type progress int

const (
	partial  progress = iota // more bytes are needed
	complete                 // it is there
	broken                   // it never will be
)

// serverName returns the host that a client hello is for, "" if it does not say, and
// how many bytes the hello has with its records.
func serverName(p []byte) (string, int, progress) {
	var message []byte
	for rest := p; ; {
		if len(message) >= 4 {
			if message[0] != typeClientHello {
				return "", 0, broken
			}
			size := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
			if size > maxHello {
				return "", 0, broken
			}
			if len(message) >= 4+size {
				host, state := helloName(message[4 : 4+size])
				return host, len(p) - len(rest), state
			}
		}
		if len(rest) < recordHeader {
			return "", 0, partial
		}
		size := int(rest[3])<<8 | int(rest[4])
		if rest[0] != recordHandshake || rest[1] != 3 || size == 0 || size > maxRecord || len(message) > maxHello {
			return "", 0, broken
		}
		if len(rest) < recordHeader+size {
			if len(message)+size > maxHello+maxRecord {
				return "", 0, broken
			}
			return "", 0, partial
		}
		message = append(message, rest[recordHeader:recordHeader+size]...)
		rest = rest[recordHeader+size:]
	}
}

// helloName reads the body of a client hello.
func helloName(hello cryptobyte.String) (string, progress) {
	var session, suites, compressions, extensions cryptobyte.String
	if !hello.Skip(2+32) || !hello.ReadUint8LengthPrefixed(&session) ||
		!hello.ReadUint16LengthPrefixed(&suites) || !hello.ReadUint8LengthPrefixed(&compressions) {
		return "", broken
	}
	if hello.Empty() {
		return "", complete // before there were extensions
	}
	if !hello.ReadUint16LengthPrefixed(&extensions) || !hello.Empty() {
		return "", broken
	}
	host, seen := "", false
	for !extensions.Empty() {
		var kind uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&kind) || !extensions.ReadUint16LengthPrefixed(&data) {
			return "", broken
		}
		if kind != extServerName {
			continue
		}
		var ok bool
		if host, ok = nameExtension(data); !ok || seen {
			return "", broken
		}
		seen = true
	}
	return host, complete
}

// nameExtension reads the list of server names, which has just one.
func nameExtension(data cryptobyte.String) (string, bool) {
	var list, name cryptobyte.String
	var kind uint8
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() || !list.ReadUint8(&kind) ||
		!list.ReadUint16LengthPrefixed(&name) || !list.Empty() || kind != nameTypeHost || name.Empty() {
		return "", false
	}
	host := string(name)
	return host, len(host) <= maxHost && !strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}
