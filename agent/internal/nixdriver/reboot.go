package nixdriver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// bootedSystem is the system that this boot began with.
const bootedSystem = "/run/booted-system"

// maxParamsBytes bounds kernel parameters: no kernel takes as many.
const maxParamsBytes = 64 << 10

var _ driver.Rebooter = (*NixOS)(nil)

// bootParts are what of a system only a boot puts in place: a switch replaces
// everything else.
var bootParts = []struct {
	name, file string
	read       func(file string) (string, error)
}{
	{"kernel", "kernel", os.Readlink},
	{"initrd", "initrd", os.Readlink},
	{"kernel modules", "kernel-modules", os.Readlink},
	{"kernel parameters", "kernel-params", readParams},
}

// RebootNeeded implements driver.Rebooter: the system that runs is compared with the one
// that was booted.
func (d *NixOS) RebootNeeded(_ context.Context, profile fleet.ProfileName) ([]string, error) {
	if profile != fleet.System {
		return nil, nil
	}
	return d.bootParts(currentSystem)
}

// bootParts compares a system with the one that was booted.
func (b *base) bootParts(system string) (differ []string, err error) {
	for _, part := range bootParts {
		booted, err := part.read(filepath.Join(b.at(bootedSystem), part.file))
		now := ""
		if err == nil {
			now, err = part.read(filepath.Join(b.at(system), part.file))
		}
		switch {
		case errors.Is(err, os.ErrNotExist) || err == nil && booted == now: // A container has no kernel.
			continue
		case err != nil:
			return nil, fmt.Errorf("comparing with what was booted: %w", err)
		}
		name := part.name
		if was, is := packageOf(booted), packageOf(now); part.file == "kernel" && was != is {
			name += " (" + was + " runs, " + is + " is installed)"
		}
		differ = append(differ, name)
	}
	return differ, nil
}

// readParams reads kernel parameters, whatever is between them.
func readParams(file string) (string, error) {
	data, err := atomicfile.ReadAtMost(file, maxParamsBytes)
	return strings.Join(strings.Fields(string(data)), " "), err //nolint:wrapcheck // The caller says what for.
}

// packageOf names what a file in the store is of, for people.
func packageOf(file string) string {
	below, ok := strings.CutPrefix(file, storeDir+"/")
	if !ok {
		return path.Base(file)
	}
	object, _, _ := strings.Cut(below, "/")
	if _, name, ok := strings.Cut(object, "-"); ok {
		return name
	}
	return object
}
