package ext4

import (
	"archive/tar"
	"math"
	"path"
	"strings"
)

const (
	// Linux's device numbers have 12 and 20 bits.
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// header returns the header that the converter gets: a new one, with checked
// fields only.
func (f *filter) header(name string, hdr *tar.Header) (*tar.Header, error) {
	out := &tar.Header{
		Format:     tar.FormatPAX,
		Typeflag:   hdr.Typeflag,
		Name:       name,
		Mode:       hdr.Mode & 0o7777,
		Uid:        hdr.Uid,
		Gid:        hdr.Gid,
		ModTime:    hdr.ModTime,
		AccessTime: hdr.AccessTime,
		ChangeTime: hdr.ChangeTime,
	}
	if name == "" {
		out.Name = "./"
	}
	if hdr.Uid < 0 || hdr.Uid > math.MaxUint32 || hdr.Gid < 0 || hdr.Gid > math.MaxUint32 {
		return nil, entryError(name, "owner %d:%d is not a 32-bit id", hdr.Uid, hdr.Gid)
	}
	if err := f.specific(name, hdr, out); err != nil {
		return nil, err
	}
	if hdr.Typeflag == tar.TypeLink {
		return out, nil // attributes belong to the file it links to
	}
	records, err := xattrs(name, hdr.PAXRecords)
	out.PAXRecords = records
	return out, err
}

// specific fills in what depends on the type of the entry.
func (f *filter) specific(name string, hdr, out *tar.Header) error {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		out.Typeflag = tar.TypeReg
		out.Size = hdr.Size
		if hdr.Size > maxFile || hdr.Size > f.limits.Bytes {
			return tooLarge(f.limits)
		}
	case tar.TypeDir:
		// Nothing more.
	case tar.TypeFifo:
		return notRoot(name)
	case tar.TypeChar, tar.TypeBlock:
		out.Devmajor, out.Devminor = hdr.Devmajor, hdr.Devminor
		if hdr.Devmajor < 0 || hdr.Devmajor > maxMajor || hdr.Devminor < 0 || hdr.Devminor > maxMinor {
			return entryError(name, "there is no device %d:%d", hdr.Devmajor, hdr.Devminor)
		}
	case tar.TypeSymlink:
		out.Linkname = hdr.Linkname
		return symlinkTarget(name, hdr.Linkname)
	case tar.TypeLink:
		target, err := cleanName(hdr.Linkname)
		if err != nil {
			return entryError(name, "hard link out of the root, to %q", hdr.Linkname)
		}
		out.Linkname = target
	default:
		return entryError(name, "type %q is not known", hdr.Typeflag)
	}
	if hdr.Typeflag != tar.TypeDir {
		return notRoot(name)
	}
	return nil
}

func notRoot(name string) error {
	if name == "" {
		return entryError(".", "the root is not a directory")
	}
	return nil
}

// symlinkTarget refuses a relative target that climbs out of the root. An
// absolute one is resolved in the guest, whose root it cannot leave.
func symlinkTarget(name, target string) error {
	if err := notRoot(name); err != nil {
		return err
	}
	if target == "" || len(target) > maxPath {
		return entryError(name, "the target of the symbolic link is %d bytes long", len(target))
	}
	if strings.HasPrefix(target, "/") {
		return nil
	}
	depth := strings.Count(name, "/")
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			depth--
		default:
			depth++
		}
		if depth < 0 {
			return entryError(name, "symbolic link out of the root, to %q", path.Clean(target))
		}
	}
	return nil
}
