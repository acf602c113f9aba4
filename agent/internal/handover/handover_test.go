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
			Load: "loaded", Enabled: "enabled", Files: []string{b.path("unit"), b.path("drop-in")}, Argv: []string{b.path("program"), "run"}, MainPID: pid,
		}
	})
	if err := os.Link(b.path("program"), b.path("exe")); err != nil {
		t.Fatal(err)
	}
	b.open()
	return b
}

// process is the service's, which executes another link to its program.
func (b *bed) process() handover.Process {
	return handover.Process{PID: pid, Argv: []string{b.path("program"), "run"}, Executable: b.path("exe")}
}

func (b *bed) open() {
	b.t.Helper()
	var err error
	if b.service, err = handover.Open(b.t.Context(), b.server.Address, unit, b.process()); err != nil {
		b.t.Fatal(err)
	}
}

// TestLook is what may become of a service, and what is said of it.
func TestLook(t *testing.T) {
	for _, c := range []struct {
		name        string
		do          func(*bed)
		gone, other string
	}{
		{name: "nothing", do: func(*bed) {}},
		{name: "started by hand", do: func(b *bed) { b.define(func(d *systemd.Definition) { d.MainPID = 8 }) }},
		{name: "the same unit written anew", do: func(b *bed) { b.write("unit", "[Service]", 0o644) }},
		{name: "another unit", do: func(b *bed) { b.write("unit", "[Service]\nNice=1", 0o644) }, other: "unit is another"},
		{name: "another drop-in", do: func(b *bed) { b.write("drop-in", "[Service]\nNice=1", 0o644) }, other: "unit is another"},
		{name: "one drop-in less", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { d.Files = d.Files[:1] })
		}, other: "unit is another"},
		{name: "one drop-in more", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { d.Files = append(slices.Clone(d.Files), b.path("unit")) })
		}, other: "unit is another"},
		{name: "another program", do: func(b *bed) {
			b.write("next", "two", 0o755)
			b.define(func(d *systemd.Definition) { d.Argv = []string{b.path("next"), "run"} })
		}, other: "next, and was"},
		{name: "other arguments", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { d.Argv = []string{b.path("program"), "run", "--observe"} })
		}, other: "other arguments"},
		{name: "the program replaced", do: func(b *bed) { b.write("program", "two", 0o755) }, other: "another program at"},
		{name: "the program replaced by a longer one", do: func(b *bed) { b.write("program", "three", 0o755) }, other: "another program at"},
		{name: "the program replaced by itself", do: func(b *bed) { b.write("program", "one", 0o755) }},
		{name: "the unit is gone", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { *d = systemd.Definition{Load: "not-found"} })
		}, gone: "is not-found"},
		{name: "the unit is masked", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { d.Load, d.Enabled = "masked", "masked" })
		}, gone: "is masked"},
		{name: "the unit is nonsense", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { d.Load = "bad-setting" })
		}, gone: "is bad-setting"},
		{name: "the unit's file is gone, and nobody told systemd", do: func(b *bed) {
			if err := os.Remove(b.path("unit")); err != nil {
				b.t.Fatal(err)
			}
		}, gone: "is not there any more"},
		{name: "no program", do: func(b *bed) { b.define(func(d *systemd.Definition) { d.Argv = nil }) }, gone: "has no program"},
		{name: "the program is gone", do: func(b *bed) {
			if err := os.Remove(b.path("program")); err != nil {
				b.t.Fatal(err)
			}
		}, gone: "is not there"},
		{name: "the program is none", do: func(b *bed) { b.write("program", "one", 0o644) }, gone: "not executable"},
		{name: "disabled", do: func(b *bed) {
			b.define(func(d *systemd.Definition) { d.Enabled = "disabled" })
		}, gone: "does not start with the system any more: it is disabled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t)
			c.do(b)
			got, err := b.service.Look(t.Context(), true)
			if err != nil {
				t.Fatal(err)
			}
			if (got.Gone == "") != (c.gone == "") || !strings.Contains(got.Gone, c.gone) ||
				(got.Other == "") != (c.other == "") || !strings.Contains(got.Other, c.other) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestNotMain: one that was started in the midst of another service must not have that
// restarted.
func TestNotMain(t *testing.T) {
	b := newBed(t)
	p := b.process()
	p.PID++
	if _, err := handover.Open(t.Context(), b.server.Address, unit, p); !errors.Is(err, handover.ErrNotMain) {
		t.Errorf("got %v", err)
	}
}

// TestByHand: a service that somebody starts by hand need not start with the system.
func TestByHand(t *testing.T) {
	b := newBed(t)
	b.define(func(d *systemd.Definition) { d.Enabled = "disabled" })
	if got, err := b.service.Look(t.Context(), false); err != nil || got != (handover.Standing{}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestWrapped: where another program has started this one, that one counts, and what
// variables stand for in its arguments is nothing that was changed.
func TestWrapped(t *testing.T) {
	b := newBed(t)
	b.define(func(d *systemd.Definition) { d.Argv = []string{b.path("program"), "$ARGS"} })
	b.write("exe", "something else", 0o755)
	b.open()
	if got, err := b.service.Look(t.Context(), true); err != nil || got.Other != "" {
		t.Errorf("%+v, %v", got, err)
	}
	b.write("program", "two", 0o755)
	if got, err := b.service.Look(t.Context(), true); err != nil || got.Other == "" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestLater: what the service was is found out once systemd says it.
func TestLater(t *testing.T) {
	b := newBed(t)
	if err := errors.Join(os.Rename(b.path("unit"), b.path("kept")), os.Mkdir(b.path("unit"), 0o755)); err != nil {
		t.Fatal(err)
	}
	s, err := handover.Open(t.Context(), b.server.Address, unit, b.process())
	if err == nil || errors.Is(err, handover.ErrNotMain) {
		t.Fatalf("got %v", err)
	}
	if err := errors.Join(os.Remove(b.path("unit")), os.Rename(b.path("kept"), b.path("unit"))); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Look(t.Context(), true); err != nil || got != (handover.Standing{Starts: true}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestHandOver: systemd reads first what there is; where that is no agent, the one that
// runs goes on.
func TestHandOver(t *testing.T) {
	b := newBed(t)
	if err := b.service.HandOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.server.Do(func() {
		reload, restart := slices.Index(b.server.Calls, "Reload"), slices.Index(b.server.Calls, "RestartUnit "+unit)
		if reload < 0 || restart < reload {
			t.Errorf("asked for %q", b.server.Calls)
		}
		b.server.Calls = nil
	})
	if err := os.Remove(b.path("program")); err != nil {
		t.Fatal(err)
	}
	if err := b.service.HandOver(t.Context()); err == nil || !strings.Contains(err.Error(), "is not there") {
		t.Errorf("got %v", err)
	}
	b.server.Do(func() {
		if slices.Contains(b.server.Calls, "RestartUnit "+unit) {
			t.Errorf("asked for %q", b.server.Calls)
		}
	})
}
