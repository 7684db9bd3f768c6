// Command banger-vm supervises one VM; bangerd starts it.
package main

import (
	"os"

	"github.com/banger-dev/banger/internal/supervisor"
)

func main() { os.Exit(supervisor.Main(os.Args[1:], os.Stdout, os.Stderr)) }
