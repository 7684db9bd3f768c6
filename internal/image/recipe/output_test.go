package recipe

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	banger "github.com/banger-dev/banger"
)

func TestOutput(t *testing.T) {
	var heard []Status
	o := newOutput(func(s Status) { heard = append(heard, s) }, slog.New(slog.DiscardHandler))
	o.follow(strings.NewReader(`I: running apt-get update...
Get:1 http://archive.example/debian bookworm InRelease [151 kB]
I: downloading packages with apt...
Need to get 38.0 MB of archives.
Get:1 http://archive.example/debian bookworm/main amd64 liblzma5 amd64 5.4.1-1 [206 kB]
Get:2 http://archive.example/debian bookworm/main amd64 big amd64 1 [99.0 MB]
I: installing remaining packages inside the chroot...
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Need to get 0 B/38.5 MB of archives.
Unpacking git (1:2.39.5-0+deb12u3) ...
Setting up evil` + "\x1b[2J\u202e" + ` (1) ...
nonsense
`))
	want := []Status{
		{"fetching package lists", 0, 0},
		{"fetching package lists", 151_000, 0},
		{"downloading essential packages", 0, 0},
		{"downloading essential packages", 0, 38_000_000},
		{"downloading essential packages", 206_000, 38_000_000},
		{"downloading essential packages", 38_000_000, 38_000_000},
		{"downloading packages", 0, 0},
		{"unpacking git (1 of 2)", 0, 0},
		{"setting up evil (1 of 2)", 0, 0},
	}
	if len(heard) != len(want) {
		t.Fatalf("heard %v", heard)
	}
	for i := range want {
		if heard[i] != want[i] {
			t.Errorf("%d: heard %+v, want %+v", i, heard[i], want[i])
		}
	}
}

func TestVerdict(t *testing.T) {
	exit, took := errors.New("exit status 25"), errors.New("took no more")
	for _, c := range []struct {
		printed       string
		exit, consume error
		code          banger.Code
		want          string
	}{
		{"", nil, took, banger.CodeFailed, "took no more"},
		{"", exit, took, banger.CodeFailed, "took no more"},
		{"", exit, io.ErrUnexpectedEOF, banger.CodeFailed, "printed nothing"},
		{"E: a\nE: b\n", exit, io.ErrUnexpectedEOF, banger.CodeFailed, "mmdebstrap: a; try: banger daemon logs"},
		{"dpkg: No space left on device\nE: dpkg failed\n", exit, nil, banger.CodeFailed, "TMPDIR"},
		{"E: The repository 'x' is not signed.\n", exit, nil, banger.CodeUnavailable, "debian-archive-keyring"},
		{"E: unshare() failed: Operation not permitted\n", exit, nil, banger.CodeUnavailable, "namespaces"},
	} {
		o := newOutput(func(Status) {}, slog.New(slog.DiscardHandler))
		o.follow(strings.NewReader(c.printed))
		err := o.verdict(host{uid: 1000}, c.exit, c.consume)
		if banger.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) && c.want != "namespaces" {
			t.Errorf("%q: got %v (%s), want %q", c.printed, err, banger.CodeOf(err), c.want)
		}
	}
	if err := newOutput(func(Status) {}, slog.New(slog.DiscardHandler)).verdict(host{}, nil, nil); err != nil {
		t.Error(err)
	}
}

// FuzzOutput: whatever a package's script prints, numbers stay sane.
func FuzzOutput(f *testing.F) {
	f.Add("Need to get 1 B of archives.\nGet:1 x [999,999,999 GB]\nSetting up x (1) ...")
	f.Fuzz(func(t *testing.T, text string) {
		o := newOutput(func(s Status) {
			if s.Done < 0 || s.Total < 0 || s.Total > 0 && s.Done > s.Total {
				t.Errorf("%+v", s)
			}
		}, slog.New(slog.DiscardHandler))
		o.follow(strings.NewReader(text))
	})
}
