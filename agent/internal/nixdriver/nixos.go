package nixdriver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// switchProgram of a NixOS system, below its path.
const switchProgram = "bin/switch-to-configuration"

// systemProfile holds the system that boots.
const systemProfile = profilesDir + "/system"

// Exit codes of switch-to-configuration (nixpkgs, switch-to-configuration-ng).
const (
	exitUnitsFailed = 4   // some unit is failed, perhaps of old
	exitLocked      = 11  // EAGAIN: another switch holds the lock
	exitReboot      = 100 // under "test": nothing was changed
)

// NixOS is the driver "nixos": it switches the system of a NixOS host. The new
// system is tried with "test"; profile and boot entry follow once it is verified,
// so that a power loss before boots the old one.
type NixOS struct{ base }

var (
	_ driver.Driver   = (*NixOS)(nil)
	_ driver.Pruner   = (*NixOS)(nil)
	_ driver.Verifier = (*NixOS)(nil)
	_ driver.Repairer = (*NixOS)(nil)
)

// NewNixOS makes the driver. Whether the host is a NixOS one is the caller's to
// say: IsNixOS.
func NewNixOS(c Config) *NixOS {
	return &NixOS{base{name: fleet.DriverNixOS, config: c.withDefaults()}}
}

// IsNixOS says whether the host runs NixOS, as its own programs find out.
func IsNixOS(root string) bool {
	if _, err := os.Stat(filepath.Join(root, "/etc/NIXOS")); err == nil {
		return true
	}
	return osRelease(filepath.Join(root, "/etc/os-release"))["ID"] == "nixos"
}

// Current implements driver.Driver: what runs, whoever switched to it.
func (d *NixOS) Current(_ context.Context, profile fleet.ProfileName) (string, error) {
	if profile != fleet.System {
		return "", nil
	}
	return d.resolve(currentSystem)
}

// Build implements driver.Driver.
func (d *NixOS) Build(ctx context.Context, req driver.BuildRequest, progress func(driver.Progress)) (string, error) {
	if req.Profile != fleet.System {
		return "", fmt.Errorf("building: %w: driver nixos has the profile %s only, not %s", driver.ErrSource, fleet.System, req.Profile)
	}
	return d.build(ctx, req, progress, switchProgram, nil)
}

// Activation implements driver.Driver. From nothing means from the system that
// runs, as there always is one; to nothing means that the host stays as it is.
func (d *NixOS) Activation(ctx context.Context, profile fleet.ProfileName, from, to string) (driver.Activation, error) {
	if profile != fleet.System {
		return driver.Activation{}, fmt.Errorf("describing activation: driver nixos has the profile %s only", fleet.System)
	}
	if from == "" {
		var err error
		if from, err = d.Current(ctx, profile); err != nil {
			return driver.Activation{}, fmt.Errorf("describing activation: %w", err)
		}
	}
	if from == "" {
		return driver.Activation{}, errors.New("describing activation: there is no " + currentSystem + " to go back to: this is no running NixOS")
	}
	if to == "" {
		return driver.Activation{}, nil
	}
	for _, path := range []string{from, to} {
		if err := d.built(path, switchProgram); err != nil {
			return driver.Activation{}, fmt.Errorf("describing activation: %w", err)
		}
	}
	profiled, err := d.resolve(systemProfile)
	if err != nil {
		return driver.Activation{}, fmt.Errorf("describing activation: %w", err)
	}
	commit, err := d.install(to)
	if err != nil {
		return driver.Activation{}, fmt.Errorf("describing activation: %w", err)
	}
	if from == to && profiled == to {
		commit = nil
	}
	undo, err := d.undo(from, to, profiled)
	if err != nil {
		return driver.Activation{}, fmt.Errorf("describing activation: %w", err)
	}
	action := func(steps ...driver.Step) driver.Action {
		if len(steps) == 0 {
			return driver.Action{}
		}
		return driver.Action{Steps: steps, Deadline: d.config.Deadline}
	}
	return driver.Activation{
		// The way back needs its roots from here on: soon nothing else holds the old
		// system.
		Activate: action(d.rootStep(from), d.rootStep(to), d.switchTo(to, "test")),
		Commit:   action(commit...),
		Rollback: action(undo...),
	}, nil
}

func (b *base) rootStep(path string) driver.Step {
	return driver.Step{Link: &driver.Link{Path: b.root(path), Target: path}}
}

// switchTo runs a system's own program.
func (d *NixOS) switchTo(path, action string) driver.Step {
	x := &driver.Exec{
		Argv: []string{filepath.Join(path, switchProgram), action}, Env: d.environment(),
		BusyCodes: []int{exitLocked}, Contained: true,
		Meanings: map[int]string{
			1:               "a check before the switch or the boot loader failed",
			2:               "the activation script failed",
			exitUnitsFailed: "units failed",
			exitReboot:      "nothing was changed: the system can only be booted into",
		},
	}
	if action == "test" {
		x.FailedUnitsCode = exitUnitsFailed
	}
	return driver.Step{Exec: x}
}

// install makes a system that runs the one that boots.
func (d *NixOS) install(path string) ([]driver.Step, error) {
	set, err := d.setProfile(path)
	if err != nil {
		return nil, err
	}
	return []driver.Step{set, d.sync(), d.switchTo(path, "boot"), d.sync()}, nil
}

// undo goes back to from, and puts the profile back where it moved: to what it
// had, or to from where that was the system to be left. Boot entry first:
// then the condition holds until all is done, whenever a crash comes.
func (d *NixOS) undo(from, to, profiled string) ([]driver.Step, error) {
	steps := []driver.Step{d.rootStep(from), d.switchTo(from, "test")}
	if profiled == to || d.built(profiled, switchProgram) != nil {
		profiled = from
	}
	boots := &driver.Link{Path: d.at(systemProfile), Target: profiled}
	boot := d.switchTo(profiled, "boot")
	boot.Exec.Unless = boots
	set, err := d.setProfile(profiled)
	if err != nil {
		return nil, err
	}
	set.Exec.Unless = boots
	return append(steps, boot, set, d.sync()), nil
}

func (d *NixOS) setProfile(path string) (driver.Step, error) {
	program, err := d.nixEnv()
	if err != nil {
		return driver.Step{}, err
	}
	return driver.Step{Exec: &driver.Exec{
		Argv: []string{program, "--profile", d.at(systemProfile), "--set", path},
		Env:  d.environment(),
	}}, nil
}

// nixEnv names nix-env by where it is in the store: what is left may have none in
// its PATH.
func (b *base) nixEnv() (string, error) {
	program, err := b.nix()
	if err != nil {
		return "", err
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		return "", fmt.Errorf("finding nix-env: %w", err)
	}
	return filepath.Join(filepath.Dir(program), "nix-env"), nil
}

func (d *NixOS) sync() driver.Step {
	return driver.Step{Sync: &driver.Sync{Paths: []string{d.at(storeDir), d.at(profilesDir)}}}
}

// environment is what nixos-rebuild gives the program.
func (b *base) environment() []string {
	env := []string{"PATH=" + b.config.Path, "HOME=/root"}
	if archive := os.Getenv("LOCALE_ARCHIVE"); archive != "" {
		env = append(env, "LOCALE_ARCHIVE="+archive)
	}
	return env
}
