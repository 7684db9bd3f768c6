package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/agent/account"
)

// Spec is a command to run.
type Spec struct {
	// Argv is the command; its first word is looked up in the PATH of the
	// command's own environment. Empty with Shell.
	Argv []string
	// Shell runs the user's login shell.
	Shell bool
	// File is run instead of what Argv[0] names.
	File string
	// Env is K=V, added to the environment of a login.
	Env []string
	// Cwd is where the command starts; empty is the user's home, or / if there
	// is no such directory.
	Cwd string
	// User as account.Database.Lookup takes it; empty is root.
	User string
	// Terminal is nil for pipes: stdout and stderr apart.
	Terminal *Terminal
	// Stdin gives the process input; without it, it reads end-of-file at once.
	Stdin bool
	// TimeLimit is how long it may run before it is ended; 0: as long as it likes.
	TimeLimit time.Duration
}

// The codes of a StartError, as banger.agent.v1.ExecError has them.
const (
	CodeNotFound      = "not_found"
	CodeNotExecutable = "not_executable"
	CodeNoCwd         = "no_cwd"
	CodeNoUser        = "no_user"
	CodeInvalid       = "invalid"
	CodeGone          = "gone"
	CodeLimit         = "limit"
	CodeInternal      = "internal"
)

// StartError is why a command was not run.
type StartError struct {
	Code    string
	Message string
}

// Error returns the message.
func (e *StartError) Error() string { return e.Message }

