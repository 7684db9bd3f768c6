package banger

import (
	"crypto/rand"
	"encoding/hex"
	"math/big"
)

// maxName is the length of the longest name: what one label of a DNS name holds.
const maxName = 63

// CheckName returns a usage error unless name is [a-z0-9][a-z0-9-]{0,62}. what
// is the noun for the message: "vm", "image", …
func CheckName(what, name string) error {
	if validName(name) {
		return nil
	}
	return Errorf(CodeUsage, "%s name %q is not valid: use a-z, 0-9 and -, up to 63 characters, not starting with -", what, name).
		WithHint("a name such as %s", RandomName())
}

// validName does without a regular expression: every program would pay for it as
// it starts, the agent under emulation most.
func validName(name string) bool {
	if name == "" || len(name) > maxName || name[0] == '-' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// NewID returns 32 random hex digits, the id of a new VM.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// ShortID is the part of an id that people read: its first 12 digits.
func ShortID(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// RandomName returns a readable name such as "quiet-otter". It may be taken:
// the caller tries again.
func RandomName() string {
	return pick(adjectives) + "-" + pick(animals)
}

func pick(words []string) string {
	n, err := rand.Int(rand.Reader, big.NewInt(int64(len(words))))
	if err != nil {
		panic(err) // crypto/rand does not fail on Linux
	}
	return words[n.Int64()]
}

var adjectives = []string{
	"amber", "bold", "brave", "brisk", "calm", "clear", "clever", "crisp", "dapper", "eager",
	"early", "fair", "fleet", "fond", "gentle", "glad", "golden", "happy", "hardy", "honest",
	"jolly", "keen", "kind", "lively", "lucky", "mellow", "merry", "mild", "neat", "nimble",
	"noble", "plucky", "polite", "proud", "quick", "quiet", "ready", "round", "sharp", "silent",
	"smart", "snug", "spry", "steady", "sunny", "swift", "tidy", "vivid", "warm", "witty",
}

var animals = []string{
	"badger", "beaver", "bison", "crane", "curlew", "dingo", "dormouse", "eagle", "egret", "falcon",
	"ferret", "finch", "fox", "gecko", "gibbon", "hare", "heron", "ibex", "jackal", "kestrel",
	"kiwi", "lark", "lemur", "linnet", "lynx", "marmot", "marten", "mole", "moose", "newt",
	"ocelot", "osprey", "otter", "owl", "panda", "pika", "plover", "puffin", "quail", "raven",
	"robin", "seal", "shrew", "stoat", "swift", "tapir", "tern", "vole", "wombat", "wren",
}
