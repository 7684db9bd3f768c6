package linkwire

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"testing"
)

func bell(n byte, payload string) Doorbell {
	return Doorbell{Nonce: Nonce{n}, Kind: KindReset, Payload: []byte(payload)}
}

func scan(s *Scanner) (found []Doorbell) {
	for d, ok := s.Next(); ok; d, ok = s.Next() {
		found = append(found, d)
	}
	return found
}

func TestScannerFindsDoorbellsAmongAnything(t *testing.T) {
	a, b := bell(1, "first").Append(nil), bell(2, "").Append(nil)
	for name, in := range map[string][]byte{
		"alone":           bytes.Join([][]byte{a, b}, nil),
		"after junk":      bytes.Join([][]byte{[]byte("junk BNGRbel"), a, []byte("BNGRbel1xx"), b}, nil),
		"after a stump":   bytes.Join([][]byte{a[:30], a, b}, nil),
		"after a damaged": bytes.Join([][]byte{append(bytes.Clone(b[:20]), b[:9]...), a, b}, nil),
	} {
		for _, step := range []int{1, 7, len(in)} {
			var s Scanner
			var found []Doorbell
			for rest := in; len(rest) > 0; rest = rest[min(step, len(rest)):] {
				s.Write(rest[:min(step, len(rest))])
				found = append(found, scan(&s)...)
			}
			if len(found) != 2 || string(found[0].Payload) != "first" || found[1].Nonce != (Nonce{2}) {
				t.Errorf("%s by %d: %v", name, step, found)
			}
		}
	}
}

func TestChecksumIsCRC32C(t *testing.T) {
	b := bell(5, "some payload").Append(nil)
	for n := range b {
		if got, want := checksum(b[:n]), crc32.Checksum(b[:n], crc32.MakeTable(crc32.Castagnoli)); got != want {
			t.Fatalf("%d bytes: %08x, want %08x", n, got, want)
		}
	}
}

func TestSkipToReadsNotAByteMore(t *testing.T) {
	n := Nonce{9}
	p := Preamble(n)
	in := bytes.Join([][]byte{Preamble(Nonce{8}), p[:20], p[:1], p, []byte("after")}, nil)
	r := bytes.NewReader(in)
	if err := SkipTo(r, n, 1<<20); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "after" {
		t.Errorf("left %q", rest)
	}
	if err := SkipTo(bytes.NewReader(make([]byte, 1<<20)), n, 1<<10); !errors.Is(err, ErrNoPreamble) {
		t.Errorf("got %v", err)
	}
	if err := SkipTo(bytes.NewReader(p[:5]), n, 1<<10); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

// FuzzSkipTo: whatever stands before the preamble, all of it is skipped.
func FuzzSkipTo(f *testing.F) {
	n := Nonce{1, 2, 3}
	f.Add([]byte("stale"))
	f.Add(Preamble(n)[:27])
	f.Add(bytes.Repeat([]byte("BNGRpre1"), 9))
	f.Fuzz(func(t *testing.T, stale []byte) {
		if bytes.Contains(stale, Preamble(n)) {
			return
		}
		in := append(append(bytes.Clone(stale), Preamble(n)...), "after"...)
		r := bytes.NewReader(in)
		if err := SkipTo(r, n, 1<<40); err != nil {
			t.Fatal(err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "after" {
			t.Fatalf("left %q", rest)
		}
	})
}

// FuzzScanner: whatever comes before, a doorbell that follows is found, and
// nothing makes the scanner keep more than one doorbell's bound.
func FuzzScanner(f *testing.F) {
	f.Add([]byte("BNGRbel1"))
	f.Add(bell(3, "x").Append(nil)[:35])
	f.Fuzz(func(t *testing.T, before []byte) {
		var s Scanner
		s.Write(before)
		scan(&s)
		s.Write(bell(7, "last").Append(nil))
		found := scan(&s)
		if len(found) == 0 || string(found[len(found)-1].Payload) != "last" {
			t.Fatalf("not found after %q", before)
		}
		if len(s.buf) > MaxPayload+doorbellHeader+4 {
			t.Fatalf("%d bytes kept", len(s.buf))
		}
	})
}
