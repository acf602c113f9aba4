// Command fleet-agent is the program on every host of a fleet.
package main

import (
	"os"

	"github.com/cameronraysmith/fleet/agent"
)

func main() {
	os.Exit(agent.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
