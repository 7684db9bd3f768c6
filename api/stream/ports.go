package stream

// The guest ports that a client connects to through the link socket; they are
// those of internal/linkwire.
const (
	PortExec    = 1025 // one process per connection, in this package's frames
	PortSSH     = 1026 // the guest's SSH server
	PortForward = 1027 // "host:port\n", then the bytes of a TCP connection
)
