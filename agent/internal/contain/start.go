package contain

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
	"time"
)

// ErrNoUnit says that systemd runs this host and gave no unit to a user's program, which
// was not started then: were it started without one, whoever keeps systemd busy could
// have it so. That passes; the caller tries again.
var ErrNoUnit = errors.New("there is no unit for the user's program on this host just now")

// Start starts a command in a process group of its own, and one with the credential of
// another user as that user, in the directory that it names, in a unit where this host
// has units. The unit's name begins with name, which MUST be one of fleet.IsFileName; it
// ends after runs, 0 for never, should nobody end it. Errors: ErrNoUnit, or that the
// program can't be started.
//
// The unit is nil where the command has none; whoever gets one calls Kill, or Leave.
func Start(ctx context.Context, cmd *exec.Cmd, name string, runs time.Duration) (*Unit, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would hand over this process's own
	}
	cred := cmd.SysProcAttr.Credential
	if cred == nil {
		return nil, cmd.Start() //nolint:wrapcheck // It says what failed.
	}
	throughShell(cmd)
	if Without() != "" {
		return nil, cmd.Start() //nolint:wrapcheck // As above.
	}
	return startIn(ctx, cmd, cred.Uid, name, runs)
}
