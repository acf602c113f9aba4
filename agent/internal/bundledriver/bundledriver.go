// Package bundledriver is the built-in driver of profiles that are bundles: it
// needs no Nix and works on any host.
//
// Below its root:
//
//	store/<digest hex>   unpacked bundles, never changed
//	profiles/<profile>   link to the bundle that runs
//	state/<profile>      what the service keeps from bundle to bundle
//
// An activation points the link at the new bundle and runs its "activate" with
// FLEET_PROFILE, FLEET_BUNDLE (the bundle's path, also the working directory),
// FLEET_PREVIOUS (path of the bundle that ran before, or empty), FLEET_STATE
// and PATH. A rollback is the same the other way round, so that "activate" has
// to cope with whatever its predecessor left. Where nothing ran before, the
// bundle's "deactivate" is run if it has one. Its "check", if it has one, is a
// probe of that name, run in the same environment.
package bundledriver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Name of the driver in a generation's source.
const Name = "bundle"

// Config is what a driver needs.
type Config struct {
	// Root is the driver's own directory, absolute; made where missing.
	Root string
	// Path is PATH for the programs of bundles; default DefaultPath.
	Path string
	// Env is more environment for them, NAME=VALUE; names that begin with
	// FLEET_ and PATH are refused.
	Env []string
	// Deadline of actions; default driver.DefaultDeadline.
	Deadline time.Duration
	// Limits on bundles; default bundle.DefaultLimits.
	Limits bundle.Limits
}

// Driver is the bundle driver. One process at a time may use one root.
type Driver struct {
	config   Config
	building building
}

var (
	_ driver.Driver   = (*Driver)(nil)
	_ driver.Pruner   = (*Driver)(nil)
	_ driver.Verifier = (*Driver)(nil)
	_ driver.Prober   = (*Driver)(nil)
	_ driver.Hinderer = (*Driver)(nil)
)

// New makes the directories and removes what a crash left half unpacked.
func New(c Config) (*Driver, error) {
	if !filepath.IsAbs(c.Root) {
		return nil, fmt.Errorf("opening bundle driver: root %q: want an absolute path", c.Root)
	}
	c.Root = filepath.Clean(c.Root)
	for _, v := range c.Env {
		name, _, ok := strings.Cut(v, "=")
		if !ok || name == "" || name == "PATH" || strings.HasPrefix(name, "FLEET_") {
			return nil, fmt.Errorf("opening bundle driver: extra environment %q: want NAME=VALUE, not PATH or FLEET_…", name)
		}
	}
	if c.Path == "" {
		c.Path = DefaultPath
	}
	if c.Deadline == 0 {
		c.Deadline = driver.DefaultDeadline
	}
	d := &Driver{config: c}
	for _, dir := range []string{d.store(), d.profiles(), d.states()} {
		// Services of other users live here.
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // Nothing secret is in it.
			return nil, fmt.Errorf("opening bundle driver: %w", err)
		}
	}
	left, err := filepath.Glob(filepath.Join(d.store(), bundle.TempPrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("opening bundle driver: %w", err)
	}
	for _, dir := range left {
		crashpoint.Hit(crashpoint.BundleSweep)
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("removing what was half unpacked: %w", err)
		}
	}
	return d, nil
}

func (d *Driver) store() string    { return filepath.Join(d.config.Root, "store") }
func (d *Driver) profiles() string { return filepath.Join(d.config.Root, "profiles") }
func (d *Driver) states() string   { return filepath.Join(d.config.Root, "state") }

func (d *Driver) link(p fleet.ProfileName) string {
	return filepath.Join(d.profiles(), p.FileName())
}

// StateDir is the directory that the services of a profile keep.
func (d *Driver) StateDir(p fleet.ProfileName) string {
	return filepath.Join(d.states(), p.FileName())
}

