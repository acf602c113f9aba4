//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// facts are what the agent's host really is, as its files say.
type facts struct {
	// Current and Booted are what /run/current-system and booted-system lead to.
	Current, Booted string
	// Profile is what the system profile leads to.
	Profile string
	// BootDefault is the system of the default boot entry.
	BootDefault string
	// Web is the version that the web service wrote when it started, and Active
	// whether it runs.
	Web, Active string
	// Failed are failed units.
	Failed []string
	// Switches are lines "action toplevel" of all runs of
	// switch-to-configuration, the oldest first.
	Switches []string
}

func (w *world) facts(ctx context.Context) (facts, error) {
	out, err := w.web.Shell(ctx, `
say() { printf '%s=%s\n' "$1" "$2"; }
say current "$(readlink -f /run/current-system)"
say booted "$(readlink -f /run/booted-system)"
say profile "$(readlink -f /nix/var/nix/profiles/system)"
say boot "$(cat /boot/loader/default 2>/dev/null || true)"
say web "$(cat /run/lab-web 2>/dev/null || true)"
say active "$(systemctl is-active lab-web || true)"
systemctl list-units --failed --plain --no-legend | sed 's/^/failed=/;s/ .*//'
[ ! -e /var/log/lab-switches ] || sed 's/^[0-9]* /switch=/' /var/log/lab-switches`)
	if err != nil {
		return facts{}, err
	}
	var f facts
	for _, line := range lines(out) {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "current":
			f.Current = value
		case "booted":
			f.Booted = value
		case "profile":
			f.Profile = value
		case "boot":
			f.BootDefault = value
		case "web":
			f.Web = value
		case "active":
			f.Active = value
		case "failed":
			f.Failed = append(f.Failed, value)
		case "switch":
			f.Switches = append(f.Switches, value)
		}
	}
	return f, nil
}

// activations are the runs that changed what runs, of one system.
func (f facts) activations(s system) int {
	n := 0
	for _, line := range f.Switches {
		if action, path, _ := strings.Cut(line, " "); path == s.toplevel && (action == "switch" || action == "test") {
			n++
		}
	}
	return n
}

// runs checks that a system runs, that it is what boots next, and that its
// service is the one that runs.
func (f facts) runs(s system) error {
	var errs []error
	same := func(what, got, want string) {
		if got != want {
			errs = append(errs, fmt.Errorf("%s is %q, want %q", what, got, want))
		}
	}
	same("/run/current-system", f.Current, s.toplevel)
	same("the system profile", f.Profile, s.toplevel)
	same("the default boot entry", f.BootDefault, s.toplevel)
	same("the running service's version", f.Web, s.version)
	same("the service's state", f.Active, "active")
	return errors.Join(errs...)
}

// saw says whether a run of switch-to-configuration ended so.
func (f facts) saw(s system, action string, code int) bool {
	return slices.Contains(f.Switches, fmt.Sprintf("done-%s-%d %s", action, code, s.toplevel))
}

// began says whether a run of switch-to-configuration began.
func (f facts) began(s system, action string) bool {
	return slices.Contains(f.Switches, action+" "+s.toplevel)
}
