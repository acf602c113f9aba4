package nixdriver

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	// genVersion is a file of generations whose activate leaves the profile to its
	// caller, where it is told so.
	genVersion = "gen-version"
	// daemonSocket is where a user's nix finds the daemon.
	daemonSocket = "/nix/var/nix/daemon-socket/socket"
)

// leave is the way back to no generation, as a script of the user.
//
//go:embed leave.sh
var leave string

// Home is the driver "home": it activates generations of home-manager for profiles
// home/<user>, on a host whose system has not home-manager in it.
//
// A home belongs to its user, whom root must not trust with anything. So all that
// changes one runs as the user: home-manager's own activate, nix-env for the profile,
// and what takes links back. The agent only reads (see read), and takes nothing from a
// home but names of store paths; what they name runs as the user too.
type Home struct {
	base

	looks looks
}

var (
	_ driver.Driver   = (*Home)(nil)
	_ driver.Pruner   = (*Home)(nil)
	_ driver.Verifier = (*Home)(nil)
	_ driver.Repairer = (*Home)(nil)
	_ driver.Drifter  = (*Home)(nil)
	_ driver.Hinderer = (*Home)(nil)
)

// NewHome makes the driver.
func NewHome(c Config) *Home {
	d := &Home{base: base{name: fleet.DriverHome, config: c.withDefaults()}}
	d.looks.read = d.read
	return d
}

// fit is a profile's user and what the home says, where the host is fit for it.
func (d *Home) fit(profile fleet.ProfileName) (account, homeState, error) {
	a, err := d.account(profile)
	if err != nil {
		return account{}, homeState{}, err
	}
	st, err := d.look(a)
	a.runtime = st.runtime
	return a, st, err
}

// Hindrance implements driver.Hinderer.
func (d *Home) Hindrance(_ context.Context, profile fleet.ProfileName) (fleet.Reason, error) {
	if profile.User() == "" {
		return fleet.Reason{}, nil // Build says so.
	}
	_, _, err := d.fit(profile)
	if u := (*unfit)(nil); errors.As(err, &u) {
		return u.reason, nil
	}
	return fleet.Reason{}, err
}

// Current implements driver.Driver: what was activated last, by whomever, as far as it
// could be gone back to. Nothing runs in a home that is not there.
func (d *Home) Current(_ context.Context, profile fleet.ProfileName) (string, error) {
	if profile.User() == "" {
		return "", nil
	}
	_, st, err := d.fit(profile)
	if errors.Is(err, errHindered) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading what runs: %w", err)
	}
	return d.runs(st), nil
}

// runs is what a home says that runs, as far as it could be gone back to. Old versions
// of home-manager say so by the profile alone.
func (d *Home) runs(st homeState) string {
	if path := d.whole(st.current); path != "" {
		return path
	}
	return d.whole(st.profiled)
}

// whole is a path that may be activated; empty for another one.
func (d *Home) whole(path string) string {
	if path == "" || d.built(path, activateName) != nil {
		return ""
	}
	return path
}

// Build implements driver.Driver.
func (d *Home) Build(ctx context.Context, req driver.BuildRequest, progress func(driver.Progress)) (string, error) {
	if req.Profile.User() == "" {
		return "", fmt.Errorf("building: %w: driver home has profiles home/<user> only, not %s", driver.ErrSource, req.Profile)
	}
	a, _, err := d.fit(req.Profile)
	if err != nil {
		return "", fmt.Errorf("building: %w", err)
	}
	as := &a
	if fi, err := os.Lstat(d.at(daemonSocket)); err != nil || fi.Mode().Type() != os.ModeSocket {
		as = nil // Only root's nix can write to the store.
	}
	return d.build(ctx, req, progress, activateName, as)
}

// passed are variables of the agent that a user's nix needs too, if any is set.
var passed = []string{"NIX_SSL_CERT_FILE", "SSL_CERT_FILE", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "LOCALE_ARCHIVE"}

// userBuildWithin bounds what a user's nix may take, which can be kept from ending by its
// user.
const userBuildWithin = 2 * time.Hour

// nixBuildAs has a user's nix evaluate and build, with what that user may read. Then
// the agent's own nix makes the path a root: so it is one of this host's store,
// whatever the user's process printed.
func (b *base) nixBuildAs(ctx context.Context, a account, link string, said func(string), expr string) (string, error) {
	program, err := b.nix()
	if err != nil {
		return "", err
	}
	args := []string{"build", "--no-link", "--print-out-paths", "--pure-eval", "--expr", expr}
	if b.config.MaxJobs != "" {
		args = append(args, "--max-jobs", b.config.MaxJobs)
	}
	within, cancel := context.WithTimeoutCause(ctx, userBuildWithin, fmt.Errorf("the nix of %s took longer than %s", a.name, userBuildWithin))
	defer cancel()
	p := contain.Program{
		Name: "nix", Argv: append([]string{program}, args...),
		Env: append(b.userEnv(a), "NIX_CONFIG=extra-experimental-features = nix-command flakes", "NO_COLOR=1"),
	}
	for _, name := range passed {
		// A password of the agent's is not for users.
		if value := os.Getenv(name); value != "" && !strings.Contains(value, "@") {
			p.Env = append(p.Env, name+"="+value)
		}
	}
	if int64(a.uid) != int64(os.Getuid()) {
		if p.As, err = contain.Credential(a.name); err != nil {
			return "", fmt.Errorf("building as %s: %w", a.name, err)
		}
	}
	out, err := b.runCommand(within, p, said, maxOutBytes)
	if err != nil {
		return "", judge(err)
	}
	path := strings.TrimSuffix(string(out), "\n")
	if err := fleet.ValidateStorePath(path); err != nil {
		return "", fmt.Errorf("%w: it has not one output but %.200q", driver.ErrSource, path)
	}
	return b.nixBuild(ctx, link, said, path)
}

