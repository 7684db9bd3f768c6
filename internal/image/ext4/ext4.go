// Package ext4 turns a tar stream into a read-only ext4 file in one pass, with
// no root, no mount and no tool of the host. Owners, modes with setuid and
// setgid, times, hard links, device nodes outside ./dev, extended attributes
// and POSIX ACLs survive. The archive is not trusted: what it may hold is
// bounded, and what could reach outside its root is refused.
package ext4

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	banger "github.com/banger-dev/banger"
)

// Limits bounds what an archive may ask for.
type Limits struct {
	// Bytes is the largest file system that is made.
	Bytes int64
	// Entries is the number of files, directories (those only implied by a
	// path too), links and nodes.
	Entries int
	// PathBytes is the sum of the lengths of all paths and link targets: they
	// are kept in memory until the end.
	PathBytes int64
}

// DefaultLimits is enough for any root file system people use: 16 GiB, a
// million entries.
func DefaultLimits() Limits {
	return Limits{Bytes: 16 * banger.GiB, Entries: 1_000_000, PathBytes: 256 * banger.MiB}
}

// maxFile is the largest single file. The writer's extent tree is known good
// up to about 40 GiB; nobody ships a file near that in a root file system.
const maxFile = 16 * banger.GiB

// errConverter marks a write that failed because the converter had given up.
var errConverter = errors.New("conversion stopped")

// Convert reads a tar stream to its end and writes an ext4 file system to disk,
// which must be empty. The result has no free space and no journal: mount it
// read-only. When Convert fails, disk holds garbage and the caller removes it.
//
// An archive that is truncated, too large, or holds what is refused (absolute
// paths, "..", links that leave the root, entries beneath something that is not
// a directory, duplicates of anything but directories) is an error that names
// the entry. ctx is looked at between reads: a read that blocks is the caller's
// to unblock.
func Convert(ctx context.Context, archive io.Reader, disk io.ReadWriteSeeker, limits Limits) error {
	r, w := io.Pipe()
	converted := make(chan error, 1)
	go func() {
		err := tar2ext4.ConvertTarToExt4(r, disk, tar2ext4.MaximumDiskSize(limits.Bytes))
		r.CloseWithError(errConverter)
		converted <- err
	}()
	buffered := bufio.NewWriterSize(w, 256<<10)
	err := newFilter(ctx, archive, buffered, limits).run()
	if err == nil {
		err = buffered.Flush()
	}
	w.CloseWithError(err) // nil is the end of the stream
	convertErr := <-converted
	if err != nil && !errors.Is(err, errConverter) {
		return err
	}
	return explain(convertErr, limits)
}

// explain gives the converter's error the words of this package.
func explain(err error, limits Limits) error {
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "disk exceeded maximum size"):
		return tooLarge(limits)
	}
	return banger.Errorf(banger.CodeFailed, "archive: ext4: %w", err)
}

func tooLarge(limits Limits) error {
	return banger.Errorf(banger.CodeFailed, "archive: holds more than %s, the largest image", banger.FormatSize(limits.Bytes))
}
