// Package archtest holds the rules of the house as tests: which package may
// import which, and that every package says what it is for. A rule states its
// reason; change the rule only with the reason.
package archtest
