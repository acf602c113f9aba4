package nixdriver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

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
	dir := filepath.Join(of, "specialisation")
	entries, _ := os.ReadDir(b.at(dir)) // Most have none.
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		to, err := b.resolve(filepath.Join(dir, e.Name()))
		return err == nil && to == system
	})
}

// drift compares links with the path that they should lead to. A link that is not
// there says nothing: a container has no profile.
func (b *base) drift(path, running, booting string) (dr driver.Drift, err error) {
	elsewhere := func(link string) (string, error) {
		now, err := b.resolve(link)
		if err != nil {
			return "", fmt.Errorf("looking for drift: %w", err)
		}
		if now == path || b.specialises(now, path) {
			return "", nil
		}
		return now, nil
	}
	if dr.Runs, err = elsewhere(running); err != nil {
		return driver.Drift{}, err
	}
	if booting != "" {
		if dr.Boots, err = elsewhere(booting); err != nil {
			return driver.Drift{}, err
		}
	}
	_, err = os.Lstat(b.at(path))
	dr.Gone = errors.Is(err, os.ErrNotExist)
	return dr, nil
}
