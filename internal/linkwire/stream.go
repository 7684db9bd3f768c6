package linkwire

import "net"

// MuxStream is one stream of a yamux session.
type MuxStream interface {
	net.Conn
	// CloseWrite sends end-of-file.
	CloseWrite() error
	// Reset ends both directions at once.
	Reset() error
}

// Stream is a stream whose Close also tells the peer that nothing more will be
// read: yamux's own Close leaves a peer that goes on writing blocked for ever.
// What was written before Close still arrives.
type Stream struct{ MuxStream }

// Close sends end-of-file, and after it a reset if the peer has not closed its
// own direction yet.
func (s Stream) Close() error {
	err := s.CloseWrite()
	if resetErr := s.Reset(); err == nil {
		err = resetErr
	}
	return err
}
