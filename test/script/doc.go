// Package script drives the real banger program through scripts, with a daemon
// that keeps records and has the agent's process manager for a guest: what the
// command line does, with no VM.
package script
