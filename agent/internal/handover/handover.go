// Package handover tells an agent whether the service that it is the process of would
// be started as another one by now, or not at all, and has the other one started. A new
// agent arrives as any other change, and NixOS's switch restarts no agent: without this
// a host would go on with the old one until it boots, when nothing watches any more.
package handover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/cameronraysmith/fleet/agent/internal/systemd"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// ErrNotMain says that the process is not the main one of that service.
var ErrNotMain = errors.New("not the main process of the service")

// errStillGone says that what would be started is not there, now that systemd has read it.
var errStillGone = errors.New("no agent would be started")

// maxFileBytes bounds a unit's file.
const maxFileBytes = 1 << 20

// Process is the one that asks.
type Process struct {
	PID int
	// Argv is what it was started with, and Executable the file of its program, also
	// where that was replaced since: /proc/self/exe.
	Argv       []string
	Executable string
}

// Service is a service of systemd, and what it was when its agent began. Safe for
// concurrent use.
type Service struct {
	unit    string
	manager systemd.Address
	process Process

	mu    sync.Mutex
	began *state // nil while that is not known
	// direct says that systemd started this very program, and no other one that did.
	direct bool
}

// state is what a service would be started as.
type state struct {
	definition systemd.Definition
	files      []file
	program    os.FileInfo // nil where there is none
}

// file of a unit.
type file struct {
	path   string
	digest fleet.Digest
}

// Open looks at the service that a process is to be the main process of. With an error
// that does not wrap ErrNotMain, Look finds out later what the service was.
func Open(ctx context.Context, manager systemd.Address, unit string, p Process) (*Service, error) {
	s := &Service{unit: unit, manager: manager, process: p}
	_, err := s.Look(ctx, false)
	return s, err
}

// define asks systemd, and reads what its answer names.
func (s *Service) define(ctx context.Context) (state, error) {
	var st state
	err := s.manager.Ask(ctx, func(ctx context.Context, c *systemd.Conn) (err error) {
		st, err = s.defineBy(ctx, c)
		return err
	})
	return st, err //nolint:wrapcheck // It says what failed.
}

// defineBy is define over a connection. What is not there is no error: it is left out.
func (s *Service) defineBy(ctx context.Context, c *systemd.Conn) (state, error) {
	d, err := c.Define(ctx, s.unit)
	if err != nil {
		return state{}, err //nolint:wrapcheck // It says what failed.
	}
	st := state{definition: d}
	for _, path := range d.Files {
		text, err := atomicfile.ReadAtMost(path, maxFileBytes)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return state{}, fmt.Errorf("looking at %s: %w", s.unit, err)
		}
		st.files = append(st.files, file{path, fleet.DigestOf(text)})
	}
	if d.Program() == "" {
		return st, nil
	}
	info, err := os.Stat(d.Program())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return state{}, fmt.Errorf("looking at %s: %w", s.unit, err)
	}
	if err == nil {
		st.program = info
	}
	return st, nil
}

// Standing is what would be started as the service.
type Standing struct {
	// Gone is why no agent would be; empty where one would.
	Gone string
	// Other is in what another agent would differ from the one that runs; empty where
	// it is the same.
	Other string
	// Starts says that it starts with the system.
	Starts bool
	// Stale says that systemd has not read yet what is there.
	Stale bool
}

// Look compares what would be started now with what runs; starts has it start with the
// system, too. An error wraps ErrNotMain, or is systemd's or of a file that can't be
// read, and says nothing about the service then.
func (s *Service) Look(ctx context.Context, starts bool) (Standing, error) {
	now, err := s.define(ctx)
	if err != nil {
		return Standing{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.began == nil {
		if d := now.definition; int64(d.MainPID) != int64(s.process.PID) {
			return Standing{}, fmt.Errorf("looking at %s: %w, process %d is", s.unit, ErrNotMain, d.MainPID)
		}
		s.began = &now
		if s.direct = now.program != nil && slices.Equal(now.definition.Argv, s.process.Argv); s.direct {
			s.direct, err = s.executes(now.definition.Program(), now.program)
		}
		if err != nil {
			return Standing{}, err
		}
	}
	st := Standing{Starts: now.starts(), Stale: now.definition.Stale, Gone: s.gone(now, starts)}
	if st.Gone == "" {
		st.Other, err = s.other(now)
	}
	return st, err
}

// gone says why a service in that state would not be started.
func (s *Service) gone(now state, starts bool) string {
	d := now.definition
	switch {
	case d.Load != "loaded":
		return fmt.Sprintf("%s is %s", s.unit, d.Load)
	case len(d.Files) > 0 && (len(now.files) == 0 || now.files[0].path != d.Files[0]):
		return fmt.Sprintf("%s of %s is not there any more", d.Files[0], s.unit)
	case d.Program() == "":
		return s.unit + " has no program"
	case now.program == nil:
		return fmt.Sprintf("%s, the program of %s, is not there", d.Program(), s.unit)
	case now.program.Mode()&0o111 == 0 || now.program.IsDir():
		return fmt.Sprintf("%s, the program of %s, is not executable", d.Program(), s.unit)
	case starts && !now.starts():
		return fmt.Sprintf("%s does not start with the system any more: it is %s", s.unit, d.Enabled)
	}
	return ""
}

func (st state) starts() bool { return strings.HasPrefix(st.definition.Enabled, "enabled") }

// other says in what a service in that state differs from the one that runs.
func (s *Service) other(now state) (string, error) {
	d, was := now.definition, s.began.definition
	switch {
	case d.Program() != was.Program():
		return fmt.Sprintf("its program is %s, and was %s", d.Program(), was.Program()), nil
	case !slices.Equal(d.Argv, was.Argv):
		return "it is started with other arguments", nil
	case !slices.Equal(now.files, s.began.files):
		return "its unit is another one", nil
	}
	equal := s.began.program != nil && same(now.program, s.began.program)
	if s.direct {
		var err error
		if equal, err = s.executes(d.Program(), now.program); err != nil {
			return "", err
		}
	}
	if !equal {
		return "there is another program at " + d.Program(), nil
	}
	return "", nil
}

// executes says whether this process executes what is at path: the file itself, or one
// with the same content, as a store that was optimised has.
func (s *Service) executes(path string, at os.FileInfo) (bool, error) {
	mine, err := os.Stat(s.process.Executable)
	if err == nil && (same(mine, at) || mine.Size() != at.Size()) {
		return same(mine, at), nil
	}
	if err == nil {
		var equal bool
		if equal, err = sameContent(s.process.Executable, path); err == nil {
			return equal, nil
		}
	}
	return false, fmt.Errorf("comparing this program with %s: %w", path, err)
}

func same(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// HandOver has systemd start the service as it is on the disk, which ends this process.
// It returns once that is asked for. Where no agent would be started, nothing is.
func (s *Service) HandOver(ctx context.Context) error {
	return s.manager.Ask(ctx, func(ctx context.Context, c *systemd.Conn) error { //nolint:wrapcheck // It says what failed.
		// Always: whether systemd has read what is there can't be told on NixOS, where
		// all files are of the same time.
		if err := c.Reload(ctx); err != nil {
			return err //nolint:wrapcheck // As above.
		}
		now, err := s.defineBy(ctx, c)
		if err != nil {
			return err
		}
		if gone := s.gone(now, false); gone != "" {
			return fmt.Errorf("%w: %s", errStillGone, gone)
		}
		return c.Restart(ctx, s.unit) //nolint:wrapcheck // As above.
	})
}
