package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"github.com/cameronraysmith/fleet/agent/internal/deadman"
	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/handover"
	"github.com/cameronraysmith/fleet/agent/internal/systemd"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/service"
)

// deadManCommand is what an agent calls its own program with, to be a dead-man
// switch. Not for people.
const deadManCommand = "dead-man-switch"

// deadMenCommand is what the unit that starts with the system calls the program with
// that the agent kept, to be all switches that were not done before. Not for people.
const deadMenCommand = "dead-man-switches"

// runSwitch is a dead-man switch, or all of a host's: the program that it was started
// from is the one that the agent kept, and runs the way back too.
func runSwitch(dir string, main func(dir string, runner []string) int) int {
	exe, err := os.Executable()
	if err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "fleet dead-man switch: finding its own program: %v\n", err)
		return exitError
	}
	return main(dir, []string{exe, runActionCommand})
}

// deadMan is how the agent's switches are run: by a copy of its program, which no
// generation replaces.
func (o *runOptions) deadMan(log *slog.Logger, unit string) (DeadMan, error) {
	exe, err := os.Executable()
	if err != nil {
		return DeadMan{}, fmt.Errorf("finding the agent's own program: %w", err)
	}
	dir := filepath.Join(o.stateDir, deadmanDir)
	err = os.MkdirAll(dir, 0o700)
	kept := ""
	if err == nil {
		kept, err = deadman.Keep(dir, exe)
	}
	if err != nil {
		// A full disk must not keep an agent from starting, which says so.
		log.Error("there is no copy of this program for the dead-man switch: the program itself is used", "error", err)
		kept = exe
	}
	renew := func() error {
		_, err := deadman.Keep(dir, exe)
		return err //nolint:wrapcheck // It says what failed.
	}
	d := DeadMan{
		Command: []string{kept, deadManCommand}, Renew: renew, Margin: o.deadManMargin, Unit: unit,
		// Also in the midst of another service: what goes with that must not end them.
		Systemd: systemd.OwnUnit() != "" && os.Geteuid() == 0,
	}
	if runtime.GOOS == "darwin" && os.Geteuid() == 0 {
		d.Launchd, d.Unit = &service.Launchctl{}, ownJob(os.Getppid(), o.getenv)
	}
	return d, nil
}

// ownJob is the label of launchd's job that this process is; empty where it is none.
// launchd says it in the environment, which what a job starts inherits.
func ownJob(parent int, getenv func(string) string) string {
	label := getenv("XPC_SERVICE_NAME")
	if parent != 1 || !fleet.IsFileName(label) || label == "0" {
		return ""
	}
	return label
}

// rebooter is how the host is rebooted; nil where that is nothing for this agent.
func rebooter(d DeadMan) func(context.Context) error {
	if !d.Systemd {
		return nil
	}
	return func(ctx context.Context) error {
		return systemd.Address("").Ask(ctx, func(ctx context.Context, c *systemd.Conn) error { return c.Reboot(ctx) }) //nolint:wrapcheck // It says what failed.
	}
}

// hostUnits are the units that tell what a boot broke; nil where there are none.
func hostUnits(d DeadMan) Units {
	if !d.Systemd {
		return nil
	}
	return execute.HostUnits{Own: []string{d.Unit}}
}

// stopping is who says whether the host is being shut down; nil where nobody can.
func stopping(d DeadMan) func(context.Context) bool {
	if !d.Systemd {
		return nil
	}
	return systemd.Address("").Stopping
}

// ownService is the service that this process is the main one of, and its unit. One
// that somebody started in the midst of another service is not to be taken for that.
func ownService(ctx context.Context, log *slog.Logger) (unit string, s *handover.Service) {
	if unit = systemd.OwnUnit(); unit == "" || os.Geteuid() != 0 {
		return unit, nil
	}
	s, err := handover.Open(ctx, "", unit, handover.Process{PID: os.Getpid(), Argv: os.Args, Executable: "/proc/self/exe"})
	if errors.Is(err, handover.ErrNotMain) {
		log.Info("this is no service of its own: no other agent is handed over to", "why", err)
		return "", nil
	}
	if err != nil {
		log.Warn("what this service is can't be told yet", "error", err)
	}
	return unit, s
}
