// Command bench measures the released binaries, as a user would run them, and
// what they are compared with, in the same run: a bare QEMU that boots the same
// kernel to /init, a program in a guest that copies a pipe to a raw port,
// mmdebstrap alone with the same recipe.
//
// A measurement and its yardstick take turns, because the speed of a machine
// drifts. It reports and asserts nothing: it fails only if something does not
// run.
package main
