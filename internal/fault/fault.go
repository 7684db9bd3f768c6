// Package fault marks the steps at which a test may hurt the product: every
// step of an operation that is recorded, and every step of a supervisor, calls
// Point. In an ordinary build Point does nothing and costs nothing; with the
// build tag faultinject it obeys BANGER_FAULT.
//
// BANGER_FAULT is a comma-separated list of point=action. The actions:
//
//	kill-self    SIGKILL to this process
//	kill-peer    SIGKILL to the processes that the caller named
//	error        Point returns an error
//	gate:FIFO    wait until somebody opens FIFO for writing and closes it
//
// A gate tells a test that the point is reached (its open returns), and holds
// the process there until the test closes its end.
package fault
