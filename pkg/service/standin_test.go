package service

import (
	"context"
	"slices"
	"strings"
	"testing"
)

// call is a program that was run, and what it said.
type call struct {
	argv string
	out  string
	code int
	said string // to standard error
}

// standIn is a Runner that plays what was recorded, in that order, and nothing
// else.
type standIn struct {
	t     *testing.T
	calls []call
}

func (s *standIn) run(_ context.Context, argv ...string) (string, error) {
	s.t.Helper()
	if len(s.calls) == 0 {
		s.t.Errorf("one call more than was recorded: %s", strings.Join(argv, " "))
		return "", &ProgramError{Argv: argv, Code: 1}
	}
	c := s.calls[0]
	s.calls = s.calls[1:]
	if got := strings.Join(argv, " "); got != c.argv {
		s.t.Errorf("called %q, want %q", got, c.argv)
	}
	if c.code != 0 {
		return c.out, &ProgramError{Argv: argv, Code: c.code, Said: c.said}
	}
	return c.out, nil
}

// done checks that all was played.
func (s *standIn) done() {
	s.t.Helper()
	for _, c := range s.calls {
		s.t.Errorf("not called: %s", c.argv)
	}
}

func TestExecute(t *testing.T) {
	out, err := execute(t.Context(), "sh", "-c", "echo yes; echo no >&2; exit 3")
	if out != "yes\n" || exitCode(err) != 3 || !strings.Contains(err.Error(), "no") || !strings.Contains(err.Error(), "sh -c") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := execute(t.Context(), "sh", "-c", "echo why; exit 1"); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("what went to standard output: %v", err)
	}
	if _, err := execute(t.Context(), "/no/such/program"); err == nil || exitCode(err) != -1 {
		t.Errorf("%v", err)
	}
	if out, err := execute(t.Context(), "true"); out != "" || exitCode(err) != 0 {
		t.Errorf("%q, %v", out, err)
	}
}

func show(lines ...string) string { return strings.Join(lines, "\n") + "\n" }

func TestSystemdState(t *testing.T) {
	for name, tt := range map[string]struct {
		out  string
		want State
		text string
		next string
	}{
		"not installed": {
			show("LoadState=not-found", "ActiveState=inactive", "SubState=dead", "Result=success", "ExecMainStatus=0", "MainPID=0", "StatusText=", "UnitFileState="),
			State{},
			"not installed", "fleet-agent install",
		},
		"running": {
			show("LoadState=loaded", "ActiveState=active", "SubState=running", "Result=success", "ExecMainStatus=0", "MainPID=77", "StatusText=a=b", "UnitFileState=enabled"),
			State{Installed: true, Running: true, Boot: true, PID: 77, Text: "a=b"},
			"runs: a=b", "",
		},
		"starting": {
			show("LoadState=loaded", "ActiveState=activating", "SubState=start", "Result=success", "ExecMainStatus=0", "MainPID=77", "StatusText=", "UnitFileState=enabled"),
			State{Installed: true, Starting: true, Boot: true, PID: 77},
			"is starting", "",
		},
		"failing": {
			show("LoadState=loaded", "ActiveState=activating", "SubState=auto-restart", "Result=exit-code", "ExecMainStatus=1", "MainPID=0", "StatusText=", "UnitFileState=enabled"),
			State{Installed: true, Starting: true, Failed: true, Boot: true, Why: "it ended with exit code 1"},
			"again and again: it ended with exit code 1", "journalctl",
		},
		"failed": {
			show("LoadState=loaded", "ActiveState=failed", "SubState=failed", "Result=watchdog", "ExecMainStatus=6", "MainPID=0", "StatusText=", "UnitFileState=disabled"),
			State{Installed: true, Failed: true, Why: "it got stuck, and its watchdog ended it"},
			"failed: it got stuck", "fleet-agent start",
		},
		"killed": {
			show("LoadState=loaded", "ActiveState=failed", "SubState=failed", "Result=signal", "ExecMainStatus=9", "MainPID=0", "StatusText=", "UnitFileState=disabled"),
			State{Installed: true, Failed: true, Why: "it was ended by signal 9"},
			"signal 9", "journalctl",
		},
		"stopped": {
			show("LoadState=loaded", "ActiveState=inactive", "SubState=dead", "Result=success", "ExecMainStatus=0", "MainPID=0", "StatusText=", "UnitFileState=disabled"),
			State{Installed: true},
			"is stopped", "fleet-agent start",
		},
	} {
		s := &standIn{t: t, calls: []call{{argv: "systemctl show --property=" + properties + " fleet-agent.service", out: tt.out}}}
		got, err := systemd{run: s.run}.State(t.Context(), "fleet-agent")
		s.done()
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tt.want)
		}
		if text, next := got.Advice("fleet-agent"); !strings.Contains(text, tt.text) || !strings.Contains(next, tt.next) || (next == "") != (tt.next == "") {
			t.Errorf("%s: %q, %q", name, text, next)
		}
	}
}

func TestSystemdCalls(t *testing.T) {
	s := &standIn{t: t, calls: []call{
		{argv: "systemctl daemon-reload"},
		{argv: "systemctl enable --quiet x.service"},
		{argv: "systemctl disable --quiet --now x.service"},
		{argv: "systemctl daemon-reload"},
		{argv: "systemctl reset-failed --quiet x.service", code: 1, said: "Unit x.service not loaded."},
		{argv: "systemctl daemon-reload", code: 1, said: "Access denied"},
	}}
	m := systemd{run: s.run}
	for _, do := range []func(context.Context, string) error{m.Load, m.Unload, m.Forget} {
		if err := do(t.Context(), "x"); err != nil {
			t.Error(err)
		}
	}
	if err := m.Load(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "Access denied") {
		t.Errorf("%v", err)
	}
	s.done()
}

func TestSystemdControl(t *testing.T) {
	shown := "systemctl show --property=" + properties + " x.service"
	const loaded, gone = "LoadState=loaded\nActiveState=failed\nResult=timeout\n", "LoadState=not-found\n"
	var told []string
	s := &standIn{t: t}
	fail := false
	m := systemd{run: s.run, control: func(service string, v Verb) error {
		told = append(told, string(v)+" "+service)
		if fail {
			return &ProgramError{Code: 1}
		}
		return nil
	}}
	s.calls = []call{{argv: shown, out: gone}}
	if err := m.Control(t.Context(), "x", Start); err == nil || !strings.Contains(err.Error(), "not installed") || len(told) > 0 {
		t.Errorf("%v, %v", err, told)
	}
	s.calls = []call{{argv: shown, out: loaded}}
	if err := m.Control(t.Context(), "x", Restart); err != nil || !slices.Equal(told, []string{"restart x"}) {
		t.Errorf("%v, %v", err, told)
	}
	fail = true
	s.calls = []call{{argv: shown, out: loaded}, {argv: shown, out: loaded}}
	if err := m.Control(t.Context(), "x", Start); err == nil || !strings.Contains(err.Error(), "not up") {
		t.Errorf("it doesn't say why: %v", err)
	}
	s.done()
}
