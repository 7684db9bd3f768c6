package process

import (
	"errors"
	"os"
	"testing"
	"time"
)

func TestUseOf(t *testing.T) {
	use, err := UseOf(os.Getpid())
	if err != nil || use.Memory < 1<<20 {
		t.Errorf("%+v, %v", use, err)
	}
	if _, err := UseOf(1 << 30); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
	text := "7 (a ) 1 2 3) S 1 1 1 0 -1 0 1 2 3 4 150 50 0 0 20 0 1 0 99 1000 25 18446744073709551615\n"
	if use, err := parseUse([]byte(text), 4096); err != nil || use.CPU != 2*time.Second || use.Memory != 25*4096 {
		t.Errorf("%+v, %v", use, err)
	}
}

func FuzzParseUse(f *testing.F) {
	f.Add([]byte("7 (x) S 1 1"))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if use, err := parseUse(text, 1); err == nil && use.Memory < 0 {
			t.Errorf("%+v", use)
		}
	})
}
