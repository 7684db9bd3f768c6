// Package policy says what a VM may reach: an ordered list of rules by name,
// address or network, and the ranges that are refused whatever the rules say. It
// is pure: no clock, no socket and no file of its own, and only the standard
// library. Gate.Decide is the one place in which a flow is decided.
//
// # How a flow is decided
//
// The first rule that matches decides; where none does, the policy's default.
//
//   - A rule by address matches the address that the guest asks for.
//   - A rule that allows a name matches an address only after the stack itself
//     has answered that name with it (Answers), and only for as long as the answer
//     said. The bytes that the guest then sends must be for the name: the server
//     name of TLS, the Host of each request of HTTP. Where the rule names its port,
//     SSH may be spoken too; and with /tcp or /udp anything. A server must answer
//     TLS and SSH in kind.
//   - A rule that denies a name refuses its lookup, and connections that say they
//     are for it.
//   - An address of an always-refused range is reached only by a rule that was
//     given on the command line and names it (Rule.Private), or by the config.
package policy
