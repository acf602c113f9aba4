package nixdriver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	activateName   = "activate"
	deactivateName = "deactivate"
	// currentPrefix begins the link to what runs of a profile. It is a root as the
	// others are.
	currentPrefix = "current-"
	// systemManager is the profile that system-manager keeps by itself.
	systemManager = profilesDir + "/system-manager-profiles/system-manager"
)

// OutPath is the driver "nix": an out path with an "activate" and perhaps a
// "deactivate", at its top or in bin. They run with PATH, FLEET_PROFILE, FLEET_OUT
// (the path, also the working directory) and FLEET_PREVIOUS (the path that ran
// before, or empty).
type OutPath struct{ base }

var (
	_ driver.Driver   = (*OutPath)(nil)
	_ driver.Pruner   = (*OutPath)(nil)
	_ driver.Verifier = (*OutPath)(nil)
	_ driver.Repairer = (*OutPath)(nil)
)

// NewOutPath makes the driver.
func NewOutPath(c Config) *OutPath {
	return &OutPath{base{name: fleet.DriverNix, config: c.withDefaults()}}
}

// HasNix says whether the host has a nix that the drivers can run.
func HasNix(c Config) bool {
	b := base{config: c.withDefaults()}
	_, err := b.nix()
	return err == nil
}

func (d *OutPath) current(p fleet.ProfileName) string {
	return filepath.Join(d.at(rootsDir), currentPrefix+p.FileName())
}

// Current implements driver.Driver. A system that system-manager activated by
// itself counts until there is one of the driver's own.
func (d *OutPath) Current(_ context.Context, profile fleet.ProfileName) (string, error) {
	path, err := d.resolve(filepath.Join(rootsDir, currentPrefix+profile.FileName()))
	if err != nil || path != "" || profile != fleet.System {
		return path, err
	}
	path, err = d.resolve(systemManager)
	if err != nil || path == "" || d.program(path, activateName) == "" {
		return "", nil //nolint:nilerr // Another program's profile is none of ours.
	}
	return path, nil
}

// Build implements driver.Driver.
func (d *OutPath) Build(ctx context.Context, req driver.BuildRequest, progress func(driver.Progress)) (string, error) {
	path, err := d.build(ctx, req, progress, "", nil)
	if err != nil {
		return "", err
	}
	if d.program(path, activateName) == "" {
		return "", errors.Join(fmt.Errorf("building: %w: %s has no program %s, nor bin/%s", driver.ErrSource, path, activateName, activateName),
			atomicfile.Symlink("", d.root(path)))
	}
	return path, nil
}

// Activation implements driver.Driver.
func (d *OutPath) Activation(_ context.Context, profile fleet.ProfileName, from, to string) (driver.Activation, error) {
	if from == "" && to == "" {
		return driver.Activation{}, errors.New("describing activation: from nothing to nothing")
	}
	for _, path := range []string{from, to} {
		if path == "" {
			continue
		}
		if p := d.program(path, activateName); p == "" {
			return driver.Activation{}, fmt.Errorf("describing activation: %w: %s has no program %s", driver.ErrNotBuilt, path, activateName)
		} else if err := d.built(path, p); err != nil {
			return driver.Activation{}, fmt.Errorf("describing activation: %w", err)
		}
	}
	return driver.Activation{Activate: d.move(profile, from, to), Rollback: d.move(profile, to, from)}, nil
}

// move goes from one path to another, the roots and the link first.
func (d *OutPath) move(profile fleet.ProfileName, from, to string) driver.Action {
	a := driver.Action{Deadline: d.config.Deadline}
	for _, path := range []string{from, to} {
		if path != "" {
			a.Steps = append(a.Steps, d.rootStep(path))
		}
	}
	link := driver.Step{Link: &driver.Link{Path: d.current(profile), Target: to}}
	if to != "" {
		a.Steps = append(a.Steps, link, d.step(profile, d.program(to, activateName), to, from), d.durable())
		return a
	}
	if p := d.program(from, deactivateName); p != "" {
		a.Steps = append(a.Steps, d.step(profile, p, from, ""))
	}
	a.Steps = append(a.Steps, link, d.durable())
	return a
}

// durable makes what programs of out paths install durable before it counts as
// activated: after a power loss it would be missing, and nothing would tell why.
func (d *OutPath) durable() driver.Step {
	return driver.Step{Sync: &driver.Sync{Paths: append([]string{d.at(storeDir), d.at(rootsDir)}, driver.InstallPlaces()...)}}
}

func (d *OutPath) step(profile fleet.ProfileName, name, path, previous string) driver.Step {
	return driver.Step{Exec: &driver.Exec{
		Argv: []string{filepath.Join(path, name)},
		Env: []string{
			"PATH=" + d.config.Path, "FLEET_PROFILE=" + string(profile), "FLEET_OUT=" + path, "FLEET_PREVIOUS=" + previous,
		},
		User: profile.User(), Dir: path,
	}}
}

// program finds a program of an out path, below it; "" for none.
func (d *OutPath) program(path, name string) string {
	for _, p := range []string{name, filepath.Join("bin", name)} {
		if executable(filepath.Join(d.at(path), p)) {
			return p
		}
	}
	return ""
}
