package systemd

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// OwnUnit is the systemd service that this process belongs to, as the agent does, or a
// runner that it had started; empty where it is in none, or none can be told.
func OwnUnit() string {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	return unitOf(string(b))
}

// unitOf reads what the kernel says of a process's control groups: lines of
// number:controllers:path. A unit's group is named after it; what a service
// divides its own into is below.
func unitOf(cgroup string) string {
	var own, only string
	for line := range strings.Lines(cgroup) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(f) != 3:
		case f[1] == "name=systemd":
			own = f[2]
		case f[0] == "0":
			only = f[2]
		}
	}
	// systemd's own hierarchy, or where it has only one, perhaps beside those of another
	// systemd that this host is a container of.
	if own == "" || own == "/" {
		own = only
	}
	for _, name := range slices.Backward(strings.Split(own, "/")) {
		switch filepath.Ext(name) {
		case ".service":
			return name
		case ".scope", ".slice":
			return ""
		}
	}
	return ""
}
