package nixdriver

import (
	"bufio"
	"io"
	"os"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// maxOSRelease bounds what is read of os-release.
const maxOSRelease = 64 << 10

// osRelease reads os-release(5); nothing where there is none.
func osRelease(file string) map[string]string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	values := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(f, maxOSRelease))
	for lines.Scan() {
		if name, value, ok := strings.Cut(strings.Trim(lines.Text(), " \t\r"), "="); ok {
			values[name] = strings.Trim(value, `"'`)
		}
	}
	return values
}

// Names of the drivers in a generation's source.
const (
	NameNixOS   = fleet.DriverNixOS
	NameOutPath = fleet.DriverNix
	NameHome    = fleet.DriverHome
	NameDarwin  = fleet.DriverDarwin
)
