package banger

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
