// Command banger runs disposable virtual machines.
package main

import (
	"os"

	"github.com/banger-dev/banger/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
