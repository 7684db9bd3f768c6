// Package sshkey makes the SSH keys of banger: the user's own, one host key per
// VM, and the known_hosts file by which clients know the VMs beforehand.
package sshkey

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	banger "github.com/banger-dev/banger"
)

// maxKey bounds a key file in bytes.
const maxKey = 64 << 10

// Generate returns a new ed25519 private key in OpenSSH's format, PEM.
func Generate(comment string) ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

// Public returns the public half of a private key as "ssh-ed25519 AAAA…",
// without a newline.
func Public(private []byte) (string, error) {
	signer, err := ssh.ParsePrivateKey(private)
	if err == nil {
		return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), nil
	}
	// The public half of an encrypted key is readable without its passphrase.
	if locked, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok && locked.PublicKey != nil {
		return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(locked.PublicKey))), nil
	}
	return "", err
}

// Ensure returns the public line of the user's key at path, making the key
// (0600, its directory 0700, the public half beside it) if there is none. Two
// processes at once end with one key.
func Ensure(path string) (string, error) {
	public, err := load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return public, err
	}
	if err := create(path); err != nil {
		return "", banger.Errorf(banger.CodeUnavailable, "ssh key %s cannot be made: %w", path, err)
	}
	return load(path)
}

func load(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err != nil {
		return "", banger.Errorf(banger.CodeUnavailable, "ssh key %s cannot be read: %w", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return "", banger.Errorf(banger.CodeUnavailable, "ssh key %s cannot be read: %w", path, err)
	}
	public, err := Public(data)
	if err != nil {
		return "", banger.Errorf(banger.CodeUnavailable, "ssh key %s is not a private key: %w", path, err).
			WithHint("move it away; a new one is made")
	}
	return public, nil
}

func create(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	host, _ := os.Hostname()
	private, err := Generate("banger@" + host)
	if err != nil {
		return err
	}
	// A link never replaces: of two makers, one wins, and both read its key.
	err = atomically(path, private, 0o600, os.Link)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	public, err := Public(private)
	if err != nil {
		return err
	}
	return atomically(path+".pub", []byte(public+" banger@"+host+"\n"), 0o644, os.Rename)
}

// Host is one VM for known_hosts.
type Host struct {
	ID, Name string
	// Key is the VM's private host key, PEM.
	Key []byte
}

// WriteKnownHosts replaces the file at path, in one step, with two names per
// VM: NAME.vm and ID.vm. A VM whose key cannot be read is left out.
func WriteKnownHosts(path string, hosts []Host) error {
	var text bytes.Buffer
	for _, h := range hosts {
		public, err := Public(h.Key)
		if err != nil {
			continue
		}
		fmt.Fprintf(&text, "%s.vm %s\n%s.vm %s\n", h.Name, public, h.ID, public)
	}
	return atomically(path, text.Bytes(), 0o600, os.Rename)
}

// atomically writes a file beside path and puts it in place with move, which
// is os.Rename, or os.Link where an existing file must stay.
func atomically(path string, data []byte, mode fs.FileMode, move func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-"+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return move(f.Name(), path)
}
