package fleetctl

import (
	"runtime"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/pkg/buildinfo"
)

// versionInfo is the JSON form of version.
type versionInfo struct {
	Version string `json:"version"`
	Go      string `json:"go"`
}

func newVersionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the program's version",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return runVersion(o) },
	}
}

func runVersion(o *options) error {
	v := versionInfo{Version: buildinfo.Version(), Go: runtime.Version()}
	p := o.printer()
	if p.JSON() {
		return p.Value(v)
	}
	p.Printf("fleetctl %s (%s)\n", v.Version, v.Go)
	return nil
}
