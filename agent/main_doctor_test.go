package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/doctor"
	"github.com/cameronraysmith/fleet/agent/internal/launchd/launchdtest"
	"github.com/cameronraysmith/fleet/agent/internal/permission"
	"github.com/cameronraysmith/fleet/pkg/service"
)

// TestDoctor: what a host lacks is said, with what to do, for people and for programs, and
// the exit code tells.
func TestDoctor(t *testing.T) {
	m := newMachine(t)
	state := m.path("/nothing")
	code, out, stderr := m.run("", "doctor", "--state-dir", state, "--run-dir", m.path("/run"))
	if code != exitRefused || !strings.Contains(stderr, errLacks.Error()) {
		t.Errorf("%d, %s", code, stderr)
	}
	for _, want := range []string{"missing  service", "fleet-agent is not installed", "hint: fleet-agent install", "missing  identity", "fleetctl token"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	m.m.Is = service.State{Installed: true, Running: true, Boot: true}
	_, out, _ = m.run("", "doctor", "-o", "json", "--state-dir", state, "--run-dir", m.path("/run"))
	var said struct {
		Lacks    bool             `json:"lacks"`
		Findings []doctor.Finding `json:"findings"`
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	found := map[string]doctor.State{}
	for _, f := range said.Findings {
		found[f.Name] = f.State
	}
	if !said.Lacks || found["service"] != doctor.OK || found["dead-man at boot"] != doctor.OK || found["agent"] != doctor.Missing {
		t.Errorf("%+v", said)
	}
	if code, _, stderr := m.run("", "doctor", "now"); code != exitUsage {
		t.Errorf("%d, %s", code, stderr)
	}
}

// TestFindingsAreSaid: only what is missing makes for another exit code than 0.
func TestFindingsAreSaid(t *testing.T) {
	var out strings.Builder
	o := &options{stdout: &out, output: "table", getenv: func(string) string { return "" }}
	if err := o.sayFindings([]doctor.Finding{{Name: "a", State: doctor.OK, Detail: "d", Hint: "never"}, {Name: "b", State: doctor.Warning, Detail: "w", Hint: "do"}, {Name: "c", State: doctor.Unknown, Detail: "u"}}); err != nil {
		t.Error(err)
	}
	if strings.Contains(out.String(), "never") || !strings.Contains(out.String(), "hint: do") {
		t.Error(out.String())
	}
	if err := o.sayFindings([]doctor.Finding{{Name: "a", State: doctor.Missing}}); exitCode(&options{started: true}, err) != exitRefused {
		t.Error(err)
	}
}

// TestAskPermissions: launchd starts the agent's program to tell what macOS permits it,
// and nothing is left of that.
func TestAskPermissions(t *testing.T) {
	program := func(script string) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "fleet-agent")
		if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil { //nolint:gosec // A program.
			t.Fatal(err)
		}
		return file
	}
	const answer = `[ "$*" = permissions ] && echo '{"app-management":{"answer":"denied","detail":"x"}}'`
	for name, tt := range map[string]struct {
		program string
		euid    int
		refuse  bool
		says    string
	}{
		"answers":         {program(answer), 0, false, ""},
		"an older agent":  {program("echo unknown command"), 0, false, "does not know"},
		"launchd refuses": {program(answer), 0, true, "Input/output error"},
		"not root":        {program(answer), 1000, false, "only root"},
		"no program":      {"", 0, false, "not known"},
	} {
		l, run := launchdtest.Start(t), t.TempDir()
		l.Refuse = tt.refuse
		l.Before = func(args string) {
			if file, is := strings.CutPrefix(args, "bootstrap system "); is && !strings.HasPrefix(file, run+"/") {
				t.Errorf("%s: the property list is %s", name, file)
			}
		}
		got, err := askPermissions(t.Context(), l.Launchctl(), run, tt.program, tt.euid)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && got[permission.AppManagement].Answer != permission.Denied {
			t.Errorf("%s: %+v", name, got)
		}
		if left := l.Loaded(); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
		if left, err := os.ReadDir(run); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}

// TestOwnRunDir: what doctor has launchd read is in no directory that others write to.
func TestOwnRunDir(t *testing.T) {
	dir := t.TempDir()
	for mode, want := range map[os.FileMode]string{0o700: dir, 0o755: dir, 0o775: systemRunDir, 0o777: systemRunDir} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if got := (&options{runDir: dir}).ownRunDir(); got != want {
			t.Errorf("%o: %s", mode, got)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.Chmod(dir, 0o700), os.Symlink(dir, link)); err != nil { //nolint:gosec // A directory.
		t.Fatal(err)
	}
	for _, run := range []string{link, filepath.Join(dir, "none")} {
		if got := (&options{runDir: run}).ownRunDir(); got != systemRunDir {
			t.Errorf("%s: %s", run, got)
		}
	}
}

func TestRunPermissions(t *testing.T) {
	var out, errs strings.Builder
	if code := runPermissions(&out, &errs); code != exitOK || !strings.Contains(out.String(), `"full-disk-access":{"answer":"unknown"`) {
		t.Errorf("%d, %s, %s", code, out.String(), errs.String())
	}
}

// TestOwnJob: the label of launchd's job is what launchd says to the process that it
// started, and to no other.
func TestOwnJob(t *testing.T) {
	for name, tt := range map[string]struct {
		parent      int
		label, want string
	}{
		"a job":          {1, "io.github.cameronraysmith.fleet-agent", "io.github.cameronraysmith.fleet-agent"},
		"of nix-darwin":  {1, "org.nixos.fleet-agent", "org.nixos.fleet-agent"},
		"in a terminal":  {4711, "application.com.apple.Terminal", ""},
		"below a job":    {4711, "org.nixos.fleet-agent", ""},
		"by ssh":         {1, "0", ""},
		"not of launchd": {1, "", ""},
		"no label":       {1, "../x", ""},
	} {
		if got := ownJob(tt.parent, func(string) string { return tt.label }); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestSkipCheck(t *testing.T) {
	m := newMachine(t)
	if code, _, stderr := m.run("", "run", "--skip-check", "all"); code != exitUsage || !strings.Contains(stderr, "app-management or full-disk-access") {
		t.Errorf("%d, %s", code, stderr)
	}
	m.runs("", "install", "--skip-check", "app-management,full-disk-access")
	if unit := m.unit(serviceName); !strings.Contains(unit, "--skip-check app-management --skip-check full-disk-access") {
		t.Error(unit)
	}
}
