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

	"github.com/cameronraysmith/fleet/agent/internal/systemd"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// ErrNotMain says that the process is not the main one of that service.
var ErrNotMain = errors.New("not the main process of the service")

// maxFileBytes bounds a unit's file.
const maxFileBytes = 1 << 20

// Service is a service of systemd, and what it was when its agent began.
type Service struct {
	unit    string
	manager systemd.Address
	began   state
}

// state is what a service would be started as.
type state struct {
	definition systemd.Definition
	files      []file
	program    os.FileInfo
}

// file of a unit: what it leads to may be replaced, as links into the Nix store are.
type file struct {
	path   string
	info   os.FileInfo
	digest fleet.Digest
}

// Open looks at the service that process pid is to be the main process of, for what it
// is now is what the process was started as. It wraps ErrNotMain, and errors of systemd.
func Open(ctx context.Context, manager systemd.Address, unit string, pid int) (*Service, error) {
	s := &Service{unit: unit, manager: manager}
	d, err := s.define(ctx)
	if err != nil {
		return nil, err
	}
	if int64(d.MainPID) != int64(pid) {
		return nil, fmt.Errorf("looking at %s: %w, process %d is", unit, ErrNotMain, d.MainPID)
	}
	if s.began, err = stateOf(d); err != nil {
		return nil, fmt.Errorf("looking at %s: %w", unit, err)
	}
	return s, nil
}

func (s *Service) define(ctx context.Context) (d systemd.Definition, err error) {
	err = s.manager.Ask(ctx, func(ctx context.Context, c *systemd.Conn) (err error) {
		d, err = c.Define(ctx, s.unit)
		return err //nolint:wrapcheck // It says what failed.
	})
	return d, err //nolint:wrapcheck // As above.
}

// stateOf reads what a definition names. What is not there is no error: it is left out.
func stateOf(d systemd.Definition) (state, error) {
	st := state{definition: d}
	for _, path := range d.Files {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return state{}, err //nolint:wrapcheck // It names the file.
		}
		text, err := atomicfile.ReadAtMost(path, maxFileBytes)
		if err != nil {
			return state{}, err //nolint:wrapcheck // As above.
		}
		st.files = append(st.files, file{path, info, fleet.DigestOf(text)})
	}
	info, err := os.Stat(d.Program)
	if err == nil {
		st.program = info
	} else if d.Program != "" && !errors.Is(err, fs.ErrNotExist) {
		return state{}, err //nolint:wrapcheck // It names the file.
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
}

// Look compares what would be started now with what runs. An error is systemd's, or of
// a file that can't be read, and says nothing about the service.
func (s *Service) Look(ctx context.Context) (Standing, error) {
	d, err := s.define(ctx)
	if err != nil {
		return Standing{}, err
	}
	now, err := stateOf(d)
	if err != nil {
		return Standing{}, fmt.Errorf("looking at %s: %w", s.unit, err)
	}
	if gone := s.gone(now); gone != "" {
		return Standing{Gone: gone}, nil
	}
	return Standing{Other: s.other(now)}, nil
}

// gone says why a service in that state would not be started.
func (s *Service) gone(now state) string {
	d := now.definition
	switch {
	case d.Load != "loaded":
		return fmt.Sprintf("%s is %s", s.unit, d.Load)
	case len(d.Files) > 0 && (len(now.files) == 0 || now.files[0].path != d.Files[0]):
		return fmt.Sprintf("%s of %s is not there any more", d.Files[0], s.unit)
	case d.Program == "":
		return s.unit + " has no program"
	case now.program == nil:
		return fmt.Sprintf("%s, the program of %s, is not there", d.Program, s.unit)
	case now.program.Mode()&0o111 == 0 || now.program.IsDir():
		return fmt.Sprintf("%s, the program of %s, is not executable", d.Program, s.unit)
	case starts(s.began.definition) && !starts(d):
		return fmt.Sprintf("%s does not start with the system any more: it is %s", s.unit, d.Enabled)
	}
	return ""
}

// starts says whether a service starts with the system.
func starts(d systemd.Definition) bool { return strings.HasPrefix(d.Enabled, "enabled") }

// other says in what a service in that state differs from the one that runs.
func (s *Service) other(now state) string {
	was := s.began
	switch {
	case now.definition.Program != was.definition.Program:
		return fmt.Sprintf("its program is %s, and was %s", now.definition.Program, was.definition.Program)
	case was.program == nil || !same(now.program, was.program):
		return "there is another program at " + now.definition.Program
	case !slices.EqualFunc(now.files, was.files, func(a, b file) bool { return a.path == b.path && a.digest == b.digest }):
		return "its unit is another one"
	}
	return ""
}

func same(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// Touched says whether something may be another than it was: what costs no question to
// systemd.
func (s *Service) Touched() bool {
	for _, f := range s.began.files {
		if now, err := os.Stat(f.path); err != nil || !same(now, f.info) {
			return true
		}
	}
	if s.began.program == nil {
		return true
	}
	now, err := os.Stat(s.began.definition.Program)
	return err != nil || !same(now, s.began.program)
}

// HandOver has systemd start the service as it is now, which ends this process. It
// returns once that is asked for.
func (s *Service) HandOver(ctx context.Context) error {
	return s.manager.Ask(ctx, func(ctx context.Context, c *systemd.Conn) error { //nolint:wrapcheck // It says what failed.
		d, err := c.Define(ctx, s.unit)
		if err == nil && d.Stale {
			err = c.Reload(ctx)
		}
		if err == nil {
			err = c.Restart(ctx, s.unit)
		}
		return err //nolint:wrapcheck // It says what failed.
	})
}
