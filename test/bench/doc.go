// Command bench measures the released binaries, as a user would run them, and
// what they are compared with, in the same run: a bare QEMU with the devices of
// a VM, which boots the same kernel to /init or restores the same template; what
// else runs a command in a sandbox (podman, gVisor, bwrap); a program in a guest
// that copies a pipe to a raw port; mmdebstrap alone with the same recipe; the
// host itself. A yardstick that a host cannot run is named as such.
//
// A measurement and its yardsticks take turns, because the speed of a machine
// drifts. It reports and asserts nothing: it fails only if something of ours
// does not run.
package main
