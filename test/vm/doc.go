// Package vm holds the tests that boot real VMs with the real binaries, as a
// user would run them. They need QEMU and mmdebstrap (scripts/deps test).
//
// The kernel and the image are made once, by banger itself, and kept in
// BANGER_TEST_CACHE (default: banger-test in the user's cache directory); each
// test has a home of its own.
package vm
