// Command fleetctl is the operators' program.
package main

import (
	"os"

	"github.com/cameronraysmith/fleet/fleetctl"
)

func main() {
	os.Exit(fleetctl.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
