package guestexec

// ring is a byte queue of fixed size. Its memory is touched only where bytes
// have been. Offsets are counts since the beginning, so they never wrap.
type ring struct {
	buf  []byte
	tail uint64 // first byte kept
	head uint64 // after the last byte
}

func newRing(size int) ring { return ring{buf: make([]byte, size)} }

func (r *ring) len() int  { return int(r.head - r.tail) }
func (r *ring) free() int { return len(r.buf) - r.len() }

// space is the contiguous free part that follows the bytes kept, at most max.
func (r *ring) space(max int) []byte {
	at := int(r.head % uint64(len(r.buf)))
	n := min(r.free(), len(r.buf)-at, max)
	return r.buf[at : at+n]
}

// from is the contiguous part that begins at offset, at most max bytes.
func (r *ring) from(offset uint64, max int) []byte {
	at := int(offset % uint64(len(r.buf)))
	n := min(int(r.head-offset), len(r.buf)-at, max)
	return r.buf[at : at+n]
}

// write appends p, which fits.
func (r *ring) write(p []byte) {
	for len(p) > 0 {
		n := copy(r.space(len(p)), p)
		r.head += uint64(n)
		p = p[n:]
	}
}
