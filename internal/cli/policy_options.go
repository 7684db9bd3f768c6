package cli

import (
	"io"
	"os"

	"github.com/spf13/pflag"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/policy"
	"github.com/banger-dev/banger/internal/policy/policyfile"
)

// policyLearn is the word for learning, in the place of a file.
const policyLearn = "learn"

// policyHelp says what a policy is; it is part of the help of several commands.
const policyHelp = "A policy is an ordered list of rules, of which the first that matches decides. TARGET is\n" +
	"  example.org           that name, ports 80 and 443\n" +
	"  *.example.org         every name below it (not example.org itself)\n" +
	"  example.org:8443      another port; SSH too. Also :8000-8010, and :* for all\n" +
	"  example.org:5432/tcp  whatever is spoken there; with /udp datagrams\n" +
	"  203.0.113.7:22        an address, or a network as 198.51.100.0/24; any port without one\n\n" +
	"A name counts for the addresses that the VM's own name server answered for it, and what\n" +
	"is sent must be for that name: TLS by its server name, HTTP by the Host of every request.\n" +
	"What says no name (HTTP/2 and WebSockets without TLS, databases, mail) needs /tcp. Other\n" +
	"names are not there (NXDOMAIN), neither is QUIC, nor records such as TXT and HTTPS.\n" +
	"A rule by address allows no lookup. This machine, private and link-local networks are\n" +
	"refused always, unless --allow or config.toml name them by address.\n\n" +
	"What it cannot stop: a server behind an allowed name that passes requests on (fronting),\n" +
	"and what is hidden in the names of hosts below an allowed *.domain, or in TLS itself.\n"

// policyOptions are the flags that say what a VM may reach.
type policyOptions struct {
	allow []string
	file  string
}

func (o *policyOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&o.allow, "allow", nil, "let the VM reach this `target` and nothing else: example.org, *.example.org, 203.0.113.7:22, 10.0.0.0/8 (repeatable; see banger vm policy --help)")
	flags.StringVar(&o.file, "policy", "", "what the VM may reach: a `file`, or learn to allow all and log what would be refused")
}

// given reports whether the flags say anything.
func (o *policyOptions) given() bool { return len(o.allow) > 0 || o.file != "" }

// read checks the flags and reads the file; nil if there is no policy.
func (o *policyOptions) read() (*bangerv1.Policy, error) {
	for _, target := range o.allow {
		if _, err := policy.ParseAllow(target, nil); err != nil {
			return nil, flagError("--allow", err)
		}
	}
	switch o.file {
	case "":
		return nil, nil
	case policyLearn:
		return &bangerv1.Policy{Default: policy.DefaultDeny, Learn: true}, nil
	}
	file, err := os.Open(o.file)
	if err != nil {
		return nil, banger.Errorf(banger.CodeUsage, "policy %s cannot be read: %w", o.file, err).WithHint("ls -l %s", o.file)
	}
	defer file.Close()
	return readPolicy(o.file, file)
}

// readPolicy reads a policy file.
func readPolicy(name string, r io.Reader) (*bangerv1.Policy, error) {
	p, err := policyfile.Read(name, r)
	if err != nil {
		return nil, err
	}
	return &bangerv1.Policy{Default: p.Default(), Rules: p.Texts()}, nil
}
