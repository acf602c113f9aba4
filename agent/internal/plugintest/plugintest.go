// Package plugintest makes a test binary behave as a plugin, a good one or one
// that breaks the contract in one way. A test's TestMain calls Main where
// IsPlugin says so; the behaviour is chosen by the plugin's name.
package plugintest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/plugin"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	sdk "github.com/cameronraysmith/fleet/pkg/plugin"
	"github.com/cameronraysmith/fleet/pkg/plugin/handshake"
	"github.com/cameronraysmith/fleet/pkg/probe"
)

// Behaviours of driver plugins.
const (
	// Good keeps the source's config as a file and points a link at it.
	Good = "good"
	// Crash ends in the middle of a build, Hang never ends one.
	Crash = "crash"
	Hang  = "hang"
	// FloodProgress and FloodOutput say far too much, FloodAnswer answers it.
	FloodProgress = "flood-progress"
	FloodOutput   = "flood-output"
	FloodAnswer   = "flood-answer"
	// Endless makes progress for ever.
	Endless = "endless"
	// LiePath builds a relative path, LieAction activates a relative program.
	LiePath   = "lie-path"
	LieAction = "lie-action"
	// Orphan leaves a child behind that holds on to its output, and hangs.
	Orphan = "orphan"
)

// Behaviours of plugins that don't get as far as a call.
const (
	Rubbish     = "rubbish"
	Silent      = "silent"
	Gone        = "gone"
	NewContract = "new-contract"
	NewLibrary  = "new-library"
	Elsewhere   = "elsewhere"
	Plain       = "plain" // no certificate
)

// Behaviours of probe plugins.
const (
	// ProbeSays gives the verdict in its config.
	ProbeSays = "says"
	// ProbeCrash ends, ProbeHang doesn't answer, ProbeMute gives no verdict.
	ProbeCrash = "probe-crash"
	ProbeHang  = "probe-hang"
	ProbeMute  = "probe-mute"
)

// IsPlugin says whether this process was started as a plugin.
func IsPlugin() bool { return os.Getenv(handshake.CookieKey) == handshake.CookieValue }

// Main is a plugin's main.
func Main(name string) {
	socket := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "s")
	say := func(line string) {
		_, _ = fmt.Fprintln(os.Stdout, line)
		select {}
	}
	// A runtime in which nothing can happen any more would end by itself.
	time.AfterFunc(time.Hour, func() {})
	switch name {
	case Rubbish:
		say("Hello, \x1b[31mworld")
	case Silent:
		select {}
	case Gone:
		return
	case NewContract:
		say(fmt.Sprintf("%d|%d|unix|%s|grpc|x", handshake.CoreVersion, handshake.Version+1, socket))
	case NewLibrary:
		say(fmt.Sprintf("%d|%d|unix|%s|grpc|x", handshake.CoreVersion+1, handshake.Version, socket))
	case Elsewhere:
		say(fmt.Sprintf("%d|%d|unix|/run/docker.sock|grpc|x", handshake.CoreVersion, handshake.Version))
	case Plain:
		say(fmt.Sprintf("%d|%d|unix|%s|grpc|", handshake.CoreVersion, handshake.Version, socket))
	case ProbeSays, ProbeCrash, ProbeHang, ProbeMute:
		sdk.ServeProbe(prober(name))
	default:
		sdk.ServeDriver(&worker{name: name, dir: sdk.StateDir()})
	}
}

type prober string

func (p prober) Check(_ context.Context, req probe.Request) (probe.Result, error) {
	switch string(p) {
	case ProbeCrash:
		os.Exit(7) //nolint:forbidigo // A plugin that ends.
	case ProbeHang:
		select {}
	case ProbeMute:
		return probe.Result{Detail: "no word"}, nil
	}
	var c struct {
		Verdict fleet.Verdict
		Error   string
	}
	if err := sdk.Config(req.Config, &c); err != nil {
		return probe.Result{}, err
	}
	if c.Error != "" {
		return probe.Result{}, errors.New(c.Error)
	}
	return probe.Result{Verdict: c.Verdict, Detail: "looked at " + filepath.Base(req.Path)}, nil
}

