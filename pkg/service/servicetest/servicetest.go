// Package servicetest is for tests of programs that install themselves: a service
// manager that remembers, and checks of what is installed.
package servicetest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/service"
)

// Manager is a service manager that remembers what it was told.
type Manager struct {
	// Dir and Suffix are of the files of definitions.
	Dir, Suffix string
	Told        []string
	Is          service.State
}

// File is where the definition of a service is.
func (m *Manager) File(name string) string { return m.Dir + "/" + name + m.Suffix }

// Load remembers nothing: it is told whenever something is installed.
func (m *Manager) Load(context.Context, string) error {
	m.Is.Installed = true
	return nil
}

// Unload ends the service.
func (m *Manager) Unload(context.Context, string) error {
	m.Is.Running = false
	return nil
}

// Forget forgets the service.
func (m *Manager) Forget(context.Context, string) error {
	m.Is = service.State{}
	return nil
}

// Control remembers the verb.
func (m *Manager) Control(_ context.Context, _ string, v service.Verb) error {
	if !m.Is.Installed {
		return service.ErrNotInstalled
	}
	m.Told = append(m.Told, string(v))
	m.Is.Running = v != service.Stop
	return nil
}

// State is Is.
func (m *Manager) State(context.Context, string) (service.State, error) { return m.Is, nil }

// Golden compares a file of the repository with what a program makes, or writes
// it.
func Golden(t *testing.T, file, text string, update bool) {
	t.Helper()
	if update {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), text); d != "" {
		t.Errorf("%s is not what the program makes (-file +program); write it with -update:\n%s", file, d)
	}
}

// Program makes a program of that name, because systemd-analyze looks for what a
// unit starts.
func Program(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// Analyze runs systemd-analyze. Where a machine does not have it, there is nothing
// to be known of units, and ok is false; in CI, which installs it, that is an
// error.
func Analyze(t *testing.T, args ...string) (out string, err error, ok bool) { //nolint:revive // ok is of another kind.
	t.Helper()
	program, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("systemd-analyze is missing, so that units are not checked: %v; on Debian: apt-get install systemd", err)
		}
		t.Logf("units were not checked with systemd-analyze, which this machine lacks: %v", err)
		return "", nil, false
	}
	b, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	return string(b), err, true
}

// Verify has systemd read a unit, and fails where it finds something to complain
// about.
func Verify(t *testing.T, name, text string) {
	t.Helper()
	checkSyntax(t, text)
	file := filepath.Join(t.TempDir(), name+".service")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err, ok := Analyze(t, "verify", "--man=no", "--recursive-errors=no", file)
	if ok && (err != nil || strings.Contains(out, name)) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// checkSyntax is what can be checked everywhere: sections, and settings that are
// known to be of them.
func checkSyntax(t *testing.T, text string) {
	t.Helper()
	section, sections := "", []string{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		name, value, ok := strings.Cut(line, "=")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = line
			sections = append(sections, line)
		case !ok || section == "" || strings.TrimSpace(name) != name || strings.TrimSpace(value) != value || strings.HasSuffix(value, `\`):
			t.Errorf("%q is no setting", line)
		}
	}
	if want := []string{"[Unit]", "[Service]", "[Install]"}; !slices.Equal(sections, want) {
		t.Errorf("sections %v, want %v", sections, want)
	}
}
