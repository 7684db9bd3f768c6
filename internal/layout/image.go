package layout

import "path/filepath"

// Image is the directory of one image.
type Image string

// Image returns the directory of image name.
func (h Home) Image(name string) Image { return Image(filepath.Join(h.Images(), name)) }

// Dir is the directory itself.
func (i Image) Dir() string { return string(i) }

// Manifest says what the image is, as JSON.
func (i Image) Manifest() string { return filepath.Join(string(i), "manifest.json") }

// Base is the read-only root file system, ext4.
func (i Image) Base() string { return filepath.Join(string(i), "base.ext4") }

// Build, in the unfinished form of the directory, names what else the build has
// on disk, so that whoever finds it can remove that too.
func (i Image) Build() string { return filepath.Join(string(i), "build.json") }

// BuildLock, in the unfinished form, is held (flock) by every process of the
// build, and holds the number of their process group.
func (i Image) BuildLock() string { return filepath.Join(string(i), "build.lock") }

// DebsSuite returns the directory of downloaded packages of suite.
func (h Home) DebsSuite(suite string) Debs { return Debs(filepath.Join(h.Debs(), suite)) }

// Debs is the directory of downloaded packages of one suite.
type Debs string

// Dir is the directory itself.
func (d Debs) Dir() string { return string(d) }

// Verified lists, as JSON, the packages that apt has verified, with digests.
func (d Debs) Verified() string { return filepath.Join(string(d), "verified.json") }
