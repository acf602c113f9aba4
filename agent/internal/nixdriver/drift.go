package nixdriver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

var (
	_ driver.Drifter = (*NixOS)(nil)
	_ driver.Drifter = (*OutPath)(nil)
)

// Drift implements driver.Drifter: nixos-rebuild and its like move the system that runs,
// the profile that boots, or both.
func (d *NixOS) Drift(_ context.Context, profile fleet.ProfileName, path string) (driver.Drift, error) {
	if profile != fleet.System {
		return driver.Drift{}, nil
	}
	return d.drift(path, currentSystem, systemProfile)
}

// Drift implements driver.Drifter. What boots is what runs: there is one link.
func (d *OutPath) Drift(_ context.Context, profile fleet.ProfileName, path string) (driver.Drift, error) {
	return d.drift(path, filepath.Join(rootsDir, currentPrefix+profile.FileName()), "")
}

// specialises says whether a system is a specialisation of another one, which that
// has a link to and the boot loader an entry.
func (b *base) specialises(system, of string) bool {
	links, _ := filepath.Glob(b.at(filepath.Join(of, "specialisation", "*"))) // Fails for a bad pattern only.
	return slices.ContainsFunc(links, func(link string) bool {
		to, err := filepath.EvalSymlinks(link)
		return err == nil && strings.TrimPrefix(to, filepath.Clean(b.config.Root)) == system
	})
}

// drift compares links with the path that they should lead to. A link that is not
// there says nothing: a container has no profile.
func (b *base) drift(path, running, booting string) (dr driver.Drift, err error) {
	for link, other := range map[string]*string{running: &dr.Runs, booting: &dr.Boots} {
		if link == "" {
			continue
		}
		now, err := b.resolve(link)
		if err != nil {
			return driver.Drift{}, fmt.Errorf("looking for drift: %w", err)
		}
		if now != path && !b.specialises(now, path) {
			*other = now
		}
	}
	_, err = os.Lstat(b.at(path))
	dr.Gone = errors.Is(err, os.ErrNotExist)
	return dr, nil
}
