// Package supervisor runs one VM: its VMM, its network, its guest link and its
// console. It is the whole of the banger-vm binary.
//
// A supervisor's life:
//
//	lock ─→ starting ─→ running ─→ stopping ─→ stopped, exit.json, gone
//	            │           │          ↑
//	            │           └──────────┤  the guest powered off, the VMM died
//	            └──────────────────────┘  the VMM did not start
//
// It is in a session of its own and needs no daemon. If it crashes, its VMM goes
// on: a successor (banger-vm run --adopt) finds the VMM by vmm.json and takes it
// over. Open flows of the guest's network end then, its processes do not.
package supervisor
