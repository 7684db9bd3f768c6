// Package exec tests the two ends of the exec protocol against each other: the
// client of api/client/guestexec and the agent's process manager, over real
// unix sockets that break.
package exec
