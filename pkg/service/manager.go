package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Verb is what a service is told.
type Verb string

// The verbs. Start and Restart return when the service is up, or has failed.
const (
	Start   Verb = "start"
	Stop    Verb = "stop"
	Restart Verb = "restart"
)

// Errors of this package.
var (
	// ErrNoManager says that no service manager that is known runs this system.
	ErrNoManager = errors.New("no service manager to use")
	// ErrForeign says that a service of that name is there which none of these
	// programs installed.
	ErrForeign = errors.New("it was not installed by this program")
	// ErrNotRoot says that only root may do that.
	ErrNotRoot = errors.New("only root may do that")
	// ErrOwned says that the system's configuration owns its services.
	ErrOwned = errors.New("this system's services come from its configuration")
	// ErrNotInstalled says that there is no such service.
	ErrNotInstalled = errors.New("it is not installed")
	// ErrFailed says that a service did not come up.
	ErrFailed = errors.New("it did not come up")
)

// State is what the service manager knows of a service.
type State struct {
	// Installed says that it knows one of that name.
	Installed bool
	// Running says that it is up; Starting that it is not yet, or is between a
	// failure and the next attempt.
	Running, Starting bool
	// Failed says that it ended with an error last time, Why how.
	Failed bool
	Why    string
	// Boot says that it starts when the system does.
	Boot bool
	// Text is what the service says of itself.
	Text string
	// PID of its main process; 0 where there is none.
	PID int
}

// Manager is a service manager. All calls but File want root, and end with ctx
// or at the manager's own bounds.
type Manager interface {
	// File is where the definition of a service is.
	File(service string) string
	// Load has the manager read a definition that is new or has changed, and
	// start the service when the system starts.
	Load(ctx context.Context, service string) error
	// Unload stops a service and has it not start any more. The definition may be
	// removed then, which is to be told with Forget.
	Unload(ctx context.Context, service string) error
	Forget(ctx context.Context, service string) error
	// Control tells a service what to do. It wraps ErrNotInstalled and ErrFailed.
	Control(ctx context.Context, service string, verb Verb) error
	// State tells how a service is.
	State(ctx context.Context, service string) (State, error)
}

// Runner runs a program and returns its output. An error has what the program
// wrote to standard error; see exitCode.
type Runner func(ctx context.Context, argv ...string) (string, error)

// ProgramError is a program that ended with another code than 0.
type ProgramError struct {
	Argv []string
	Code int
	// Said is what it wrote to standard error.
	Said string
}

func (e *ProgramError) Error() string {
	text := fmt.Sprintf("%s: exit code %d", strings.Join(e.Argv, " "), e.Code)
	if e.Said != "" {
		text += ": " + e.Said
	}
	return text
}

// exitCode of a program that a Runner ran; -1 where it did not run.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if p, ok := errors.AsType[*ProgramError](err); ok {
		return p.Code
	}
	return -1
}

// execute is the Runner of the real system.
func execute(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		said := strings.TrimSpace(stderr.String())
		if said == "" {
			said = strings.TrimSpace(stdout.String()) // launchctl is not particular.
		}
		err = &ProgramError{Argv: argv, Code: e.ExitCode(), Said: said}
	} else if err != nil {
		err = fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	return stdout.String(), err
}
