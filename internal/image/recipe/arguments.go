package recipe

import (
	"os"
	"regexp"
	"strings"
)

// validMirror keeps a mirror from being more than one word of a sources line.
var validMirror = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://?[^\s\[\]]+$`)

// debianKeyrings are the places of Debian's archive keys, on the host and in
// the image, newest first.
var debianKeyrings = [...]string{
	"/usr/share/keyrings/debian-archive-keyring.pgp",
	"/usr/share/keyrings/debian-archive-keyring.gpg",
}

// arguments returns mmdebstrap's command line. Two things in it are not
// obvious. Paths are excluded by a file that is written once the essential
// packages are in: given as an option, they make mmdebstrap filter each package
// in Python, which takes half a minute. And packages are left where apt put
// them (essential/unlink), for the cache.
func (b *Build) arguments(h host, s scratch) []string {
	args := []string{
		"mmdebstrap", "--verbose", "--mode=" + h.mode(), "--variant=apt", "--format=tar",
		"--include=" + strings.Join(b.Image.Packages, ","),
		`--aptopt=Acquire::Languages "none"`,
		`--aptopt=APT::Install-Recommends "false"`,
		"--dpkgopt=force-unsafe-io",
		"--skip=essential/unlink",
	}
	if !h.mounts() {
		args = append(args, "--skip=chroot/mount")
	}
	const archives = `"$1/var/cache/apt/archives"`
	hooks := []string{
		"setup", `mkdir -p ` + archives + ` && cp -r ` + quote(s.staged()+"/.") + ` ` + archives,
		"essential", "tar-in " + quote(s.overlay()) + " /",
		"essential", "sh " + quote(s.script(essentialScript)) + ` "$1"`,
		// Only what is new goes to the cache.
		"customize", `cd ` + archives + ` && for f in ` + quote(s.staged()) + `/*.deb; do rm -f "./${f##*/}"; done`,
		"customize", "copy-out /var/cache/apt/archives " + quote(string(s)),
		"customize", "sh " + quote(s.script(customizeScript)) + ` "$1"`,
		"customize", "tar-in " + quote(s.links()) + " /",
	}
	for i := 0; i < len(hooks); i += 2 {
		args = append(args, "--"+hooks[i]+"-hook="+hooks[i+1])
	}
	args = append(args, b.Image.Suite, "-")
	return append(args, b.sources()...)
}

// sources are the lines for a mirror that the user named: the release and its
// updates. Without one mmdebstrap writes those, and the security archive.
func (b *Build) sources() []string {
	if b.Mirror == "" {
		return nil
	}
	signed := ""
	for _, name := range debianKeyrings {
		if _, err := os.Stat(name); err == nil {
			signed = "[signed-by=" + name + "] "
			break
		}
	}
	line := "deb " + signed + b.Mirror + " " + b.Image.Suite
	return []string{line + " main", line + "-updates main"}
}

// quote makes one word for the shell, and for mmdebstrap's own splitting.
func quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
