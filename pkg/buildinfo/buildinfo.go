// Package buildinfo says which build of the programs this is.
package buildinfo

import "runtime/debug"

// version is set by the linker (make build): -X …/pkg/buildinfo.version=….
var version string

// Version is the version of this build, for people: what make build found in
// the repository, or what the Go command recorded, or "unknown".
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
