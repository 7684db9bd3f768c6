// Command banger-agent is what runs inside a guest.
package main

import (
	"os"

	"github.com/banger-dev/banger/internal/agent"
)

func main() { os.Exit(agent.Main(os.Args)) }
