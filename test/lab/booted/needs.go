//go:build linux

package booted

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// ErrNotHere says that hosts can't be booted on this machine, and why.
var ErrNotHere = errors.New("no hosts can be booted here")

// needed are the programs used, with the Debian packages that have them.
var needed = []struct{ program, from string }{
	{"debootstrap", "debootstrap"},
	{"systemd-nspawn", "systemd-container"},
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
	{"setpriv", "util-linux"},
	{"mount", "mount"},
	{"mkfs.ext4", "e2fsprogs"},
}

// Prepare checks that hosts can be booted here, and installs what is missing
// where apt-get is there. It wraps ErrNotHere where it can't be helped.
func Prepare(ctx context.Context, log func(format string, args ...any)) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: booting hosts needs root, for mounts and network namespaces", ErrNotHere)
	}
	missing := missing()
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%w: install what has %s (on Debian: %s)", ErrNotHere, strings.Join(missing, ", "), strings.Join(packages(missing), " "))
	}
	log("installing %s", strings.Join(packages(missing), " "))
	for _, args := range [][]string{{"update", "-q"}, append([]string{"install", "-qy", "--no-install-recommends"}, packages(missing)...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: apt-get %s: %w\n%s", ErrNotHere, args[0], err, out)
		}
	}
	return nil
}

func missing() []string {
	var names []string
	for _, n := range needed {
		if _, err := exec.LookPath(n.program); err != nil {
			names = append(names, n.program)
		}
	}
	return names
}

func packages(programs []string) []string {
	var names []string
	for _, n := range needed {
		if slices.Contains(programs, n.program) && !slices.Contains(names, n.from) {
			names = append(names, n.from)
		}
	}
	return names
}

// run runs a program to its end; its output is part of the error.
func run(ctx context.Context, argv ...string) error {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
