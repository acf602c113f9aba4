// Command fleet-coordinator is the program that a fleet's hosts and operators
// talk to.
package main

import (
	"os"

	"github.com/cameronraysmith/fleet/coordinator"
)

func main() {
	os.Exit(coordinator.Main(os.Args[1:], os.Stdout, os.Stderr))
}
