package vmhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

const (
	// fingerprintTime bounds one question: QEMU is asked for its version.
	fingerprintTime = 20 * time.Second
	// maxFingerprint bounds the answer in bytes.
	maxFingerprint = 4096
)

// Machine is what a fingerprint is of.
type Machine struct {
	// Supervisor is the path of banger-vm, QEMU that of the VMM.
	Supervisor, QEMU string
	Driver, Accel    string
}

// Fingerprints asks banger-vm what a frozen guest depends on besides what it was
// made of, and remembers the answer for as long as the programs are the same.
// The zero value is ready; all methods may be called from any goroutine.
type Fingerprints struct {
	mu    sync.Mutex
	known map[string]string
}

// Of returns the fingerprint of m: one line. An error says that m's driver has
// no templates here.
func (f *Fingerprints) Of(ctx context.Context, m Machine) (string, error) {
	key, err := m.key()
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if known, ok := f.known[key]; ok {
		return known, nil
	}
	text, err := m.ask(ctx)
	if err != nil {
		return "", err
	}
	// Those of programs that were replaced are of no use any more.
	if len(f.known) > 16 || f.known == nil {
		f.known = map[string]string{}
	}
	f.known[key] = text
	return text, nil
}

// key is another one when a program is.
func (m Machine) key() (string, error) {
	key := fmt.Sprintf("%q", m)
	for _, path := range []string{m.Supervisor, m.QEMU} {
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		key += fmt.Sprintf(" %d %d", info.Size(), info.ModTime().UnixNano())
	}
	return key, nil
}

func (m Machine) ask(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, fingerprintTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.Supervisor, "fingerprint", "--driver", m.Driver, "--accel", m.Accel, "--qemu", m.QEMU)
	cmd.WaitDelay = time.Second
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("the fingerprint did not come: %w", context.Cause(ctx))
		}
		return "", fmt.Errorf("no fingerprint: %s", lastWords(words.String(), err))
	}
	text := strings.TrimSpace(out.String())
	if text == "" || len(text) > maxFingerprint || strings.ContainsAny(text, "\n\r") {
		return "", errors.New("the fingerprint is not one line")
	}
	return text, nil
}