// userEnv is the environment of what runs as a user: that of a log-in without a
// terminal. There is no NIX_PATH: a generation is complete.
func (b *base) userEnv(a account) []string {
	env := []string{"PATH=" + b.config.Path, "HOME=" + a.home, "USER=" + a.name, "LOGNAME=" + a.name}
	if a.runtime != "" {
		env = append(env, "XDG_RUNTIME_DIR="+a.runtime)
	}
	return env
}

// Activation implements driver.Driver. From nothing means from what runs; where nothing
// does, the way back takes away the links that were made, and says what it leaves.
func (d *Home) Activation(_ context.Context, profile fleet.ProfileName, from, to string) (driver.Activation, error) {
	wrap := func(err error) (driver.Activation, error) {
		return driver.Activation{}, fmt.Errorf("describing activation: %w", err)
	}
	a, st, err := d.fit(profile)
	if err != nil {
		return wrap(err)
	}
	if from == "" {
		from = d.runs(st)
	}
	for _, path := range []string{from, to} {
		if path == "" {
			continue
		}
		if err := d.built(path, activateName); err != nil {
			return wrap(err)
		}
	}
	if from == "" && to == "" {
		return driver.Activation{}, nil
	}
	act := driver.Activation{}
	if act.Activate, err = d.enter(a, st, from, to, ""); err != nil {
		return wrap(err)
	}
	// What the profile had is put back, save where that is what is left.
	profiled := d.whole(st.profiled)
	if profiled == "" || profiled == to {
		profiled = from
	}
	if act.Rollback, err = d.enter(a, st, to, from, profiled); err != nil {
		return wrap(err)
	}
	if to != "" && d.keepsProfile(to) && (from != to || st.profiled != to) {
		step, err := d.setHome(a, st.profile, to)
		if err != nil {
			return wrap(err)
		}
		act.Commit = driver.Action{Steps: append([]driver.Step{step}, d.durable(a, st)...), Deadline: d.config.Deadline}
	}
	return act, nil
}

// enter goes from one generation to another, either of which may be none, and has the
// profile lead to profiled where that is not empty.
func (d *Home) enter(a account, st homeState, from, to, profiled string) (driver.Action, error) {
	act := driver.Action{Deadline: d.config.Deadline}
	for _, path := range []string{from, to} {
		if path != "" {
			act.Steps = append(act.Steps, d.rootStep(path))
		}
	}
	// home-manager takes back what the generation before had, by what says that it
	// runs, which an activation that was cut short never wrote.
	if back := profiled != "" || to == ""; back && from != "" && from != to {
		profile := ""
		if to == "" {
			profile = st.profile
		}
		act.Steps = append(act.Steps, d.user(a, "/bin/sh", "-c", leave, "leave", from, profile))
	}
	if to != "" {
		act.Steps = append(act.Steps, d.activate(a, to))
	}
	if profiled != "" {
		step, err := d.setHome(a, st.profile, profiled)
		if err != nil {
			return act, err
		}
		act.Steps = append(act.Steps, step)
	}
	act.Steps = append(act.Steps, d.durable(a, st)...)
	return act, nil
}

// activate runs a generation's own program.
func (d *Home) activate(a account, path string) driver.Step {
	argv := []string{filepath.Join(path, activateName)}
	if d.keepsProfile(path) {
		argv = append(argv, "--driver-version", "1")
	}
	step := d.user(a, argv...)
	step.Exec.Contained = true
	step.Exec.Meanings = map[int]string{
		1: "a file of the user's is in the way of one of home-manager's, which overwrites none, or a part of the activation failed",
	}
	return step
}

// keepsProfile says whether a generation's activate can be told to leave the profile
// alone. An older one sets it itself, first.
func (d *Home) keepsProfile(path string) bool {
	_, err := d.inStore(filepath.Join(path, genVersion))
	return err == nil
}

// setHome has the user's nix-env set the profile.
func (d *Home) setHome(a account, profile, path string) (driver.Step, error) {
	program, err := d.nixEnv()
	if err != nil {
		return driver.Step{}, err
	}
	return d.user(a, program, "--profile", profile, "--set", path), nil
}

// user runs a program as the user, in the home.
func (d *Home) user(a account, argv ...string) driver.Step {
	return driver.Step{Exec: &driver.Exec{Argv: argv, Env: d.userEnv(a), User: a.name, Dir: a.home}}
}

// durable makes what was done durable. Root opens no home for that: one that is a file
// system of its own is synced with all others, by its user.
func (d *Home) durable(a account, st homeState) []driver.Step {
	steps := []driver.Step{{Sync: &driver.Sync{Paths: []string{d.at(storeDir), d.at(rootsDir), filepath.Dir(d.at(a.home))}}}}
	if st.apart {
		if program, err := d.program("sync"); err == nil {
			steps = append(steps, d.user(a, program))
		}
	}
	return steps
}

// Drift implements driver.Drifter: home-manager switch moves what runs and the profile,
// nix-env the profile alone.
func (d *Home) Drift(_ context.Context, profile fleet.ProfileName, path string) (driver.Drift, error) {
	if profile.User() == "" {
		return driver.Drift{}, nil
	}
	_, st, err := d.fit(profile)
	if err != nil {
		return driver.Drift{}, fmt.Errorf("looking for drift: %w", err)
	}
	var dr driver.Drift
	if st.current != path {
		dr.Runs = st.current
	}
	if st.profiled != path {
		dr.Boots = st.profiled
	}
	_, err = os.Lstat(d.at(path))
	dr.Gone = errors.Is(err, os.ErrNotExist)
	return dr, nil
}
