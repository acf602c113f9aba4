package nixdriver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	// activateUserName is a program of systems whose activate does not do all: older
	// than 2025, they want it run too. Later ones have one that does nothing, which
	// says so in its second line.
	activateUserName = "activate-user"
	activateUserDone = "# nix-darwin: deprecated"
	// darwinRebuild of a system runs what that wants, and sets no profile.
	darwinRebuild = "sw/bin/darwin-rebuild"
)

// Exit codes of nix-darwin's activate.
const (
	exitDarwinFailed = 1
	exitDarwinCheck  = 2
)

// Darwin is the driver "darwin": it activates the system of a Mac with nix-darwin. What
// a Mac links at boot is what the profile has, so that the profile follows only once a
// system is verified: a Mac that is switched off before comes up with the old one.
type Darwin struct{ base }

var (
	_ driver.Driver   = (*Darwin)(nil)
	_ driver.Pruner   = (*Darwin)(nil)
	_ driver.Verifier = (*Darwin)(nil)
	_ driver.Repairer = (*Darwin)(nil)
	_ driver.Drifter  = (*Darwin)(nil)
	_ driver.Hinderer = (*Darwin)(nil)
)

// NewDarwin makes the driver. Whether the host is a Mac is the caller's to say.
func NewDarwin(c Config) *Darwin {
	return &Darwin{base{name: fleet.DriverDarwin, config: c.withDefaults()}}
}

// Current implements driver.Driver. nix-darwin links what runs last: after an activation
// that failed it is still the one before.
func (d *Darwin) Current(_ context.Context, profile fleet.ProfileName) (string, error) {
	if profile != fleet.System {
		return "", nil
	}
	return d.resolve(currentSystem)
}

// Build implements driver.Driver.
func (d *Darwin) Build(ctx context.Context, req driver.BuildRequest, progress func(driver.Progress)) (string, error) {
	if req.Profile != fleet.System {
		return "", fmt.Errorf("building: %w: driver darwin has the profile %s only, not %s", driver.ErrSource, fleet.System, req.Profile)
	}
	return d.build(ctx, req, progress, activateName, nil)
}

// Activation implements driver.Driver. From nothing means from the system that runs; to
// nothing means that the host stays as it is.
func (d *Darwin) Activation(ctx context.Context, profile fleet.ProfileName, from, to string) (driver.Activation, error) {
	wrap := func(err error) (driver.Activation, error) {
		return driver.Activation{}, fmt.Errorf("describing activation: %w", err)
	}
	if profile != fleet.System {
		return wrap(errors.New("driver darwin has the profile " + string(fleet.System) + " only"))
	}
	if from == "" {
		var err error
		if from, err = d.Current(ctx, profile); err != nil {
			return wrap(err)
		}
	}
	if from == "" {
		return wrap(errors.New("there is no " + currentSystem + " to go back to"))
	}
	if to == "" {
		return driver.Activation{}, nil
	}
	for _, path := range []string{from, to} {
		if err := d.built(path, activateName); err != nil {
			return wrap(err)
		}
	}
	profiled, err := d.resolve(systemProfile)
	if err != nil {
		return wrap(err)
	}
	set, err := d.setSystem(to)
	if err != nil {
		return wrap(err)
	}
	commit := []driver.Step{set, d.syncSystem()}
	if from == to && profiled == to {
		commit = nil
	}
	// The profile goes back to what it had, save where that is what is left.
	if profiled == to || d.built(profiled, activateName) != nil {
		profiled = from
	}
	unset, err := d.setSystem(profiled)
	if err != nil {
		return wrap(err)
	}
	unset.Exec.Unless = &driver.Link{Path: d.at(systemProfile), Target: profiled}
	action := func(steps ...driver.Step) driver.Action {
		if len(steps) == 0 {
			return driver.Action{}
		}
		return driver.Action{Steps: steps, Deadline: d.config.Deadline}
	}
	there, err := d.activate(to)
	if err != nil {
		return wrap(err)
	}
	back, err := d.activate(from)
	if err != nil {
		return wrap(err)
	}
	return driver.Activation{
		Activate: action(d.rootStep(from), d.rootStep(to), there, d.syncSystem()),
		Commit:   action(commit...),
		Rollback: action(d.rootStep(from), back, unset, d.syncSystem()),
	}, nil
}

// activate runs a system's own program, as its kind wants it run.
func (d *Darwin) activate(path string) (driver.Step, error) {
	old, err := d.activatesUsers(path)
	if err != nil {
		return driver.Step{}, err
	}
	argv, parts := []string{filepath.Join(path, activateName)}, []driver.Part(nil)
	if old && executable(filepath.Join(d.at(path), darwinRebuild)) {
		argv = []string{filepath.Join(path, darwinRebuild), activateName}
	} else if !old {
		parts = d.dispensable(path)
	}
	return driver.Step{Exec: &driver.Exec{
		Argv: argv, Env: d.rootEnv(), Contained: true, Parts: parts,
		Meanings: map[int]string{
			exitDarwinFailed: "a part of the activation failed",
			exitDarwinCheck:  "a check before the activation failed, such as for files of /etc that nix-darwin did not write: nothing was changed",
		},
	}}, nil
}

// activatesUsers says whether a system is of before 2025.
func (d *Darwin) activatesUsers(path string) (bool, error) {
	f, err := os.Open(filepath.Join(d.at(path), activateUserName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	const most = 4 << 10
	lines := bufio.NewScanner(io.LimitReader(f, most))
	second := ""
	for n := 1; n <= 2 && lines.Scan(); n++ {
		second = lines.Text()
	}
	return strings.TrimSpace(second) != activateUserDone, lines.Err()
}

// rootEnv is the environment of root on a Mac.
func (d *Darwin) rootEnv() []string {
	return []string{"PATH=" + d.config.Path, "HOME=/var/root", "USER=root", "LOGNAME=root"}
}

func (d *Darwin) setSystem(path string) (driver.Step, error) {
	program, err := d.nixEnv()
	if err != nil {
		return driver.Step{}, err
	}
	return driver.Step{Exec: &driver.Exec{
		Argv: []string{program, "--profile", d.at(systemProfile), "--set", path}, Env: d.rootEnv(),
	}}, nil
}

func (d *Darwin) syncSystem() driver.Step {
	return driver.Step{Sync: &driver.Sync{Paths: []string{d.at(storeDir), d.at(profilesDir)}}}
}

// Drift implements driver.Drifter: darwin-rebuild switch moves the profile first, and
// what runs last, so that a switch by hand that failed shows as a profile that does not
// run.
func (d *Darwin) Drift(_ context.Context, profile fleet.ProfileName, path string) (driver.Drift, error) {
	if profile != fleet.System {
		return driver.Drift{}, nil
	}
	return d.drift(path, currentSystem, systemProfile)
}
