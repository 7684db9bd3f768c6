// Package catalog lists what banger can make by itself: the kernels and images
// that are built into the program. Every entry works on a host with nothing but
// apt and a network.
package catalog