func startErrorf(code, format string, args ...any) *StartError {
	return &StartError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// ExitCode is what a shell would exit with.
func (e *StartError) ExitCode() int {
	switch e.Code {
	case CodeNotFound:
		return 127
	case CodeNotExecutable:
		return 126
	}
	return 125
}

// plan is a Spec made ready for the kernel.
type plan struct {
	who  *account.Account
	file string
	argv []string
	env  []string
	cwd  string
}

// prepare resolves a Spec against the guest as it is now.
func prepare(users account.Database, spec *Spec) (*plan, error) {
	if err := valid(spec); err != nil {
		return nil, err
	}
	who, err := users.Lookup(spec.User)
	if err != nil {
		return nil, startErrorf(CodeNoUser, "%v in the guest", err)
	}
	p := &plan{who: who, argv: spec.Argv, env: users.Environ(who, spec.Env)}
	if spec.Terminal != nil && account.Getenv(p.env, "TERM") == "" {
		p.env = append(p.env, "TERM=xterm-256color")
	}
	if p.cwd, err = workingDir(who, spec.Cwd); err != nil {
		return nil, err
	}
	switch {
	case spec.File != "":
		p.file = spec.File
	case spec.Shell:
		p.file = LoginShell(who)
		p.argv = []string{"-" + filepath.Base(p.file)}
	default:
		p.file, err = p.lookup(spec.Argv[0])
	}
	return p, err
}

// LoginShell is the shell of a user, or /bin/sh if the guest has not got it.
func LoginShell(who *account.Account) string {
	if info, err := os.Stat(who.Shell); err != nil || info.IsDir() {
		return "/bin/sh"
	}
	return who.Shell
}

func valid(spec *Spec) error {
	if len(spec.Argv) == 0 == !spec.Shell || (spec.Shell && len(spec.Argv) > 0) {
		return startErrorf(CodeInvalid, "a command or a shell is needed, not both")
	}
	if len(spec.Argv) > 0 && spec.Argv[0] == "" {
		return startErrorf(CodeNotFound, "the command's name is empty")
	}
	for _, kv := range spec.Env {
		if at := strings.IndexByte(kv, '='); at <= 0 {
			return startErrorf(CodeInvalid, "environment %q is not K=V", short(kv))
		}
	}
	words := slices.Concat(spec.Argv, spec.Env, []string{spec.Cwd, spec.User, spec.File})
	if slices.ContainsFunc(words, func(s string) bool { return strings.IndexByte(s, 0) >= 0 }) {
		return startErrorf(CodeInvalid, "a NUL byte in the command or its environment")
	}
	return nil
}

// short bounds a word in a message.
func short(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

func workingDir(who *account.Account, cwd string) (string, error) {
	if cwd == "" {
		if enter(who, who.Home) == nil {
			return who.Home, nil
		}
		return "/", nil
	}
	if !filepath.IsAbs(cwd) {
		cwd = filepath.Join(who.Home, cwd)
	}
	if err := enter(who, cwd); err != nil {
		return "", startErrorf(CodeNoCwd, "working directory %q: %v", short(cwd), cause(err))
	}
	return cwd, nil
}

// enter says why who cannot change to dir, as far as mode bits tell.
func enter(who *account.Account, dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return syscall.ENOTDIR
	case !reach(who, dir) || !who.Permits(info, 1):
		return syscall.EACCES
	}
	return nil
}

// reach reports whether who may pass through the parents of path.
func reach(who *account.Account, path string) bool {
	if who.UID == 0 {
		return true
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && !who.Permits(info, 1) {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

func cause(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// lookup finds the file of a command as a shell does: what is found but may not
// be executed is remembered, and the search goes on.
func (p *plan) lookup(name string) (string, error) {
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(p.cwd, path)
		}
		found, err := p.executable(path)
		switch {
		case found:
			return path, nil
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			return "", startErrorf(CodeNotFound, "%q: %v", short(name), cause(err))
		}
		return "", startErrorf(CodeNotExecutable, "%q: %v", short(name), cause(err))
	}
	search := account.Getenv(p.env, "PATH")
	denied := ""
	for dir := range strings.SplitSeq(search, ":") {
		path := filepath.Join(p.cwd, dir, name)
		if filepath.IsAbs(dir) {
			path = filepath.Join(dir, name)
		}
		found, err := p.executable(path)
		if found {
			return path, nil
		}
		if errors.Is(err, syscall.EACCES) && denied == "" {
			denied = path
		}
	}
	if denied != "" {
		return "", startErrorf(CodeNotExecutable, "%q: permission denied", short(denied))
	}
	return "", startErrorf(CodeNotFound, "%q: command not found in %q", short(name), short(search))
}

// executable reports whether the user may execute path, or why not.
func (p *plan) executable(path string) (bool, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return false, err
	case info.IsDir():
		return false, syscall.EISDIR
	case !info.Mode().IsRegular(), !p.who.Permits(info, 1), !reach(p.who, path):
		return false, syscall.EACCES
	}
	return true, nil
}

// start runs the plan with files as descriptors 0, 1 and 2, and returns the
// process and its pidfd. A file that the kernel takes for no program is run by
// /bin/sh if it looks like text, as every shell does.
func (p *plan) start(files []uintptr, attr syscall.SysProcAttr) (pid, pidfd int, err error) {
	pid, pidfd, err = p.fork(files, attr)
	if errors.Is(err, syscall.ENOEXEC) && isText(p.file) {
		p.argv = append([]string{"sh", p.file}, p.argv[1:]...)
		p.file = "/bin/sh"
		pid, pidfd, err = p.fork(files, attr)
	}
	if err != nil {
		return 0, -1, p.explain(err)
	}
	return pid, pidfd, nil
}

// timerSlack is what Linux gives to processes, in nanoseconds.
const timerSlack = 50_000

func (p *plan) fork(files []uintptr, attr syscall.SysProcAttr) (pid, pidfd int, err error) {
	attr.PidFD = &pidfd
	// An agent that is not root, as in tests, can only run commands as itself.
	itself := os.Geteuid() != 0 && int(p.who.UID) == os.Geteuid()
	if !itself && (p.who.UID != 0 || p.who.GID != 0 || len(p.who.Groups) > 0) {
		attr.Credential = &syscall.Credential{Uid: p.who.UID, Gid: p.who.GID, Groups: p.who.Groups}
	}
	// Nor has a command the slack of the agent's timers: it inherits its thread's.
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0)
	pid, err = syscall.ForkExec(p.file, p.argv, &syscall.ProcAttr{
		Dir: p.cwd, Env: p.env, Files: files, Sys: &attr,
	})
	runtime.UnlockOSThread()
	if err == nil {
		// The agent is spared when memory runs out (boot); its commands are not.
		writeOnce(fmt.Sprintf("/proc/%d/oom_score_adj", pid), "0")
	}
	return pid, pidfd, err
}

// writeOnce writes to one of the kernel's files, as well as it can. It is three
// calls, of which os.WriteFile makes eight.
func writeOnce(path, text string) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	_, _ = unix.Write(fd, []byte(text))
	_ = unix.Close(fd)
}

// explain turns an error of fork and exec into the code that it means.
func (p *plan) explain(err error) error {
	switch {
	case errors.Is(err, syscall.E2BIG):
		return startErrorf(CodeLimit, "the arguments and environment are longer than the kernel takes")
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM):
		return startErrorf(CodeLimit, "%q: no process can be made: %v", short(p.argv[0]), err)
	case errors.Is(err, syscall.ENOENT):
		return startErrorf(CodeNotFound, "%q: its interpreter does not exist", short(p.file))
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.EPERM):
		return startErrorf(CodeInternal, "%q: %v", short(p.file), err)
	}
	return startErrorf(CodeNotExecutable, "%q: %v", short(p.file), err)
}

// isText reports whether a file begins with a line without NUL bytes, which is
// how bash tells a script from a broken program.
func isText(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, 128))
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return err == nil && bytes.IndexByte(line, 0) < 0
}
