package fleetctl

import (
	"runtime/debug"

	"github.com/spf13/cobra"
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
	v := versionInfo{Version: "unknown"}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Version, v.Go = info.Main.Version, info.GoVersion
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(v)
	}
	p.Printf("fleetctl %s (%s)\n", v.Version, v.Go)
	return nil
}
