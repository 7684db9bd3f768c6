// Command bangerd keeps one user's virtual machines; banger starts it.
package main

import (
	"os"

	"github.com/banger-dev/banger/internal/daemon"
)

func main() { os.Exit(daemon.Main(os.Args[1:], daemon.HostEnv())) }
