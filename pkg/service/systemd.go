package service

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/ui"
)

// systemdUnits is where an administrator's units are.
const systemdUnits = "/etc/systemd/system"

// systemd is the Manager of systemd. It runs systemctl from PATH, whose place differs
// between distributions: these are commands that a person gives, whose own PATH it is. What
// the agent asks of systemd while it works goes over systemd's socket.
type systemd struct {
	run     Runner
	control func(service string, verb Verb) error
}

func (systemd) File(service string) string { return systemdUnits + "/" + unit(service) }

func unit(service string) string { return service + ".service" }

func (s systemd) Load(ctx context.Context, service string) error {
	// enable reads all units again as well; saying it makes this no matter of luck.
	if _, err := s.run(ctx, "systemctl", "daemon-reload"); err != nil {
		return err
	}
	_, err := s.run(ctx, "systemctl", "enable", "--quiet", unit(service))
	return err
}

func (s systemd) Unload(ctx context.Context, service string) error {
	_, err := s.run(ctx, "systemctl", "disable", "--quiet", "--now", unit(service))
	return err
}

func (s systemd) Forget(ctx context.Context, service string) error {
	if _, err := s.run(ctx, "systemctl", "daemon-reload"); err != nil {
		return err
	}
	// One that failed would stay in lists of what has; one that did not is none.
	_, _ = s.run(ctx, "systemctl", "reset-failed", "--quiet", unit(service))
	return nil
}

func (s systemd) Control(ctx context.Context, service string, verb Verb) error {
	st, err := s.State(ctx, service)
	if err != nil {
		return err
	}
	if !st.Installed {
		return notInstalled(service)
	}
	if err := s.control(service, verb); err != nil {
		// What the library says is the exit code: the unit knows why.
		why := err.Error()
		if st, serr := s.State(ctx, service); serr == nil && st.Why != "" {
			why = st.Why
		}
		return ui.WithHint(fmt.Errorf("%s of %s: %w: %s", verb, service, ErrFailed, why),
			logCommand(service))
	}
	return nil
}

// properties that State asks for.
const properties = "LoadState,ActiveState,SubState,Result,ExecMainStatus,MainPID,StatusText,UnitFileState"

func (s systemd) State(ctx context.Context, service string) (State, error) {
	out, err := s.run(ctx, "systemctl", "show", "--property="+properties, unit(service))
	if err != nil {
		return State{}, fmt.Errorf("asking systemd about %s: %w", service, err)
	}
	return parseShow(out), nil
}

// parseShow reads what "systemctl show" prints.
func parseShow(out string) State {
	v := map[string]string{}
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "="); ok {
			v[name] = value
		}
	}
	st := State{
		Installed: v["LoadState"] != "" && v["LoadState"] != "not-found",
		Running:   v["ActiveState"] == "active" || v["ActiveState"] == "reloading",
		Starting:  v["ActiveState"] == "activating",
		Failed:    v["ActiveState"] == "failed" || v["SubState"] == "auto-restart",
		Boot:      v["UnitFileState"] == "enabled" || v["UnitFileState"] == "enabled-runtime",
		Text:      v["StatusText"],
	}
	st.PID, _ = strconv.Atoi(v["MainPID"]) // Not a number is none.
	if st.Failed {
		st.Why = howItEnded(v["Result"], v["ExecMainStatus"])
	}
	return st
}

// howItEnded says what a unit's Result means.
func howItEnded(result, status string) string {
	switch result {
	case "", "success":
		return ""
	case "exit-code":
		return "it ended with exit code " + status
	case "signal", "core-dump":
		return "it was ended by signal " + status
	case "watchdog":
		return "it got stuck, and its watchdog ended it"
	case "timeout":
		return "it was not up, or not down, in time"
	case "oom-kill":
		return "the system ran out of memory, and ended it"
	}
	return result
}

func notInstalled(service string) error {
	return ui.WithHint(fmt.Errorf("%s: %w", service, ErrNotInstalled), "install it with: "+service+" install")
}
