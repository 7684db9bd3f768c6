package policy

import (
	"errors"
	"strings"
)

const (
	// maxName is the longest DNS name in bytes, and maxLabel its longest label
	// (RFC 1035 §2.3.4).
	maxName  = 253
	maxLabel = 63
	// maxWild is how many bytes of a name the * of a rule may stand for when it is
	// looked up: enough for any host's name, too little to carry much.
	maxWild = 63
)

// cleanName is a name as rules compare it: in lower case, without the final dot.
func cleanName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// CleanHost is the host of a Host header, a URL or a TLS server name as rules
// compare it: without port and final dot, in lower case.
func CleanHost(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") && strings.Count(host, ":") == 1 {
		host = host[:i]
	}
	return cleanName(host)
}

// checkHostName refuses what is no name of a host: letters, digits, hyphens and
// underscores in labels, and not only digits in the last, as in an address.
func checkHostName(name string) error {
	if len(name) == 0 || len(name) > maxName {
		return errors.New("a name has 1 to 253 bytes")
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if len(label) == 0 || len(label) > maxLabel {
			return errors.New("each part of a name has 1 to 63 bytes")
		}
		if hasOther(label) {
			return errors.New("a name has letters, digits, hyphens and dots; others are written as xn--…")
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return errors.New("it is neither an address nor a name")
	}
	return nil
}

// hasOther reports whether label has a byte that is in no host's name.
func hasOther(label string) bool {
	return strings.ContainsFunc(label, func(r rune) bool {
		return r != '-' && r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
}

// named reports whether a rule's name is name, which is clean: the same, or with
// *. at its head one below it.
func (r *Rule) named(name string) bool {
	below, wild := strings.CutPrefix(r.Name, "*")
	if !wild {
		return name == r.Name
	}
	return len(name) > len(below) && strings.HasSuffix(name, below)
}

// wild is the part of name that the * of the rule stands for.
func (r *Rule) wild(name string) string {
	if below, wild := strings.CutPrefix(r.Name, "*"); wild {
		return strings.TrimSuffix(name, below)
	}
	return ""
}
