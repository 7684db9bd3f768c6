package account

import (
	"bytes"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxFile bounds what is read of one file, in bytes.
const maxFile = 4 << 20

// lines calls each with the lines of a file until it returns false. A file that
// is missing or not readable has no lines.
func (d Database) lines(name string, each func(string) bool) {
	text := read(filepath.Join(string(d), name))
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && bytes.IndexByte(line, 0) < 0 && !each(string(line)) {
			return
		}
	}
}

// read returns the first maxFile bytes of a regular file; of anything else, or
// after an error, none. It is done three times before each command: package os
// would try to poll the file.
func read(path string) []byte {
	// Non-blocking: opening a FIFO in the image's place would wait for ever.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	text := make([]byte, min(max(st.Size, 0), maxFile))
	done := 0
	for done < len(text) {
		n, err := unix.Read(fd, text[done:])
		if err != nil || n <= 0 {
			break
		}
		done += n
	}
	return text[:done]
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
