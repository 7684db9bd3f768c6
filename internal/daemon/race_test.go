//go:build race

package daemon_test

// raceFlags build the helper programs as this test is built.
var raceFlags = []string{"-race"}
