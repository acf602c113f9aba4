package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Definition is a service as it is to be.
type Definition struct {
	// Service is its name: of the unit, and of the program.
	Service string
	// Program is where the service runs its program from; it is copied there from
	// From, the program that runs, where it isn't there already.
	Program, From string
	// State is its state directory.
	State string
	// Before is called once it is certain that the service may be installed, and
	// before anything is changed; optional.
	Before func() error
	// Text makes the unit or the property list, with the record in a comment.
	Text func(Record) (string, error)
	// Beside are services that come and go with it.
	Beside []Beside
	// Force replaces a service that these programs did not install.
	Force bool
	// Idle leaves a service that does not run as it is.
	Idle bool
}

// Beside is a service that its program's own has beside it. It starts with the system;
// installing starts and restarts none.
type Beside struct {
	Service string
	// Text is as a Definition's; Copied is never said of its program.
	Text func(Record) (string, error)
}

// Installed says what installing did.
type Installed struct {
	File, Program string
	// Removed is the copy that the service ran before, from another place, which was removed.
	Removed string
	// New is that there was no such service, Changed that its definition is
	// another one now, Copied that its program is.
	New, Changed, Copied bool
	// Started and Restarted say what became of it.
	Started, Restarted bool
	State              State
}

// Install makes a service be as it is defined, and has it run: what is so already
// stays. It may be repeated after any failure. It wraps ErrNotRoot, ErrOwned,
// ErrForeign, ErrReplaceable and ErrFailed.
func (h Host) Install(ctx context.Context, d Definition) (Installed, error) {
	file := h.Manager.File(d.Service)
	done := Installed{File: file, Program: d.Program}
	if err := h.mayChange(d.Service, d.Force); err != nil {
		return done, err
	}
	err := errors.Join(checkProgram(d.Service, d.Program), PlainPath("--state-dir", d.State))
	if err == nil {
		err = h.checkOwned(d.Program)
	}
	if err != nil {
		return done, err
	}
	was, r, err := h.replaceable(d.Service, d.Force)
	if err != nil {
		return done, err
	}
	for _, b := range d.Beside {
		if _, _, err := h.replaceable(b.Service, d.Force); err != nil {
			return done, err
		}
	}
	if d.Before != nil {
		if err := d.Before(); err != nil {
			return done, err
		}
	}
	p, err := h.placeProgram(d.From, d.Program, r)
	if err != nil {
		return done, err
	}
	text, err := d.Text(Record{Service: d.Service, Program: d.Program, Copied: p.copied, State: d.State})
	if err != nil {
		return done, err
	}
	for _, b := range d.Beside {
		text, err := b.Text(Record{Service: b.Service, Program: d.Program, State: d.State})
		if err == nil {
			err = h.writeChanged(b.Service, text)
		}
		if err == nil {
			err = h.Manager.Load(ctx, b.Service)
		}
		if err != nil {
			return done, fmt.Errorf("installing %s: %w", b.Service, err)
		}
	}
	if err := h.tellShells(d.Program); err != nil {
		return done, err
	}
	done.New, done.Changed, done.Copied = was == "", text != was, p.changed
	if done.Changed {
		if err := h.write(file, text); err != nil {
			return done, err
		}
	}
	// Also where nothing changed: an earlier attempt may have ended just here.
	if err := h.Manager.Load(ctx, d.Service); err != nil {
		return done, fmt.Errorf("installing %s: %w", d.Service, err)
	}
	if done, err = h.bringUp(ctx, d, done); err != nil || !r.Copied || r.Program == d.Program {
		return done, err
	}
	// Nothing runs it any more; an install that is cut short here leaves it.
	if err := remove(h.path(r.Program)); err != nil {
		return done, fmt.Errorf("removing the copy that ran before: %w", err)
	}
	done.Removed = r.Program
	return done, nil
}

// replaceable returns the definition that a service has, with its record, and refuses
// one that these programs did not make.
func (h Host) replaceable(service string, force bool) (was string, r Record, err error) {
	if was, err = h.read(service); err != nil {
		return "", Record{}, err
	}
	r, ours := recordOf(service, was)
	if was != "" && !ours && !force {
		return "", Record{}, foreign(service, h.Manager.File(service))
	}
	return was, r, nil
}

// writeChanged writes a definition where it is another one.
func (h Host) writeChanged(service, text string) error {
	was, err := h.read(service)
	if err == nil && was != text {
		err = h.write(h.Manager.File(service), text)
	}
	return err
}

