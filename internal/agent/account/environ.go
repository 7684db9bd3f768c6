package account

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxFile bounds what is read of one file, in bytes.
const maxFile = 4 << 20

// lines calls each with the lines of a file until it returns false. A file that
// is missing or not readable has no lines.
func (d Database) lines(name string, each func(string) bool) {
	// Non-blocking: opening a FIFO in the image's place would wait for ever.
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return
	}
	r := bufio.NewReader(io.LimitReader(f, maxFile))
	for {
		line, err := r.ReadBytes('\n')
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && bytes.IndexByte(line, 0) < 0 && !each(string(line)) {
			return
		}
		if err != nil {
			return
		}
	}
}

// The search paths of a login on Debian.
const (
	rootPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	userPath = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
)

// Environ returns the environment of a login of a: the basics, then the image's
// environment file, then extra, each replacing what came before; K=V, no key
// twice.
func (d Database) Environ(a *Account, extra []string) []string {
	path := userPath
	if a.UID == 0 {
		path = rootPath
	}
	env := []string{
		"HOME=" + a.Home, "USER=" + a.Name, "LOGNAME=" + a.Name,
		"SHELL=" + a.Shell, "PATH=" + path, "LANG=C.UTF-8",
	}
	d.lines("environment", func(line string) bool {
		if kv, ok := parseEnvironment(line); ok {
			env = append(env, kv)
		}
		return len(env) < 1024
	})
	return unique(append(env, extra...))
}

// parseEnvironment decodes a line of /etc/environment as pam_env does: an
// optional "export", quotes around the value.
func parseEnvironment(line string) (string, bool) {
	line = strings.TrimSpace(strings.TrimPrefix(line, "export "))
	key, value, ok := strings.Cut(line, "=")
	if !ok || key == "" || strings.ContainsAny(key, " \t\"'") {
		return "", false
	}
	if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
		value = value[1 : n-1]
	}
	return key + "=" + value, true
}

// unique keeps the last of each key, at the place of the first.
func unique(env []string) []string {
	at := make(map[string]int, len(env))
	out := env[:0:0]
	for _, kv := range env {
		key, _, _ := strings.Cut(kv, "=")
		if i, ok := at[key]; ok {
			out[i] = kv
			continue
		}
		at[key] = len(out)
		out = append(out, kv)
	}
	return out
}

// Getenv returns the value of a key in K=V strings, or "".
func Getenv(env []string, key string) string {
	for _, kv := range env {
		if k, v, _ := strings.Cut(kv, "="); k == key {
			return v
		}
	}
	return ""
}
