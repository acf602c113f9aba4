package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/cameronraysmith/fleet/pkg/ui"
)

const (
	// launchDaemons is where an administrator's daemons are.
	launchDaemons = "/Library/LaunchDaemons"
	// labelPrefix of the daemons' labels.
	labelPrefix = "io.github.cameronraysmith."
	// launchdPause and launchdPatience: launchctl returns before a daemon is up, or
	// gone, and the only way to know is to ask.
	launchdPause    = 200 * time.Millisecond
	launchdPatience = 30 * time.Second
)

// Label is a service's name in launchd.
func Label(service string) string { return labelPrefix + service }

// darwinPrefix of the labels that nix-darwin gives the daemons of its modules.
const darwinPrefix = "org.nixos."

// OfNixDarwin is the Manager of this Mac's launchd for the daemons that come from
// nix-darwin, which has names of its own for them. Only to ask: they come and go with the
// system's configuration.
func OfNixDarwin() Manager {
	return launchd{prefix: darwinPrefix, run: execute, exists: exists, pause: pause}
}

// launchd is the Manager of macOS's launchd.
type launchd struct {
	// prefix of the labels; empty for that of what these programs install.
	prefix string
	run    Runner
	exists func(file string) bool
	pause  func(context.Context, time.Duration) error
}

func (l launchd) File(service string) string { return DaemonList(l.label(service)) }

func (l launchd) label(service string) string {
	if l.prefix != "" {
		return l.prefix + service
	}
	return Label(service)
}

// DaemonList is where the property list of the system's daemon with a label is.
func DaemonList(label string) string { return launchDaemons + "/" + label + ".plist" }

// launchctl is launchd's own program.
func (l launchd) launchctl() Launchctl { return Launchctl{Run: l.run} }

func (l launchd) Load(ctx context.Context, service string) error {
	// A daemon that somebody disabled would not start at boot.
	return l.launchctl().Enable(ctx, l.label(service))
}

func (l launchd) Unload(ctx context.Context, service string) error { return l.stop(ctx, service) }

// Forget does nothing: what is unloaded and has no file is forgotten.
func (launchd) Forget(context.Context, string) error { return nil }

func (l launchd) Control(ctx context.Context, service string, verb Verb) error {
	if !l.exists(l.File(service)) {
		return notInstalled(service)
	}
	switch verb {
	case Stop:
		return l.stop(ctx, service)
	case Restart:
		// kickstart -k would start what was loaded, and not what is in the file now.
		if err := l.stop(ctx, service); err != nil {
			return err
		}
	case Start:
	}
	st, err := l.print(ctx, service)
	switch {
	case err != nil:
		return err
	case st == nil:
		err = l.launchctl().Bootstrap(ctx, l.File(service))
	case st["state"] != "running":
		err = l.launchctl().Kickstart(ctx, l.label(service), false)
	}
	if err != nil {
		return ui.WithHint(fmt.Errorf("%s of %s: %w: %w", verb, service, ErrFailed, err), "look at "+LogFile(service))
	}
	return l.until(ctx, fmt.Sprintf("%s of %s", verb, service), service, func(v map[string]string) bool { return v["state"] == "running" })
}

// LogFile is where launchd puts what a service prints.
func LogFile(service string) string { return "/var/log/" + service + ".log" }

// stop unloads a daemon, because launchd would start again what only ended.
func (l launchd) stop(ctx context.Context, service string) error {
	st, err := l.print(ctx, service)
	if err != nil || st == nil {
		return err
	}
	if err := l.launchctl().Bootout(ctx, l.label(service)); err != nil {
		return fmt.Errorf("stopping %s: %w", service, err)
	}
	return l.until(ctx, "stop of "+service, service, func(v map[string]string) bool { return v == nil })
}

// until asks until a service is as is wants it.
func (l launchd) until(ctx context.Context, what, service string, is func(map[string]string) bool) error {
	for waited := time.Duration(0); ; waited += launchdPause {
		st, err := l.print(ctx, service)
		if err != nil {
			return err
		}
		if is(st) {
			return nil
		}
		if waited >= launchdPatience {
			return ui.WithHint(fmt.Errorf("%s: %w in %s: %s", what, ErrFailed, launchdPatience, describe(st)), "look at "+LogFile(service))
		}
		if err := l.pause(ctx, launchdPause); err != nil {
			return err
		}
	}
}

func describe(v map[string]string) string {
	if v == nil {
		return "launchd does not have it loaded"
	}
	text := "launchd says " + v["state"]
	if code := v["last exit code"]; code != "" {
		text += ", last exit code " + code
	}
	return text
}

// print returns what launchd says of a service; nil where it is not loaded.
func (l launchd) print(ctx context.Context, service string) (map[string]string, error) {
	v, err := l.launchctl().Print(ctx, l.label(service))
	if err != nil {
		return nil, fmt.Errorf("asking launchd about %s: %w", service, err)
	}
	return v, nil
}

func (l launchd) State(ctx context.Context, service string) (State, error) {
	v, err := l.print(ctx, service)
	if err != nil {
		return State{}, err
	}
	st := State{Installed: l.exists(l.File(service))}
	if v == nil {
		return st, nil
	}
	st.Running = v["state"] == "running"
	st.Starting = !st.Running
	st.Boot = st.Installed
	st.PID, _ = strconv.Atoi(v["pid"]) // Not a number is none.
	if code := v["last exit code"]; !st.Running && code != "" && code != "0" && code != "(never exited)" {
		st.Failed, st.Why = true, "it ended with exit code "+code
	}
	return st, nil
}

// exists says whether a file is there.
func exists(file string) bool {
	_, err := os.Lstat(file)
	return !errors.Is(err, os.ErrNotExist)
}

// pause waits, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
