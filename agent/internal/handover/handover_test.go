package handover_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/agent/internal/handover"
	"github.com/cameronraysmith/fleet/agent/internal/systemd"
	"github.com/cameronraysmith/fleet/agent/internal/systemd/systemdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	unit = "fleet-agent.service"
	pid  = 7
)

// bed is a service that runs, and what it was started from.
type bed struct {
	t       *testing.T
	server  *systemdtest.Server
	service *handover.Service
	dir     string
}

func (b *bed) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bed) write(name, text string, perm os.FileMode) {
	b.t.Helper()
	// As a new file: a program that runs is replaced.
	tmp := b.path(name + ".new")
	if err := errors.Join(os.WriteFile(tmp, []byte(text), perm), os.Chmod(tmp, perm), os.Rename(tmp, b.path(name))); err != nil {
		b.t.Fatal(err)
	}
}

// define changes how systemd has the service.
func (b *bed) define(change func(*systemd.Definition)) {
	b.server.Do(func() {
		d := b.server.Services[unit]
		change(&d)
		b.server.Services = map[string]systemd.Definition{unit: d}
	})
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, server: systemdtest.Start(t), dir: t.TempDir()}
	b.write("program", "one", 0o755)
	b.write("unit", "[Service]", 0o644)
	b.write("drop-in", "[Service]", 0o644)
	b.define(func(d *systemd.Definition) {
		*d = systemd.Definition{
			Load: "loaded", Enabled: "enabled", Files: []string{b.path("unit"), b.path("drop-in")}, Program: b.path("program"), MainPID: pid,
		}
	})
	var err error
	if b.service, err = handover.Open(t.Context(), b.server.Address, unit, pid); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestLook is what may become of a service, and what is said of it.
func TestLook(t *testing.T) {
	for _, c := range []struct {
		name        string
		do          func(*bed)
		gone, other string
		// unseen says that files alone don't tell.
		unseen bool
	}{
		{name: "nothing", do: func(*bed) {}},
		{name: "started by hand", do: func(b *bed) { b.define(func(d *systemd.Definition) { d.MainPID = 8 }) }},
		{name: "the same unit written anew", do: func(b *bed) { b.write("unit", "[Service]", 0o644) }},
		{name: "another unit", do: func(b *bed) { b.write("unit", "[Service]\nNice=1", 0o644) }, other: "unit is another"},
		{name: "another drop-in", do: func(b *bed) { b.write("drop-in", "[Service]\nNice=1", 0o644) }, other: "unit is another"},
		{name: "one drop-in less", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { d.Files = d.Files[:1] })
		}, other: "unit is another", unseen: true},
		{name: "one drop-in more", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { d.Files = append(slices.Clone(d.Files), b.path("unit")) })
		}, other: "unit is another", unseen: true},
		{name: "another program", do: func(b *bed) {
			b.write("next", "two", 0o755)
			b.define(func(d *systemd.Definition) { d.Program = b.path("next") })
		}, other: "next, and was", unseen: true},
		{name: "the program replaced", do: func(b *bed) { b.write("program", "one", 0o755) }, other: "another program at"},
		{name: "the unit is gone", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { *d = systemd.Definition{Load: "not-found"} })
		}, gone: "is not-found", unseen: true},
		{name: "the unit is masked", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { d.Load, d.Enabled = "masked", "masked" })
		}, gone: "is masked", unseen: true},
		{name: "the unit is nonsense", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { d.Load = "bad-setting" })
		}, gone: "is bad-setting", unseen: true},
		{name: "the unit's file is gone, and nobody told systemd", do: func(b *bed) {
			if err := os.Remove(b.path("unit")); err != nil {
				b.t.Fatal(err)
			}
		}, gone: "is not there any more"},
		{name: "no program", do: func(b *bed) { b.define(func(d *systemd.Definition) { d.Program = "" }) }, gone: "has no program", unseen: true},
		{name: "the program is gone", do: func(b *bed) {
			if err := os.Remove(b.path("program")); err != nil {
				b.t.Fatal(err)
			}
		}, gone: "is not there"},
		{name: "the program is none", do: func(b *bed) { b.write("program", "one", 0o644) }, gone: "not executable"},
		{name: "disabled", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { d.Enabled = "disabled" })
		}, gone: "does not start with the system any more: it is disabled", unseen: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t)
			c.do(b)
			got, err := b.service.Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if (got.Gone == "") != (c.gone == "") || !strings.Contains(got.Gone, c.gone) ||
				(got.Other == "") != (c.other == "") || !strings.Contains(got.Other, c.other) {
				t.Errorf("got %+v", got)
			}
			if want := c.gone+c.other != "" && !c.unseen; !want {
				return
			}
			if !b.service.Touched() {
				t.Error("not touched")
			}
		})
	}
	if newBed(t).service.Touched() {
		t.Error("touched by nobody")
	}
}

// TestNotMain: one that was started in the midst of another service must not have that
// restarted.
func TestNotMain(t *testing.T) {
	b := newBed(t)
	if _, err := handover.Open(t.Context(), b.server.Address, unit, pid+1); !errors.Is(err, handover.ErrNotMain) {
		t.Errorf("got %v", err)
	}
}

// TestNeverEnabled: a service that somebody starts by hand need not start with the system.
func TestNeverEnabled(t *testing.T) {
	b := newBed(t)
	b.define(func(d *systemd.Definition) { d.Enabled = "disabled" })
	s, err := handover.Open(t.Context(), b.server.Address, unit, pid)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Look(t.Context()); err != nil || got != (handover.Standing{}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestHandOver: systemd reads what it has not read yet, first.
func TestHandOver(t *testing.T) {
	for _, stale := range []bool{false, true} {
		b := newBed(t)
		b.define(func(d *systemd.Definition) { d.Stale = stale })
		if err := b.service.HandOver(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.server.Do(func() {
			reload, restart := slices.Index(b.server.Calls, "Reload"), slices.Index(b.server.Calls, "RestartUnit "+unit)
			if restart < 0 || (reload >= 0) != stale || reload > restart {
				t.Errorf("stale %t: asked for %q", stale, b.server.Calls)
			}
		})
	}
}
