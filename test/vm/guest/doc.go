// Package guest holds the tests of the guest's two ends, its init and its link,
// on a bare QEMU: kernel, initramfs and disks, without supervisor or network
// stack, so that what they show is the guest's own.
package guest
