package safe

import (
	"bytes"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                       "plain",
		"ünï\tcode\n":                 "ünï\tcode\n",
		"\x1b[0;32m  OK  \x1b[0m\r\n": "  OK  \n",
		"\x1b]0;title\a":              `\x1b]0;title\x07`,
		"\x1b[2J":                     `\x1b[2J`,
		"abc\rxyz":                    `abc\x0dxyz`,
		"user\u202etxt.exe":           `user\u202etxt.exe`,
		"a\u2066b\u200fc":             `a\u2066b\u200fc`,
		"c1\u009b31m":                 `c1\u009b31m`,
		"bad\xff\xfe":                 `bad\xff\xfe`,
		"\x7f":                        `\x7f`,
		"line\u2028sep":               `line\u2028sep`,
		"\x1b[" + "1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1m": "\\x1b[1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1m",
	} {
		if got := Text(in); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
	if got := Line("a\nb\x1b[1m"); got != `a\x0ab\x1b[1m` {
		t.Errorf("Line = %q", got)
	}
}

// Whatever the cuts between writes, the outcome is that of one write, and holds
// nothing that acts on a terminal.
func FuzzWriter(f *testing.F) {
	f.Add([]byte("\x1b[0;32mOK\x1b[0m\r\nü\u202e\xff"), uint8(3))
	f.Add([]byte("\r\r\n\x1b[\x1b[1"), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		var cut bytes.Buffer
		w := Writer(&cut)
		for rest := in; len(rest) > 0; {
			n := min(len(rest), int(step)%7+1)
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		w.Flush()
		if whole := Text(string(in)); cut.String() != whole {
			t.Fatalf("in parts %q, whole %q", cut.String(), whole)
		}
		if !utf8.Valid(cut.Bytes()) {
			t.Fatalf("not UTF-8: %q", cut.String())
		}
		for _, r := range cut.String() {
			if harmful(r) && r != '\n' && r != '\t' {
				t.Fatalf("%q passed %q", cut.String(), r)
			}
		}
	})
}
