// Package nixdriver has the built-in drivers of profiles that Nix builds:
// "nixos", which switches a NixOS system, "darwin", which activates a Mac's, "home", which activates a generation of
// home-manager as its user, and "nix", which runs the activate program of an out
// path, as system-manager has.
//
// All build with one nix process and keep what the agent needs from garbage
// collection by links in one directory below Nix's roots, each named like its
// store path. An activation names everything by path, never by the number of a
// profile's generation: what was recorded is what is gone back to.
package nixdriver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/permission"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// DefaultBuildTimeout bounds one build: a large system that no cache has takes
// hours.
const DefaultBuildTimeout = 12 * time.Hour

// Config is what a driver needs.
type Config struct {
	// Path is PATH, where nix is found too; default DefaultPath.
	Path string
	// Root is put in front of the places that Nix and NixOS have, for tests;
	// default none.
	Root string
	// Deadline of actions; default driver.DefaultDeadline.
	Deadline time.Duration
	// BuildTimeout of one build; default DefaultBuildTimeout.
	BuildTimeout time.Duration
	// Lookup finds a user of the host; default os/user's, which asks macOS itself
	// and reads /etc/passwd elsewhere.
	Lookup func(name string) (*user.User, error)
	// GRUBWrites says why GRUB can't write to a file in a directory, for people, empty where
	// it can; default a look at what the directory is on.
	GRUBWrites func(dir string) (why string, err error)
	// MaxJobs is how many derivations are built at a time, as nix takes it; default
	// what Nix is configured to.
	MaxJobs string
	// Permits is what a Mac's permissions are tried on; default that Mac.
	Permits permission.System
	// Unchecked are the permissions, by name, that are not tried.
	Unchecked []string
}

func (c Config) withDefaults() Config {
	if c.Path == "" {
		c.Path = DefaultPath
	}
	if c.Deadline == 0 {
		c.Deadline = driver.DefaultDeadline
	}
	if c.Lookup == nil {
		c.Lookup = user.Lookup
	}
	if c.GRUBWrites == nil {
		c.GRUBWrites = grubWrites
	}
	if c.BuildTimeout == 0 {
		c.BuildTimeout = DefaultBuildTimeout
	}
	return c
}

// Places of Nix and NixOS.
const (
	storeDir      = "/nix/store"
	rootsDir      = "/nix/var/nix/gcroots/fleet"
	profilesDir   = "/nix/var/nix/profiles"
	currentSystem = "/run/current-system"
)

// base is what the drivers share.
type base struct {
	name     string
	config   Config
	damage   damage
	builders builders
}

func (b *base) at(place string) string { return filepath.Join(b.config.Root, place) }

// nix finds the program. An activation names it by where its links lead: the
// place in PATH may be another program's by then.
func (b *base) nix() (string, error) { return b.program("nix") }

// program finds a program in PATH.
func (b *base) program(name string) (string, error) {
	for _, dir := range filepath.SplitList(b.config.Path) {
		file := filepath.Join(dir, name)
		if executable(file) {
			return file, nil
		}
	}
	return "", fmt.Errorf("there is no %s in %s", name, b.config.Path)
}

// executable says whether a file, or what a link leads to, may be run.
func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

// resolve follows a link into the store; "" where there is none.
func (b *base) resolve(link string) (string, error) {
	path, err := filepath.EvalSymlinks(b.at(link))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("reading what runs: %w", err)
	}
	path = strings.TrimPrefix(path, filepath.Clean(b.config.Root))
	if err := fleet.ValidateStorePath(path); err != nil {
		return "", fmt.Errorf("reading what runs: %s leads out of the store: %w", link, err)
	}
	return path, nil
}

// built checks that a path may be activated: whole as far as a look can tell,
// with a program to activate it.
func (b *base) built(path, program string) error {
	if err := fleet.ValidateStorePath(path); err != nil {
		return fmt.Errorf("%w: %w", driver.ErrNotBuilt, err)
	}
	if _, err := os.Lstat(b.at(path)); err != nil {
		return fmt.Errorf("%w: %w", driver.ErrNotBuilt, err)
	}
	if !b.activates(path, program) {
		return fmt.Errorf("%w: %s has no program %s", driver.ErrNotBuilt, path, program)
	}
	return nil
}

// Diff says what closures have that others have not, as "nix store
// diff-closures" does.
func (b *base) Diff(ctx context.Context, _ fleet.ProfileName, from, to string) ([]string, error) {
	if from == "" {
		return []string{"+ " + to}, nil
	}
	out, err := b.run(ctx, nil, maxDiffBytes, "store", "diff-closures", from, to)
	if err != nil {
		return nil, fmt.Errorf("comparing closures: %w", err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if line = clean(line); line != "" {
			lines = append(lines, line)
		}
	}
	if n := len(lines); n > driver.MaxDiffLines {
		lines = append(lines[:driver.MaxDiffLines], fmt.Sprintf("… and %d more", n-driver.MaxDiffLines))
	}
	return lines, nil
}