func foreign(service, file string) error {
	return ui.WithHint(fmt.Errorf("%s is there, and %w", file, ErrForeign),
		"look at it and move it away, or let --force replace it")
}

func (h Host) write(file, text string) error {
	at := h.path(file)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil { //nolint:gosec // Of the system.
		return fmt.Errorf("installing: %w", err)
	}
	if err := atomicfile.WriteFile(at, []byte(text), 0o644); err != nil {
		return fmt.Errorf("installing: %w", err)
	}
	return nil
}

// bringUp has the service run as it is defined now.
func (h Host) bringUp(ctx context.Context, d Definition, done Installed) (Installed, error) {
	st, err := h.Manager.State(ctx, d.Service)
	if err != nil {
		return done, err
	}
	up := st.Running || st.Starting
	switch {
	case up && (done.Changed || done.Copied || h.older(st, d.Program)):
		done.Restarted = true
		err = h.Manager.Control(ctx, d.Service, Restart)
	case !up && !d.Idle:
		done.Started = true
		err = h.Manager.Control(ctx, d.Service, Start)
	}
	if err != nil {
		return done, err
	}
	done.State, err = h.Manager.State(ctx, d.Service)
	return done, err
}

// older says whether what runs is not the program that is there now, as after an
// install that was cut short.
func (h Host) older(st State, program string) bool {
	running, err := os.Stat(h.path(fmt.Sprintf("/proc/%d/exe", st.PID)))
	if err != nil {
		return false // no such file system, or it ended
	}
	now, err := os.Stat(h.path(program))
	return err == nil && !os.SameFile(running, now)
}

// Uninstalled says what uninstalling did.
type Uninstalled struct {
	File string
	// Program is the copy that was removed; "" where it was not install's.
	Program string
}

// Uninstall stops a service and removes it, with the copy of its program and those
// of the services beside it that Install made. State stays. It wraps ErrNotRoot, ErrOwned, ErrForeign and ErrNotInstalled.
func (h Host) Uninstall(ctx context.Context, service string, force bool, beside ...string) (Uninstalled, error) {
	file := h.Manager.File(service)
	done := Uninstalled{File: file}
	if err := h.mayChange(service, force); err != nil {
		return done, err
	}
	was, r, err := h.replaceable(service, force)
	if err != nil {
		return done, err
	}
	if was == "" {
		return done, fmt.Errorf("%s: %w", service, ErrNotInstalled)
	}
	if err := h.Manager.Unload(ctx, service); err != nil {
		return done, fmt.Errorf("uninstalling %s: %w", service, err)
	}
	for _, b := range beside {
		if err := h.uninstallBeside(ctx, b); err != nil {
			return done, fmt.Errorf("uninstalling %s: %w", b, err)
		}
	}
	// The program first: without the definition nobody would know of it.
	if r.Copied {
		if err := remove(h.path(r.Program)); err != nil {
			return done, fmt.Errorf("uninstalling %s: %w", service, err)
		}
		done.Program = r.Program
		if err := h.forgetShells(r.Program); err != nil {
			return done, fmt.Errorf("uninstalling %s: %w", service, err)
		}
	}
	if err := h.forget(ctx, service); err != nil {
		return done, fmt.Errorf("uninstalling %s: %w", service, err)
	}
	return done, nil
}

// uninstallBeside removes a service that Install put beside another one; nothing where
// it did not.
func (h Host) uninstallBeside(ctx context.Context, service string) error {
	was, err := h.read(service)
	if _, ours := recordOf(service, was); err != nil || !ours {
		return err
	}
	if err := h.Manager.Unload(ctx, service); err != nil {
		return err //nolint:wrapcheck // The caller says what for.
	}
	return h.forget(ctx, service)
}

// forget removes the definition of a service that was unloaded.
func (h Host) forget(ctx context.Context, service string) error {
	if err := remove(h.path(h.Manager.File(service))); err != nil {
		return err
	}
	return h.Manager.Forget(ctx, service) //nolint:wrapcheck // The caller says what for.
}

// remove removes a file durably; one that is not there is no error.
func remove(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err //nolint:wrapcheck // The caller says what for.
	}
	return atomicfile.SyncDir(filepath.Dir(file)) //nolint:wrapcheck // It names the directory.
}
