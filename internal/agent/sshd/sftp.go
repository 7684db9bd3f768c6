package sshd

import (
	"errors"
	"fmt"
	"io"

	"github.com/pkg/sftp"
)

// SFTPName is the argv[0] under which the agent's program must call ServeSFTP
// and nothing else: file transfer is a process of its own, so that it has the
// rights, the home and the cgroup of its user, and cannot take the agent along.
const SFTPName = "banger-sftp-server"

// ServeSFTP serves the SFTP protocol as the calling process's user until in
// ends, relative paths from the working directory.
func ServeSFTP(in io.Reader, out io.WriteCloser) error {
	server, err := sftp.NewServer(struct {
		io.Reader
		io.WriteCloser
	}{in, out})
	if err != nil {
		return fmt.Errorf("sftp: %w", err)
	}
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("sftp: %w", err)
	}
	return nil
}
