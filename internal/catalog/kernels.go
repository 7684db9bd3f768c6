package catalog

// DefaultKernel is the kernel of images that name none: of those here, the one
// that boots always and fastest under emulation as well as on KVM.
const DefaultKernel = "debian-6.1"

// Kernel is a kernel that can be fetched from Debian.
type Kernel struct {
	Name        string
	Description string
	// Distro is "debian".
	Distro string
	// Arch is Debian's name of the architecture: "amd64".
	Arch string
	// Suite is the codename of the Debian release that has Package.
	Suite string
	// Package is the package whose dependency is the newest kernel of its kind.
	Package string
}

// Kernels returns the kernels that can be fetched. The slice is the caller's.
func Kernels() []Kernel {
	return []Kernel{{
		Name:        DefaultKernel,
		Description: "Debian 12's kernel for virtual machines",
		Distro:      "debian",
		Arch:        "amd64",
		Suite:       "bookworm",
		Package:     "linux-image-cloud-amd64",
	}}
}