// worker keeps a file per source in dir/built and points dir/<profile> at it.
type worker struct{ name, dir string }

func (w *worker) link(p fleet.ProfileName) string { return filepath.Join(w.dir, p.FileName()) }

func (w *worker) Current(_ context.Context, p fleet.ProfileName) (string, error) {
	to, err := os.Readlink(w.link(p))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return to, err //nolint:wrapcheck // It names the file.
}

func (w *worker) Build(_ context.Context, req driver.BuildRequest, progress func(driver.Progress)) (string, error) {
	switch w.name {
	case Crash:
		_, _ = fmt.Fprintln(os.Stderr, "about to \x1b[31mcrash")
		os.Exit(3) //nolint:forbidigo // A plugin that ends.
	case Hang:
		select {}
	case Orphan:
		child := exec.Command("/bin/sh", "-c", "sleep 3600") //nolint:noctx // Left behind on purpose.
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			return "", err //nolint:wrapcheck // It says what failed.
		}
		select {}
	case FloodProgress:
		for {
			progress(driver.Progress{Message: strings.Repeat("x", 1000)})
		}
	case Endless:
		for range time.Tick(10 * time.Millisecond) {
			progress(driver.Progress{Message: "nearly there"})
		}
	case LiePath:
		return "relative/path", nil
	case FloodOutput:
		for range 4000 {
			_, _ = fmt.Fprintln(os.Stderr, strings.Repeat("x", 2000))
			_, _ = fmt.Fprintln(os.Stdout, strings.Repeat("y", 2000))
		}
	}
	if req.Source.External == nil {
		return "", fmt.Errorf("%w: nothing external", driver.ErrSource)
	}
	config := string(req.Source.External.Config)
	path := filepath.Join(w.dir, "built-"+fleet.DigestOf([]byte(config)).Hex()[:12])
	return path, atomicfile.WriteFile(path, []byte(config), 0o600)
}

func (w *worker) Diff(context.Context, fleet.ProfileName, string, string) ([]string, error) {
	return nil, nil
}

func (w *worker) Activation(_ context.Context, p fleet.ProfileName, from, to string) (driver.Activation, error) {
	link := func(to string) driver.Action {
		return driver.Action{Deadline: time.Minute, Steps: []driver.Step{{Link: &driver.Link{Path: w.link(p), Target: to}}}}
	}
	a := driver.Activation{Activate: link(to), Rollback: link(from)}
	switch w.name {
	case LieAction:
		a.Activate.Steps = append(a.Activate.Steps, driver.Step{Exec: &driver.Exec{Argv: []string{"rm"}}})
	case FloodAnswer:
		for range 200 {
			a.Activate.Steps = append(a.Activate.Steps, driver.Step{Exec: &driver.Exec{Argv: []string{strings.Repeat("x", 30<<10)}}})
		}
	}
	return a, nil
}

// Prune removes what is not to be kept.
func (w *worker) Prune(_ context.Context, keep []string) (removed []string, err error) {
	all, err := filepath.Glob(filepath.Join(w.dir, "built-*"))
	if err != nil {
		return nil, err //nolint:wrapcheck // It says what failed.
	}
	kept := "\n" + strings.Join(keep, "\n") + "\n"
	for _, path := range all {
		if !strings.Contains(kept, "\n"+path+"\n") {
			removed = append(removed, path)
			err = errors.Join(err, os.Remove(path))
		}
	}
	return removed, err
}

// Pin pins an executable, as a test's own binary is, under a name.
func Pin(name string, kind fleet.PluginKind, executable []byte) fleet.Plugin {
	return fleet.Plugin{
		Name: fleet.PluginName(name), Kind: kind, Executables: []fleet.PluginExecutable{{
			System: plugin.System, Digest: fleet.DigestOf(executable), Size: uint64(len(executable)),
		}},
	}
}

// Self reads the running test binary.
func Self(t testing.TB) []byte {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Source is what the good driver builds.
func Source(driverName, text string) fleet.Source {
	config, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		config = nil // Two strings can't fail.
	}
	return fleet.Source{Driver: driverName, External: &fleet.ExternalSource{Config: config}}
}