// Current implements driver.Driver.
func (d *Driver) Current(_ context.Context, profile fleet.ProfileName) (string, error) {
	target, err := os.Readlink(d.link(profile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("reading what runs: %w; the driver expects a link there or nothing", err)
	}
	if _, err := d.digestOf(target); err != nil {
		return "", fmt.Errorf("reading what runs: link %s leads to %q, which is no bundle of this driver; remove the link", d.link(profile), target)
	}
	return target, nil
}

// Build implements driver.Driver. A bundle that is there is read in whole and
// compared; a damaged one is replaced.
func (d *Driver) Build(ctx context.Context, req driver.BuildRequest, progress func(driver.Progress)) (string, error) {
	if progress == nil {
		progress = func(driver.Progress) {}
	}
	src := req.Source.Bundle
	if req.Source.Driver != Name || src == nil {
		return "", fmt.Errorf("building bundle: %w: source is for driver %q", driver.ErrSource, req.Source.Driver)
	}
	digest, err := fleet.ParseDigest(string(src.Digest))
	if err != nil {
		return "", fmt.Errorf("building bundle: %w: %w", driver.ErrSource, err)
	}
	path := filepath.Join(d.store(), digest.Hex())
	if err := d.building.begin(ctx, path); err != nil {
		return "", fmt.Errorf("building bundle %s: %w", digest.Short(), err)
	}
	defer d.building.end(path)

	if err := d.makeState(req.Profile); err != nil {
		return "", fmt.Errorf("building bundle %s: %w", digest.Short(), err)
	}
	progress(driver.Progress{Message: "verifying", Total: src.Size})
	err = bundle.Verify(ctx, path, digest, d.config.Limits)
	if err == nil {
		progress(driver.Progress{Message: "verified", Done: src.Size, Total: src.Size})
		return path, nil
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	file, ok := req.Blobs[src.Digest]
	if !ok {
		return "", fmt.Errorf("building bundle %s: its tar was not fetched", digest.Short())
	}
	if err := d.unpack(ctx, file, path, *src, progress); err != nil {
		return "", fmt.Errorf("building bundle %s: %w", digest.Short(), classify(err))
	}
	crashpoint.Hit(crashpoint.BundleBuilt)
	return path, nil
}

func (d *Driver) unpack(ctx context.Context, file, path string, src fleet.BundleSource, progress func(driver.Progress)) (err error) {
	f, err := os.Open(file) //nolint:gosec // The agent names its own blobs.
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// In steps, so that a large bundle gives some tens of messages.
	step, next := src.Size/32+1, uint64(0)
	return bundle.Unpack(ctx, f, path, src, d.config.Limits, func(done uint64) {
		if done >= next || done == src.Size {
			progress(driver.Progress{Message: "unpacking", Done: done, Total: src.Size})
			next = done + step
		}
	})
}

// classify tells what no repetition mends. A wrong digest or early end is the
// copy's fault: fetching again may mend it.
func classify(err error) error {
	for _, final := range []error{
		bundle.ErrNoActivate, bundle.ErrName, bundle.ErrType, bundle.ErrMode, bundle.ErrLink,
		bundle.ErrDuplicate, bundle.ErrParent, bundle.ErrNotCanonical, bundle.ErrTooLarge,
	} {
		if errors.Is(err, final) {
			return fmt.Errorf("%w: %w", driver.ErrSource, err)
		}
	}
	return err
}

// makeState makes the profile's state directory, owned by the profile's user, who is
// looked for first: a crash, or a user who is not there, leaves none that is root's.
func (d *Driver) makeState(p fleet.ProfileName) error {
	give, err := giver(profileUser(p))
	if err != nil {
		return err
	}
	dir := d.StateDir(p)
	err = os.Mkdir(dir, 0o755) //nolint:gosec // Its services say what in it is secret.
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err == nil {
		crashpoint.Hit(crashpoint.BundleState)
	}
	return give(dir)
}

// digestOf is the digest of a path in the store.
func (d *Driver) digestOf(path string) (fleet.Digest, error) {
	dir, base := filepath.Split(path)
	digest, err := fleet.ParseDigest("sha256:" + base)
	if err != nil || dir != d.store()+string(filepath.Separator) {
		return "", fmt.Errorf("%w: %q is not in %s", driver.ErrNotBuilt, path, d.store())
	}
	return digest, nil
}

// Verify implements driver.Verifier.
func (d *Driver) Verify(ctx context.Context, path string) error {
	digest, err := d.digestOf(path)
	if err != nil {
		return err
	}
	if err := bundle.Verify(ctx, path, digest, d.config.Limits); errors.Is(err, bundle.ErrDamaged) {
		return fmt.Errorf("%w: %w", driver.ErrNotBuilt, err)
	} else if err != nil {
		return err
	}
	return nil
}
