package network

import (
	"sync"

	"golang.org/x/sys/unix"
)

// copySize is the larger of the two sizes of buffers, in bytes; the smaller is
// minFlowBuffer.
const copySize = 64 << 10

// buffers lends memory for the moment in which bytes are copied. What is not
// lent is free for the garbage collector.
type buffers struct {
	large, small sync.Pool
}

// scratch is a buffer on loan.
type scratch struct {
	bytes []byte
	pool  *sync.Pool
}

// take returns a buffer of size bytes, at most copySize.
func (b *buffers) take(size int) *scratch {
	pool, capacity := &b.large, copySize
	if size <= minFlowBuffer {
		pool, capacity = &b.small, minFlowBuffer
	}
	s, ok := pool.Get().(*scratch)
	if !ok {
		s = &scratch{bytes: make([]byte, capacity), pool: pool}
	}
	s.bytes = s.bytes[:size]
	return s
}

func (s *scratch) give() { s.pool.Put(s) }

// rawReader is the part of syscall.RawConn that read needs.
type rawReader interface {
	Read(func(fd uintptr) bool) error
}

// read waits until a socket has something and only then takes a buffer for it,
// so that idle flows hold none. At the end of a stream, and for an empty
// datagram, count is 0 and there is no buffer.
func (b *buffers) read(raw rawReader, size int) (buf *scratch, count int, err error) {
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		buf = b.take(size)
		for {
			count, readErr = unix.Read(int(fd), buf.bytes)
			if readErr != unix.EINTR {
				break
			}
		}
		if readErr == nil && count > 0 {
			return true
		}
		buf.give()
		buf = nil
		return readErr != unix.EAGAIN
	})
	if err == nil {
		err = readErr
	}
	if err != nil {
		return nil, 0, err
	}
	return buf, count, nil
}
