// Package safe makes text from a guest harmless to a terminal: control and
// bidirectional characters are shown as escapes, so that a name or a log line
// can neither move the cursor nor hide what it says.
package safe

import (
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line returns s on one line: newlines are escaped too.
func Line(s string) string { return string(escape(nil, []byte(s), false)) }

// Text returns s with its newlines and tabs kept. Colours are taken out, as a
// console is full of them.
func Text(s string) string { return string(escape(nil, []byte(s), true)) }

// Writer returns a writer that passes Text on to w. It takes whole lines as
// well as parts of them; a character or colour that is split between two writes
// is still known. Flush writes what it still holds.
func Writer(w io.Writer) *TextWriter { return &TextWriter{w: w} }

// TextWriter is made by Writer.
type TextWriter struct {
	w    io.Writer
	held []byte // the beginning of something that may go on
	out  []byte
}

// Write escapes p.
func (t *TextWriter) Write(p []byte) (int, error) {
	in := append(t.held, p...)
	cut := len(in) - incomplete(in)
	t.out = escape(t.out[:0], in[:cut], true)
	t.held = append([]byte(nil), in[cut:]...)
	if _, err := t.w.Write(t.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what was held back.
func (t *TextWriter) Flush() error {
	rest := escape(nil, t.held, true)
	t.held = nil
	_, err := t.w.Write(rest)
	return err
}

// maxColour is the longest colour sequence that is known as one, in bytes.
const maxColour = 32

// incomplete is the length of an unfinished character, colour or CR at the end.
func incomplete(b []byte) int {
	for n := 1; n <= min(len(b), maxColour); n++ {
		tail := b[len(b)-n:]
		switch c := tail[0]; {
		case c == '\r' && n == 1:
			return n
		case c == 0x1b:
			if colour(tail) == 0 && colourPrefix(tail) {
				return n
			}
			return 0
		case n < utf8.UTFMax && utf8.RuneStart(c) && !utf8.FullRune(tail):
			return n
		}
	}
	return 0
}

// colour is the length of a colour sequence (ESC [ digits ; … m) at the start
// of b, or 0.
func colour(b []byte) int {
	if len(b) < 3 || b[0] != 0x1b || b[1] != '[' {
		return 0
	}
	for i := 2; i < min(len(b), maxColour); i++ {
		switch c := b[i]; {
		case c == 'm':
			return i + 1
		case c != ';' && (c < '0' || c > '9'):
			return 0
		}
	}
	return 0
}

func colourPrefix(b []byte) bool {
	for i, c := range b {
		ok := i == 0 && c == 0x1b || i == 1 && c == '[' || i > 1 && (c == ';' || '0' <= c && c <= '9')
		if !ok {
			return false
		}
	}
	return len(b) < maxColour
}

// escape appends b to out; lines says that newlines and tabs stay.
func escape(out, b []byte, lines bool) []byte {
	for len(b) > 0 {
		if n := colour(b); n > 0 && lines {
			b = b[n:]
			continue
		}
		r, size := utf8.DecodeRune(b)
		switch {
		case r == utf8.RuneError && size == 1:
			out = append(out, '\\', 'x', hexDigits[b[0]>>4], hexDigits[b[0]&15])
		case lines && (r == '\n' || r == '\t'):
			out = append(out, b[0])
		case lines && r == '\r' && len(b) > 1 && b[1] == '\n':
			// The line ends of a serial console.
		case harmful(r):
			out = appendEscaped(out, r)
		default:
			out = append(out, b[:size]...)
		}
		b = b[size:]
	}
	return out
}

const hexDigits = "0123456789abcdef"

func appendEscaped(out []byte, r rune) []byte {
	if r < 0x80 {
		return append(out, '\\', 'x', hexDigits[r>>4], hexDigits[r&15])
	}
	return append(out, strings.Trim(strconv.QuoteRuneToASCII(r), "'")...)
}

// harmful are the characters that act on a terminal or reorder what stands
// around them: controls (C0, C1, DEL), bidirectional controls and other format
// characters, line separators.
func harmful(r rune) bool {
	return unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r)
}
