package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Limits on actions.
const (
	MaxSteps     = 64
	MaxArgs      = 256
	MaxEnv       = 256
	MaxSyncPaths = 16
	// MaxCodes bounds each list of exit codes.
	MaxCodes = 16
	// MaxParts bounds the parts of a program's work that a host can be without.
	MaxParts = 8
	// MaxStringBytes bounds one argument, variable or text.
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
	Sync *Sync `json:"sync,omitempty"`
	// BootOnce is about the next boot. Only built-in drivers have it: it is not in the
	// contract of plugins.
	BootOnce *BootOnce `json:"boot_once,omitempty"`
}

// Validate checks the step.
func (s Step) Validate() error {
	kinds := 0
	for _, set := range []bool{s.Exec != nil, s.Link != nil, s.Sync != nil, s.BootOnce != nil} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return fmt.Errorf("%w: a step has %d kinds of effects: want a program, a link, a sync or a boot", ErrAction, kinds)
	case s.Exec != nil:
		return s.Exec.Validate()
	case s.Link != nil:
		return s.Link.Validate()
	case s.BootOnce != nil:
		return s.BootOnce.Validate()
	}
	return s.Sync.Validate()
}

func (s Step) size() int {
	n := 0
	if e := s.Exec; e != nil {
		n += e.size()
	}
	if l := s.Link; l != nil {
		n += len(l.Path) + len(l.Target)
	}
	if b := s.BootOnce; b != nil {
		n += len(b.Loader) + len(b.Program) + len(b.Entries) + len(b.Stays) + len(b.Init)
	}
	if s.Sync != nil {
		for _, p := range s.Sync.Paths {
			n += len(p)
		}
	}
	return n
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

// Sync makes everything that was written to file systems durable (syncfs).
type Sync struct {
	// Paths, absolute: one on each of the file systems. What is on one file system
	// is synced once.
	Paths []string `json:"paths"`
}

// InstallPlaces are paths on the file systems that the programs of an activation
// install to, for a Sync behind them: those of the system that are here.
func InstallPlaces() []string {
	return slices.DeleteFunc([]string{"/", "/etc", "/var"}, func(path string) bool {
		_, err := os.Stat(path)
		return err != nil
	})
}

// Validate checks the paths.
func (s Sync) Validate() error {
	if len(s.Paths) == 0 || len(s.Paths) > MaxSyncPaths {
		return fmt.Errorf("%w: a sync of %d paths: want 1 to %d", ErrAction, len(s.Paths), MaxSyncPaths)
	}
	for _, p := range s.Paths {
		if err := checkPath("path to sync", p); err != nil {
			return err
		}
	}
	return nil
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
