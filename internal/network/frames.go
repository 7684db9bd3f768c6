package network

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	lengthSize = 4
	// maxFrame is an Ethernet header and the largest IPv4 packet, in bytes.
	maxFrame = header.EthernetMinimumSize + 1<<16
	// maxSkipped bounds the frames that are passed over because they are too
	// long: a guest can make QEMU send a little more than maxFrame (its buffer
	// has 68 KiB). More than this is no frame but a stream out of step.
	maxSkipped = 1 << 20
	// maxBatch is how many frames one write may carry.
	maxBatch = 32
)

// readFrames calls deliver with each frame of r, which may use it until it
// returns, and malformed for each that cannot be one. It ends with r: nil at
// its end, also in the middle of a frame.
func readFrames(r io.Reader, deliver func([]byte), malformed func()) error {
	in := bufio.NewReaderSize(r, lengthSize+maxFrame)
	for {
		prefix, err := in.Peek(lengthSize)
		if err != nil {
			return endOfStream(err)
		}
		length := int64(binary.BigEndian.Uint32(prefix))
		_, _ = in.Discard(lengthSize) // cannot fail: it was peeked
		switch {
		case length > maxSkipped:
			malformed()
			return fmt.Errorf("network stream out of step: a frame of %d bytes", length)
		case length < header.EthernetMinimumSize, length > maxFrame:
			malformed()
		default:
			frame, err := in.Peek(int(length))
			if err != nil {
				return endOfStream(err)
			}
			deliver(frame)
		}
		if _, err := in.Discard(int(length)); err != nil {
			return endOfStream(err)
		}
	}
}

func endOfStream(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// write sends the queued frames until the session ends, as many in one system
// call as are there. It returns nil when it was the session that ended.
func (l *link) write(s *session) error {
	var lengths [maxBatch][lengthSize]byte
	var slices [][]byte
	var batch []*stack.PacketBuffer
	for {
		var first *stack.PacketBuffer
		select {
		case first = <-l.out:
		case <-s.done:
			return nil
		}
		batch = l.collect(append(batch[:0], first))
		slices = slices[:0]
		total := 0
		for i, pkt := range batch {
			binary.BigEndian.PutUint32(lengths[i][:], uint32(pkt.Size()))
			slices = append(append(slices, lengths[i][:]), pkt.AsSlices()...)
			total += pkt.Size()
		}
		buffers := net.Buffers(slices)
		_, err := buffers.WriteTo(s.conn)
		count := len(batch)
		for i, pkt := range batch {
			pkt.DecRef()
			batch[i] = nil
		}
		clear(slices)
		if err != nil {
			select {
			case <-s.done:
				return nil
			default:
				return err
			}
		}
		l.stalled.Store(false)
		l.counters.packetsTo.Add(uint64(count))
		l.counters.bytesTo.Add(uint64(total))
	}
}

// collect adds what is queued already to batch.
func (l *link) collect(batch []*stack.PacketBuffer) []*stack.PacketBuffer {
	for len(batch) < maxBatch {
		select {
		case pkt := <-l.out:
			batch = append(batch, pkt)
		default:
			return batch
		}
	}
	return batch
}
