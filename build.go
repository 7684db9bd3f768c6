package banger

import "strings"

// The build stamp: one for all four binaries, set by the linker (Makefile).
var (
	buildVersion = "dev"
	buildCommit  = "unknown"
	buildTime    = "unknown"
)

// Build identifies the sources that a binary was made from.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	// RFC 3339, UTC.
	Time string `json:"time"`
}

// BuildStamp returns the stamp of this binary.
func BuildStamp() Build { return Build{buildVersion, buildCommit, buildTime} }

// String is the stamp in one word: version+commit.
func (b Build) String() string { return b.Version + "+" + b.Commit }

// BuildHeader is the HTTP header in which a daemon says its Build with every
// answer.
const BuildHeader = "Banger-Build"

// Header is b as the value of a BuildHeader.
func (b Build) Header() string { return b.Version + " " + b.Commit + " " + b.Time }

// BuildOfHeader reads the value of a BuildHeader; what is missing is empty.
func BuildOfHeader(value string) Build {
	version, rest, _ := strings.Cut(value, " ")
	commit, time, _ := strings.Cut(rest, " ")
	return Build{version, commit, time}
}
