package apt

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// source is one archive of packages: one stanza of a .sources file.
type source struct {
	uris       []string
	suites     []string
	components []string
	// signedBy is the value of Signed-By: key files, fingerprints or a key. A
	// key has several lines. Empty: the keys that the host trusts for all.
	signedBy string
}

// maxSourcesFile bounds one file of the host's apt sources, in bytes.
const maxSourcesFile = 1 << 20

// hostSources reads the enabled binary archives of an apt configuration
// directory (/etc/apt). What cannot be read or understood is left out: apt
// itself is the judge of the host's sources.
func hostSources(etc string) []source {
	files := []string{filepath.Join(etc, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		found, _ := filepath.Glob(filepath.Join(etc, "sources.list.d", pattern))
		sort.Strings(found)
		files = append(files, found...)
	}
	var all []source
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil || len(text) > maxSourcesFile {
			continue
		}
		if strings.HasSuffix(name, ".sources") {
			all = append(all, parseStanzas(string(text))...)
		} else {
			all = append(all, parseLines(string(text))...)
		}
	}
	return all
}

// parseLines reads the one-line form: deb [options] uri suite component…
func parseLines(text string) []source {
	var all []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		var s source
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			options, after, closed := strings.Cut(rest[1:], "]")
			if !closed {
				continue
			}
			for option := range strings.FieldsSeq(options) {
				if value, ok := strings.CutPrefix(option, "signed-by="); ok {
					s.signedBy = value
				}
			}
			rest = after
		}
		if fields := strings.Fields(rest); len(fields) >= 3 {
			s.uris, s.suites, s.components = fields[:1], fields[1:2], fields[2:]
			all = append(all, s)
		}
	}
	return all
}

// parseStanzas reads the deb822 form.
func parseStanzas(text string) []source {
	var all []source
	fields := map[string]string{}
	last := ""
	flush := func() {
		if enabled := strings.ToLower(fields["enabled"]); slices.Contains(strings.Fields(fields["types"]), "deb") && enabled != "no" && enabled != "false" {
			all = append(all, source{
				uris:       strings.Fields(fields["uris"]),
				suites:     strings.Fields(fields["suites"]),
				components: strings.Fields(fields["components"]),
				signedBy:   fields["signed-by"],
			})
		}
		fields, last = map[string]string{}, ""
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n")
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			if last != "" {
				fields[last] += "\n" + strings.TrimSpace(line)
			}
		default:
			key, value, _ := strings.Cut(line, ":")
			last = strings.ToLower(key)
			fields[last] = strings.TrimSpace(value)
		}
	}
	flush()
	return all
}

// pockets are the suites that belong to a release, as suffixes of its name.
var pockets = [...]string{"", "-updates", "-security"}

// serving returns what of sources carries release, with its updates and its
// security fixes, and names it release's codename as.
func serving(sources []source, release, as string) []source {
	var found []source
	whole := false
	for _, s := range sources {
		if !slices.Contains(s.components, "main") || len(s.uris) == 0 {
			continue
		}
		kept := source{uris: s.uris, components: []string{"main"}, signedBy: s.signedBy}
		for _, pocket := range pockets {
			if slices.Contains(s.suites, release+pocket) {
				kept.suites = append(kept.suites, as+pocket)
				whole = whole || pocket == ""
			}
		}
		if len(kept.suites) > 0 {
			found = append(found, kept)
		}
	}
	if !whole {
		return nil
	}
	return found
}

// stanzas writes sources in the deb822 form, with nothing but package lists.
func stanzas(sources []source, arch string) []byte {
	var b bytes.Buffer
	for _, s := range sources {
		fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nArchitectures: %s\nTargets: Packages\n",
			strings.Join(s.uris, " "), strings.Join(s.suites, " "), strings.Join(s.components, " "), arch)
		if s.signedBy != "" {
			fmt.Fprintf(&b, "Signed-By: %s\n", strings.ReplaceAll(s.signedBy, "\n", "\n "))
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}
