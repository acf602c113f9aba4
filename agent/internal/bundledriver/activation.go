package bundledriver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Activation implements driver.Driver.
func (d *Driver) Activation(_ context.Context, profile fleet.ProfileName, from, to string) (driver.Activation, error) {
	if from == "" && to == "" {
		return driver.Activation{}, errors.New("describing activation: from nothing to nothing")
	}
	if from != "" {
		// Without it there would be no way back.
		if err := d.usable(from); err != nil {
			return driver.Activation{}, fmt.Errorf("describing activation: what runs now is gone: %w; build it again, or remove link %s to give up going back",
				err, d.link(profile))
		}
	}
	if to != "" {
		if err := d.usable(to); err != nil {
			return driver.Activation{}, fmt.Errorf("describing activation: %w", err)
		}
	}
	return driver.Activation{
		Activate: d.move(profile, from, to),
		Rollback: d.move(profile, to, from),
	}, nil
}

// move goes from one bundle to another: the link first, so that what activate
// starts through the link is the new one.
func (d *Driver) move(profile fleet.ProfileName, from, to string) driver.Action {
	a := driver.Action{Deadline: d.config.Deadline}
	if to != "" {
		a.Steps = []driver.Step{
			{Link: &driver.Link{Path: d.link(profile), Target: to}},
			d.run(profile, filepath.Join(to, bundle.Activate), to, from),
			d.durable(),
		}
		return a
	}
	if executable(filepath.Join(from, bundle.Deactivate)) {
		a.Steps = append(a.Steps, d.run(profile, filepath.Join(from, bundle.Deactivate), from, ""))
	}
	a.Steps = append(a.Steps, driver.Step{Link: &driver.Link{Path: d.link(profile)}}, d.durable())
	return a
}

// durable makes what a bundle's programs installed durable before it counts as
// activated: after a power loss it would be missing, and the bundle blamed for
// it.
func (d *Driver) durable() driver.Step {
	return driver.Step{Sync: &driver.Sync{Paths: append([]string{d.config.Root}, driver.InstallPlaces()...)}}
}

func (d *Driver) run(profile fleet.ProfileName, program, path, previous string) driver.Step {
	return driver.Step{Exec: &driver.Exec{
		Argv: []string{program},
		Env:  d.Environ(profile, path, previous),
		User: profileUser(profile),
		Dir:  path,
	}}
}

// Environ is the environment of a bundle's programs, probes included.
func (d *Driver) Environ(profile fleet.ProfileName, path, previous string) []string {
	env := append([]string{"PATH=" + d.config.Path}, d.config.Env...)
	return append(env,
		"FLEET_PROFILE="+string(profile),
		"FLEET_BUNDLE="+path,
		"FLEET_PREVIOUS="+previous,
		"FLEET_STATE="+d.StateDir(profile))
}

// usable is a quick look; Verify reads all.
func (d *Driver) usable(path string) error {
	if _, err := d.digestOf(path); err != nil {
		return err
	}
	if !executable(filepath.Join(path, bundle.Activate)) {
		return fmt.Errorf("%w: %s: %w", driver.ErrNotBuilt, path, bundle.ErrNoActivate)
	}
	return nil
}

func executable(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

// profileUser is the user of a home profile, or "" for the agent's own.
func profileUser(p fleet.ProfileName) string {
	name, _ := strings.CutPrefix(string(p), "home/")
	if name == string(p) {
		return ""
	}
	return name
}

// Hindrance implements driver.Hinderer: the user of a home profile has to be there.
func (d *Driver) Hindrance(_ context.Context, profile fleet.ProfileName) (fleet.Reason, error) {
	name := profileUser(profile)
	if name == "" {
		return fleet.Reason{}, nil
	}
	_, err := user.Lookup(name)
	if unknown := user.UnknownUserError(""); errors.As(err, &unknown) {
		return fleet.Reason{
			Code: fleet.ReasonNoUser, Message: "this host has no user " + name,
			Hint: "make the user on the host, or leave the profile out of fleet.yaml; the profile goes on by itself then",
		}, nil
	}
	if err != nil {
		return fleet.Reason{}, fmt.Errorf("looking up user %s: %w", name, err)
	}
	return fleet.Reason{}, nil
}

// giver returns what gives a directory that is the agent's to a user, where there is one
// to give it to and the agent may.
func giver(name string) (func(dir string) error, error) {
	if name == "" || os.Geteuid() != 0 {
		return func(string) error { return nil }, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("making state directory: %w; make the user, or take the profile away", err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("making state directory: user %s: %w", name, err)
	}
	return func(dir string) error {
		fi, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			return nil // It was given before, or by a person.
		}
		return os.Lchown(dir, uid, gid)
	}, nil
}
