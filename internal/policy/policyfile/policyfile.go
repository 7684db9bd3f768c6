// Package policyfile is the form that a policy has in a file, TOML:
//
//	default = "deny"
//	rules = [
//	  "allow *.debian.org",
//	  "deny 203.0.113.0/24",
//	]
//
// The first rule that matches decides, else the default, which is "deny" where it
// is not said. A file never opens private addresses or the host's own: it may come
// from anybody.
package policyfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pelletier/go-toml/v2"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/policy"
)

// maxFile bounds a policy file, in bytes.
const maxFile = 256 << 10

type document struct {
	Default string   `toml:"default"`
	Rules   []string `toml:"rules"`
}

// Read reads a policy file; name is for messages.
func Read(name string, r io.Reader) (policy.Policy, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return policy.Policy{}, banger.Errorf(banger.CodeUsage, "policy %s cannot be read: %w", name, err).WithHint("ls -l %s", name)
	}
	if len(data) > maxFile {
		return policy.Policy{}, banger.Errorf(banger.CodeUsage, "policy %s is larger than %d KiB", name, maxFile>>10).WithHint("fewer rules")
	}
	return Parse(name, data)
}

// Parse reads the bytes of a policy file; name is for messages.
func Parse(name string, data []byte) (policy.Policy, error) {
	doc := document{Default: policy.DefaultDeny}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&doc); err != nil {
		return policy.Policy{}, decodeError(name, err)
	}
	p, err := policy.Parse(doc.Default, doc.Rules, false)
	if err != nil {
		return policy.Policy{}, banger.Errorf(banger.CodeUsage, "policy %s: %w", name, err)
	}
	return p, nil
}

func decodeError(name string, err error) error {
	where := "policy " + name
	what := strings.TrimPrefix(err.Error(), "toml: ")
	if missing, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(missing.Errors) > 0 {
		row, _ := missing.Errors[0].Position()
		where += fmt.Sprintf(", line %d", row)
		what = fmt.Sprintf("unknown key %q", strings.Join(missing.Errors[0].Key(), "."))
	} else if bad, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, _ := bad.Position()
		where += fmt.Sprintf(", line %d", row)
	}
	return banger.Errorf(banger.CodeUsage, "%s: %s", where, what).
		WithHint(`default = "deny" and rules = ["allow example.org"] are all there is`)
}

// Format writes a policy as a file, with lines of comment before it. What only the
// command line can give stands in it as it is, and is refused when it is read.
func Format(p policy.Policy, comments ...string) string {
	var b strings.Builder
	for _, line := range comments {
		fmt.Fprintf(&b, "# %s\n", strings.Map(printable, line))
	}
	fmt.Fprintf(&b, "default = %q\n", p.Default())
	if len(p.Rules) == 0 {
		b.WriteString("rules = []\n")
		return b.String()
	}
	b.WriteString("rules = [\n")
	for _, text := range p.Texts() {
		fmt.Fprintf(&b, "  %q,\n", text) // a rule is of plain ASCII
	}
	b.WriteString("]\n")
	return b.String()
}

// printable keeps a comment one line.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}
