// Package buildinfo says which build of the programs this is.
package buildinfo

import (
	"runtime"
	"runtime/debug"
)

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

// Info is what the programs' command "version" says, in its JSON form.
type Info struct {
	Version string `json:"version"`
	// Go is the version of Go that built it.
	Go string `json:"go"`
}

// Of is that of this build.
func Of() Info { return Info{Version: Version(), Go: runtime.Version()} }

// String is both, for people.
func (i Info) String() string { return i.Version + " (" + i.Go + ")" }

// Text is how a program says its version, as cobra does for --version.
func Text(program string) string { return program + " version " + Of().String() }
