// Package ports gives the listening sockets of one VM's guest a place on the
// host: the same port numbers on a loopback address that belongs to the VM alone,
// and the ports that its user has published.
//
// What the guest says of its sockets is hostile: numbers, sizes and how much is
// open at once are bounded, and its texts are only ever passed on. A connection
// to the VM's address is joined with the guest only if it is of the user that the
// VM belongs to; any local user can make one. Published ports are for everybody.
package ports
