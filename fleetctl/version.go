package fleetctl

import (
	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/pkg/buildinfo"
)

func newVersionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the program's version",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return runVersion(o) },
	}
}

func runVersion(o *options) error {
	p := o.printer()
	if p.JSON() {
		return p.Value(buildinfo.Of())
	}
	p.Printf("%s\n", buildinfo.Text("fleetctl"))
	return nil
}
