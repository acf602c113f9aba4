package driver

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Limits on actions.
const (
	MaxSteps       = 64
	MaxArgs        = 256
	MaxEnv         = 256
	MaxOKCodes     = 16
	MaxStringBytes = 32 << 10
	// MaxActionBytes bounds all strings of one action together.
	MaxActionBytes = 256 << 10
	// MaxDeadline bounds an action's deadline.
	MaxDeadline = 24 * time.Hour
)

// ErrAction is wrapped by every error about a malformed action.
var ErrAction = errors.New("malformed action")

// Activation says, as data, how to move between two built paths. It goes into
// the agent's journal as JSON; no driver code runs while a host is changing.
type Activation struct {
	// Activate moves to the new path.
	Activate Action `json:"activate"`
	// Commit runs once after the new state is verified.
	Commit Action `json:"commit"`
	// Rollback goes back from wherever Activate ended. It MUST work whatever
	// part of Activate was carried out, and more than once.
	Rollback Action `json:"rollback"`
}

// Validate checks the three actions.
func (a Activation) Validate() error {
	for _, part := range []struct {
		name   string
		action Action
	}{{"activate", a.Activate}, {"commit", a.Commit}, {"rollback", a.Rollback}} {
		if err := part.action.Validate(); err != nil {
			return fmt.Errorf("checking %s: %w", part.name, err)
		}
	}
	return nil
}

// Action is a list of steps, carried out in order until one fails. The zero
// Action does nothing.
type Action struct {
	Steps []Step `json:"steps,omitempty"`
	// Deadline bounds all steps together, in nanoseconds of time awake.
	Deadline time.Duration `json:"deadline,omitempty"`
}

// IsZero says whether there is nothing to do.
func (a Action) IsZero() bool { return len(a.Steps) == 0 }

// Validate checks that the action can be carried out: bounded counts, absolute
// paths and, where there are steps, a positive deadline.
func (a Action) Validate() error {
	if a.Deadline < 0 || a.Deadline > MaxDeadline || (a.Deadline == 0 && len(a.Steps) > 0) {
		return fmt.Errorf("%w: deadline %s: want more than 0 and at most %s", ErrAction, a.Deadline, MaxDeadline)
	}
	if len(a.Steps) > MaxSteps {
		return fmt.Errorf("%w: %d steps, at most %d are allowed", ErrAction, len(a.Steps), MaxSteps)
	}
	size := 0
	for i, s := range a.Steps {
		if err := s.Validate(); err != nil {
			return fmt.Errorf("checking step %d: %w", i+1, err)
		}
		size += s.size()
	}
	if size > MaxActionBytes {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrAction, size, MaxActionBytes)
	}
	return nil
}

// Step is one effect: exactly one field is set.
type Step struct {
	Exec *Exec `json:"exec,omitempty"`
	Link *Link `json:"link,omitempty"`
}

// Validate checks the step.
func (s Step) Validate() error {
	switch {
	case s.Exec != nil && s.Link != nil:
		return fmt.Errorf("%w: a step has both a program and a link", ErrAction)
	case s.Exec != nil:
		return s.Exec.Validate()
	case s.Link != nil:
		return s.Link.Validate()
	}
	return fmt.Errorf("%w: a step has neither a program nor a link", ErrAction)
}

func (s Step) size() int {
	n := 0
	if e := s.Exec; e != nil {
		n += len(e.User) + len(e.Dir)
		for _, v := range slices.Concat(e.Argv, e.Env) {
			n += len(v)
		}
	}
	if l := s.Link; l != nil {
		n += len(l.Path) + len(l.Target)
	}
	return n
}

// Exec runs a program.
type Exec struct {
	// Argv is the program (an absolute path) and its arguments.
	Argv []string `json:"argv"`
	// Env is the whole environment, NAME=VALUE.
	Env []string `json:"env,omitempty"`
	// User to run as; empty for the agent's own.
	User string `json:"user,omitempty"`
	// Dir is the working directory (an absolute path); empty for "/".
	Dir string `json:"dir,omitempty"`
	// OKCodes are exit codes that count as success besides 0.
	OKCodes []int `json:"ok_codes,omitempty"`
}

// Validate checks the program.
func (e Exec) Validate() error {
	if len(e.Argv) == 0 {
		return fmt.Errorf("%w: no program", ErrAction)
	}
	if err := checkPath("program", e.Argv[0]); err != nil {
		return err
	}
	if e.Dir != "" {
		if err := checkPath("directory", e.Dir); err != nil {
			return err
		}
	}
	if len(e.Argv) > MaxArgs || len(e.Env) > MaxEnv || len(e.OKCodes) > MaxOKCodes {
		return fmt.Errorf("%w: %s: at most %d arguments, %d variables and %d exit codes are allowed",
			ErrAction, e.Argv[0], MaxArgs, MaxEnv, MaxOKCodes)
	}
	for _, v := range slices.Concat(e.Argv, e.Env, []string{e.User}) {
		if strings.ContainsRune(v, 0) || len(v) > MaxStringBytes {
			return fmt.Errorf("%w: %s: an argument or variable holds a NUL or is longer than %d bytes",
				ErrAction, e.Argv[0], MaxStringBytes)
		}
	}
	for _, v := range e.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return fmt.Errorf("%w: %s: a variable isn't NAME=VALUE", ErrAction, e.Argv[0])
		}
	}
	for _, c := range e.OKCodes {
		if c < 0 || c > 255 {
			return fmt.Errorf("%w: %s: exit code %d: want 0 to 255", ErrAction, e.Argv[0], c)
		}
	}
	return nil
}

// Link points a symbolic link at a target, by rename.
type Link struct {
	// Path of the link, absolute.
	Path string `json:"path"`
	// Target, absolute; empty removes the link.
	Target string `json:"target"`
}

// Validate checks the link.
func (l Link) Validate() error {
	if err := checkPath("link", l.Path); err != nil {
		return err
	}
	if l.Target == "" {
		return nil
	}
	return checkPath("link target", l.Target)
}

// checkPath wants an absolute, clean, bounded path.
func checkPath(what, p string) error {
	const most = 4096
	switch {
	case len(p) > most:
		return fmt.Errorf("%w: %s is longer than %d bytes", ErrAction, what, most)
	case strings.ContainsRune(p, 0):
		return fmt.Errorf("%w: %s %q holds a NUL", ErrAction, what, p)
	case !filepath.IsAbs(p) || filepath.Clean(p) != p:
		return fmt.Errorf("%w: %s %q: want an absolute path without \".\" or \"..\" in it", ErrAction, what, p)
	}
	return nil
}
