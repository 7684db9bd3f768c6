package policyfile

import (
	"slices"
	"strings"
	"testing"

	banger "github.com/banger-dev/banger"
)

func TestRead(t *testing.T) {
	p, err := Read("x.toml", strings.NewReader("# what the build needs\ndefault = \"deny\"\nrules = [\n  \"allow *.debian.org\", # apt\n  \"deny 203.0.113.0/24\",\n]\n"))
	if err != nil || p.AllowRest || !slices.Equal(p.Texts(), []string{"allow *.debian.org", "deny 203.0.113.0/24"}) {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := Parse("x", nil); err != nil || p.AllowRest || len(p.Rules) != 0 {
		t.Errorf("nothing: %+v, %v", p, err)
	}
	for text, want := range map[string]string{
		"defalt = \"deny\"": "line 1: unknown key \"defalt\"", "rules = \"x\"": "line 1", "rules = [\n1]": "line", "[": "line 1",
		"default = \"maybe\"": "neither allow nor deny", "rules = [\"allow 10.0.0.1\"]": "--allow 10.0.0.1", "rules = [\"a.b\"]": "allow",
		"learn = true": "unknown key", strings.Repeat("#", maxFile+1): "larger than",
	} {
		_, err := Read("x.toml", strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.toml") || banger.CodeOf(err) != banger.CodeUsage {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

// FuzzParse: what is taken is written and read as the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte("default = \"allow\"\nrules = [\"allow a.b:1\"]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("x", data)
		if err != nil {
			return
		}
		again, err := Parse("x", []byte(Format(p, string(data))))
		if err != nil || again.Marshal() != p.Marshal() {
			t.Fatalf("%s became %s: %v", p.Marshal(), again.Marshal(), err)
		}
	})
}
