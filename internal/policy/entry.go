package policy

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// MaxEntry bounds a line of a policy's log, in bytes.
	MaxEntry = 2 << 10
	// maxLogged bounds the names in it: they are the guest's.
	maxLogged = 255
)

// Entry is one line of a policy's log, as JSON.
type Entry struct {
	Time time.Time `json:"time"`
	// Verdict is VerdictRefused, or VerdictLearned for what learning let through.
	Verdict string `json:"verdict,omitempty"`
	Proto   Proto  `json:"proto,omitempty"`
	Name    string `json:"name,omitempty"`
	// Answered is set if the VM's name server has answered Name with Address.
	Answered bool       `json:"answered,omitempty"`
	Address  netip.Addr `json:"address,omitzero"`
	Port     uint16     `json:"port,omitempty"`
	// Speech is what a TCP connection was heard to speak, empty where it came to
	// nothing.
	Speech Speech `json:"speech,omitempty"`
	Reason Reason `json:"reason,omitempty"`
	Rule   string `json:"rule,omitempty"`
	// LeftOut counts the lines that came too fast to be kept, before this one.
	LeftOut int64 `json:"left_out,omitempty"`
}

// The verdicts of entries.
const (
	VerdictRefused = "refused"
	VerdictLearned = "would refuse"
)

// NewEntry is the line for a refusal, or for what learning let through.
func NewEntry(f Flow, v Verdict, now time.Time) Entry {
	e := Entry{
		Time: now.UTC(), Verdict: VerdictRefused, Proto: f.Proto, Name: f.Name, Address: f.Dst.Addr(), Port: f.Dst.Port(),
		Speech: f.Speech, Reason: v.Reason, Rule: v.Rule,
	}
	if v.WouldRefuse {
		e.Verdict = VerdictLearned
	}
	if e.Name == "" && len(f.Known) > 0 {
		e.Name = f.Known[0]
	}
	e.Name = cleanName(strings.ToValidUTF8(e.Name, "?"))
	if f.Proto == ProtoTCP {
		e.Name = CleanHost(e.Name)
	}
	e.Name = e.Name[:min(len(e.Name), maxLogged)]
	e.Answered = slices.Contains(f.Known, e.Name)
	return e
}

// Line is the entry's line, with its end.
func (e Entry) Line() []byte {
	data, err := json.Marshal(e)
	if err != nil { // there is nothing in it that could fail
		panic(err)
	}
	return append(data, '\n')
}

// ParseEntry reads a line. It is false for one that is none, such as the first of a
// log whose beginning has gone.
func ParseEntry(line []byte) (Entry, bool) {
	var e Entry
	if len(line) > MaxEntry || json.Unmarshal(line, &e) != nil {
		return Entry{}, false
	}
	return e, e.Verdict != "" || e.LeftOut > 0
}
