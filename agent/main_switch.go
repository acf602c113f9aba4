package agent

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/cameronraysmith/fleet/agent/internal/deadman"
	"github.com/cameronraysmith/fleet/agent/internal/execute"
)

// deadManCommand is what an agent calls its own program with, to be a dead-man
// switch. Not for people.
const deadManCommand = "dead-man-switch"

// runSwitch is a dead-man switch: the program that it was started from is the one
// that its agent kept, and runs the way back too.
func runSwitch(dir string) int {
	exe, err := os.Executable()
	if err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "fleet dead-man switch: finding its own program: %v\n", err)
		return exitError
	}
	return deadman.Main(dir, []string{exe, runActionCommand})
}

// deadMan is how the agent's switches are run: by a copy of its program, which no
// generation replaces.
func (o *runOptions) deadMan() (DeadMan, error) {
	exe, err := os.Executable()
	if err != nil {
		return DeadMan{}, fmt.Errorf("finding the agent's own program: %w", err)
	}
	dir := filepath.Join(o.stateDir, deadmanDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return DeadMan{}, fmt.Errorf("keeping the agent's own program: %w", err)
	}
	kept, err := deadman.Keep(dir, exe)
	if err != nil {
		return DeadMan{}, err //nolint:wrapcheck // It says what failed.
	}
	d := DeadMan{Command: []string{kept, deadManCommand}, Margin: o.deadManMargin, Unit: execute.OwnUnit()}
	if d.Unit != "" && os.Geteuid() == 0 {
		if run, err := exec.LookPath("systemd-run"); err == nil {
			d.SystemdRun = run
		}
	}
	return d, nil
}
