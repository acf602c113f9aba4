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

// RebootNeeded implements driver.Rebooter: kernel, initrd, modules and parameters of
// the system that runs are compared with those of the one that was booted. A switch
// replaces everything else.
func (d *NixOS) RebootNeeded(_ context.Context, profile fleet.ProfileName) ([]string, error) {
	if profile != fleet.System {
		return nil, nil
	}
	var differ []string
	for _, part := range []struct{ file, name string }{{"kernel", "kernel"}, {"initrd", "initrd"}, {"kernel-modules", "kernel modules"}} {
		booted, err := d.linkOf(bootedSystem, part.file)
		if err != nil {
			return nil, err
		}
		now, err := d.linkOf(currentSystem, part.file)
		if err != nil {
			return nil, err
		}
		if booted == "" || now == "" || booted == now {
			continue // A container has no kernel.
		}
		name := part.name
		if was, is := packageOf(booted), packageOf(now); part.file == "kernel" && was != is {
			name += " (" + was + " runs, " + is + " is installed)"
		}
		differ = append(differ, name)
	}
	booted, err := d.paramsOf(bootedSystem)
	if err != nil {
		return nil, err
	}
	now, err := d.paramsOf(currentSystem)
	if err != nil {
		return nil, err
	}
	if booted != nil && now != nil && *booted != *now {
		differ = append(differ, "kernel parameters")
	}
	return differ, nil
}

// linkOf is where a file of a system leads; "" where there is none.
func (d *NixOS) linkOf(system, file string) (string, error) {
	to, err := os.Readlink(filepath.Join(d.at(system), file))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("comparing with what was booted: %w", err)
	}
	return to, nil
}

// paramsOf are the kernel parameters of a system; nil where it has none.
func (d *NixOS) paramsOf(system string) (*string, error) {
	data, err := atomicfile.ReadAtMost(filepath.Join(d.at(system), "kernel-params"), maxParamsBytes)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("comparing with what was booted: %w", err)
	}
	text := strings.Join(strings.Fields(string(data)), " ")
	return &text, nil
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
