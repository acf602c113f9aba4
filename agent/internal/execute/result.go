package execute

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Names in a run's directory.
const (
	fileAction  = "action.json"
	fileLock    = "lock"
	fileStarted = "started"
	fileLog     = "log"
	fileResult  = "result.json"
)

// Bounds.
const (
	// MaxLogBytes bounds the log of one run.
	MaxLogBytes = 4 << 20
	// maxFileBytes bounds action.json (driver.MaxActionBytes, escaped at worst)
	// and the rest.
	maxFileBytes = 4 << 20
	// maxDegraded bounds how often the rest of a program is done in its place.
	maxDegraded = 4
	// killGrace is how long a process group has between SIGTERM and SIGKILL.
	killGrace = 5 * time.Second
	// finishWithin bounds how long a shutdown waits for what is to come to its end: a
	// boot loader takes seconds, on slow disks many. stopWithin is how long systemd
	// waits for a runner; it has to end its program within what is left.
	finishWithin, stopWithin = 90 * time.Second, 2 * time.Minute
)

// Errors of this package.
var (
	// ErrAbsent: there is no such run, or it never began.
	ErrAbsent = errors.New("no such run")
	// ErrExists: a run of that id began before.
	ErrExists = errors.New("the run began before")
	// ErrID: not usable as a file name.
	ErrID = errors.New("malformed run id")
)

// Outcome says how a run ended.
type Outcome string

// The outcomes.
const (
	// OutcomeOK: every step ended well.
	OutcomeOK Outcome = "ok"
	// OutcomeExit: a program ended with a bad exit code or by a signal.
	OutcomeExit Outcome = "exit"
	// OutcomeHung: the deadline passed; the program was killed.
	OutcomeHung Outcome = "hung"
	// OutcomeBusy: something else held a lock until the deadline; the step did
	// nothing.
	OutcomeBusy Outcome = "busy"
	// OutcomeError: a step couldn't be carried out.
	OutcomeError Outcome = "error"
	// OutcomeStopped: the runner was told to stop, or its program failed because the
	// host is shut down; how much was done is unknown.
	OutcomeStopped Outcome = "stopped"
	// OutcomeLost: the runner died without a result; how much was done is
	// unknown. Never written to a file.
	OutcomeLost Outcome = "lost"
)

// Result is how a run ended.
type Result struct {
	Outcome Outcome `json:"outcome"`
	// Step is the index, from 0, of the step that it ended in; the number of
	// steps when all ended well.
	Step int `json:"step"`
	// ExitCode of a program that ended badly; -1 where a signal ended it.
	ExitCode int `json:"exit_code,omitempty"`
	// Message is for people; empty when all went well.
	Message string `json:"message,omitempty"`
	// Degraded names, for people, what failed of a run that ended well: parts that a host
	// can be without.
	Degraded string    `json:"degraded,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
}

// Phase is where a run is.
type Phase string

// The phases of a run.
const (
	// PhaseAbsent: never began; it may be started.
	PhaseAbsent Phase = "absent"
	// PhaseRunning: its runner lives.
	PhaseRunning Phase = "running"
	// PhaseDone: there is a result.
	PhaseDone Phase = "done"
	// PhaseLost: it began, and its runner died without a result.
	PhaseLost Phase = "lost"
)

// Status is where a run is; Result counts only when it is done.
type Status struct {
	Phase  Phase
	Result Result
}

// request is action.json.
type request struct {
	ID     string        `json:"id"`
	Action driver.Action `json:"action"`
	// Env comes before the environment of each program, which wins.
	Env []string `json:"env,omitempty"`
	// Finish says that what began comes to its end although the runner is told to stop.
	Finish bool `json:"finish,omitempty"`
	// Unit is the agent's own service; empty for the one that the runner is in.
	Unit string `json:"unit,omitempty"`
}

// started is written before the first step.
type started struct {
	// PID of the runner, which is also its session's id.
	PID    int       `json:"pid"`
	BootID string    `json:"boot_id,omitempty"`
	Time   time.Time `json:"time"`
}

func checkID(id string) error {
	if !fleet.IsFileName(id) {
		return fmt.Errorf("%w: %q: use letters, digits, dots, dashes and underscores, at most 127", ErrID, id)
	}
	return nil
}

func writeAction(dir string, req request) error {
	data, err := encode(fileAction, req)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, fileAction), data, 0o600)
}

func writeJSON(dir, name string, v any) error {
	data, err := encode(name, v)
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(filepath.Join(dir, name), data, 0o600)
}

func encode(name string, v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", name, err)
	}
	return append(data, '\n'), nil
}

func readJSON(dir, name string, v any) error {
	f, err := os.Open(filepath.Join(dir, name)) //nolint:gosec // Below the agent's own state directory.
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	switch {
	case err != nil:
		return fmt.Errorf("reading %s: %w", f.Name(), err)
	case len(data) > maxFileBytes:
		return fmt.Errorf("reading %s: larger than %d bytes", f.Name(), maxFileBytes)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	return nil
}
