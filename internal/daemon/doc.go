// Package daemon is bangerd: it knows all VMs of one user, decides what is done
// to them, and keeps that in the store. It runs no VM: each has a supervisor
// process (banger-vm) of its own, which outlives the daemon, and whose socket
// the daemon follows.
//
// Every change of a VM is an operation that is recorded before it begins, so
// that a daemon killed at any instruction finds at its next start what it was
// doing: an unfinished create is undone, an unfinished delete or stop is
// finished, an unfinished start is looked at.
//
// One VM in memory is a machine. Three things act on it:
//
//	an operation   holds the machine's turn: one at a time per VM
//	the follower   one goroutine per living supervisor: takes its status,
//	               starts a successor when it crashes, records its end
//	the lease      one goroutine per ephemeral VM that nobody holds
//
// No lock is held while anything is waited for, and no machine waits for
// another.
package daemon
