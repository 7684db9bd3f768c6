package ext4

import (
	"encoding/binary"
	"strings"
)

const (
	xattrRecord = "SCHILY.xattr."
	aclAccess   = "system.posix_acl_access"
	aclDefault  = "system.posix_acl_default"

	// An inode has room for one block of attributes.
	maxXattrBytes = 4096
)

// xattrs picks the extended attributes from the records of an entry. Those of
// other systems' namespaces are left out, as an unpacking tar does, and
// overlayfs's own: they would change what a lower layer shows.
func xattrs(name string, records map[string]string) (map[string]string, error) {
	var kept map[string]string
	total := 0
	for record, value := range records {
		key, ok := strings.CutPrefix(record, xattrRecord)
		if !ok || !storable(key) {
			continue
		}
		if key == aclAccess || key == aclDefault {
			acl, ok := diskACL([]byte(value))
			if !ok {
				return nil, entryError(name, "its ACL is not valid")
			}
			value = string(acl)
		}
		if kept == nil {
			kept = make(map[string]string)
		}
		kept[record] = value
		if total += 16 + len(key) + len(value); total > maxXattrBytes {
			return nil, entryError(name, "its extended attributes are longer than %d bytes", maxXattrBytes)
		}
	}
	return kept, nil
}

// storable reports whether ext4 on Linux has a place for an attribute.
func storable(key string) bool {
	if key == aclAccess || key == aclDefault {
		return true
	}
	if strings.HasPrefix(key, "trusted.overlay.") {
		return false
	}
	for _, namespace := range []string{"user.", "trusted.", "security."} {
		if rest, ok := strings.CutPrefix(key, namespace); ok {
			return rest != "" && len(rest) <= maxName
		}
	}
	return false
}

// The tags of ACL entries that name a user or a group (linux/posix_acl.h).
const (
	aclUser  = 0x02
	aclGroup = 0x08
)

// diskACL turns an ACL as system calls show it (version 2: eight bytes an
// entry) into the form that ext4 stores (version 1: an id only where one is
// meant). The kernel rejects the first form on disk.
func diskACL(value []byte) ([]byte, bool) {
	const header, entry = 4, 8
	if len(value) < header || (len(value)-header)%entry != 0 || binary.LittleEndian.Uint32(value) != 2 {
		return nil, false
	}
	out := binary.LittleEndian.AppendUint32(nil, 1)
	for rest := value[header:]; len(rest) > 0; rest = rest[entry:] {
		out = append(out, rest[:4]...) // tag and permissions
		switch tag := binary.LittleEndian.Uint16(rest); tag {
		case aclUser, aclGroup:
			out = append(out, rest[4:8]...)
		case 0x01, 0x04, 0x10, 0x20: // owner, owning group, mask, others
		default:
			return nil, false
		}
	}
	return out, true
}
