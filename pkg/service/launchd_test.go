package service

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/ui"
)

const (
	daemon = "system/io.github.cameronraysmith.fleet-agent"
	plist  = "/Library/LaunchDaemons/io.github.cameronraysmith.fleet-agent.plist"
)

// What launchctl of macOS prints and how it ends, in its form.
var (
	printed = func(state, pid, code string) call {
		out := daemon + ` = {
	active count = 1
	path = ` + plist + `
	type = LaunchDaemon
	state = ` + state + `

	program = /usr/local/bin/fleet-agent
	arguments = {
		/usr/local/bin/fleet-agent
		run
		state = a lie of an argument
	}

	stdout path = /var/log/fleet-agent.log
	inherited environment = {
		PATH => /usr/bin:/bin:/usr/sbin:/sbin
	}

	domain = system
	minimum runtime = 10
	exit timeout = 30
	runs = 3
`
		if pid != "" {
			out += "\tpid = " + pid + "\n"
		}
		return call{argv: "/bin/launchctl print " + daemon, out: out + "\tlast exit code = " + code + "\n}\n"}
	}
	running   = printed("running", "4711", "(never exited)")
	waiting   = printed("not running", "", "1")
	notLoaded = call{
		argv: "/bin/launchctl print " + daemon, code: noSuchService,
		said: "Bad request.\nCould not find service \"io.github.cameronraysmith.fleet-agent\" in domain for system",
	}
	bootstrap = call{argv: "/bin/launchctl bootstrap system " + plist}
	bootout   = call{argv: "/bin/launchctl bootout " + daemon}
	kickstart = call{argv: "/bin/launchctl kickstart " + daemon}
)

// mac is launchd played by calls; there is a property list.
func mac(t *testing.T, calls ...call) (*standIn, launchd) {
	s := &standIn{t: t, calls: calls}
	return s, launchd{
		run: s.run, exists: func(file string) bool { return file == plist },
		pause: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
}

func TestLaunchdControl(t *testing.T) {
	failed := bootstrap
	failed.code, failed.said = 5, "Bootstrap failed: 5: Input/output error"
	busy := bootout
	busy.code, busy.said = 36, "Boot-out failed: 36: Operation now in progress"
	gone := bootout
	gone.code, gone.said = noSuchService, "Boot-out failed: 113: Could not find service"
	refused := bootout
	refused.code, refused.said = 1, "Boot-out failed: 1: Operation not permitted"
	for name, tt := range map[string]struct {
		verb  Verb
		calls []call
		text  string // of the error
	}{
		"start":                   {Start, []call{notLoaded, bootstrap, running}, ""},
		"start what comes late":   {Start, []call{notLoaded, bootstrap, waiting, waiting, running}, ""},
		"start what is loaded":    {Start, []call{waiting, kickstart, running}, ""},
		"start what runs":         {Start, []call{running, running}, ""},
		"start fails":             {Start, []call{notLoaded, failed}, "Input/output error"},
		"stop":                    {Stop, []call{running, bootout, running, notLoaded}, ""},
		"stop what is stopped":    {Stop, []call{notLoaded}, ""},
		"stop what takes long":    {Stop, []call{running, busy, running, notLoaded}, ""},
		"stop what went meantime": {Stop, []call{running, gone, notLoaded}, ""},
		"stop fails":              {Stop, []call{running, refused}, "not permitted"},
		"restart":                 {Restart, []call{running, bootout, notLoaded, notLoaded, bootstrap, running}, ""},
		"restart what is stopped": {Restart, []call{notLoaded, notLoaded, bootstrap, running}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, l := mac(t, tt.calls...)
			err := l.Control(t.Context(), "fleet-agent", tt.verb)
			s.done()
			if (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v, want %q", err, tt.text)
			}
		})
	}
	s, l := mac(t)
	l.exists = func(string) bool { return false }
	if err := l.Control(t.Context(), "fleet-agent", Start); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("%v", err)
	}
	s.done()
}

// A daemon that does not come up is not waited for for ever, and where its log is
// is said.
func TestLaunchdGivesUp(t *testing.T) {
	s, l := mac(t, notLoaded, bootstrap)
	for range int(launchdPatience/launchdPause) + 1 {
		s.calls = append(s.calls, waiting)
	}
	err := l.Control(t.Context(), "fleet-agent", Start)
	s.done()
	if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), "last exit code 1") || !strings.Contains(ui.HintOf(err), "/var/log/fleet-agent.log") {
		t.Errorf("%v (%s)", err, ui.HintOf(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, l = mac(t, notLoaded, bootstrap, waiting)
	if err := l.Control(ctx, "fleet-agent", Start); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	s.done()
}

func TestLaunchdState(t *testing.T) {
	broken := call{argv: "/bin/launchctl print " + daemon, code: 1, said: "Operation not permitted"}
	for name, tt := range map[string]struct {
		call call
		want State
	}{
		"running": {running, State{Installed: true, Running: true, Boot: true, PID: 4711}},
		"failing": {waiting, State{Installed: true, Starting: true, Boot: true, Failed: true, Why: "it ended with exit code 1"}},
		"stopped": {notLoaded, State{Installed: true}},
	} {
		s, l := mac(t, tt.call)
		if got, err := l.State(t.Context(), "fleet-agent"); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tt.want)
		}
		s.done()
	}
	s, l := mac(t, broken)
	if _, err := l.State(t.Context(), "fleet-agent"); err == nil || !strings.Contains(err.Error(), "not permitted") {
		t.Errorf("%v", err)
	}
	s.done()
}

func TestLaunchdInstalls(t *testing.T) {
	w := newWorld(t)
	s, l := mac(t, call{argv: "/bin/launchctl enable " + daemon}, notLoaded, notLoaded, bootstrap, running, running)
	w.Manager = l
	w.d.Text = func(r Record) (string, error) { return "<!-- " + r.String() + " -->\n", nil }
	if done, err := w.Install(t.Context(), w.d); err != nil || !done.Started || !done.State.Running {
		t.Fatalf("%+v, %v", done, err)
	}
	s.done()
	w.has(plist, "copied=yes")
	s.calls = []call{running, bootout, notLoaded}
	if _, err := w.Uninstall(t.Context(), "fleet-agent", false); err != nil {
		t.Error(err)
	}
	s.done()
}

// What the module for nix-darwin defines has names of nix-darwin's.
func TestOfNixDarwin(t *testing.T) {
	m := OfNixDarwin()
	if got := m.File("fleet-agent"); got != "/Library/LaunchDaemons/org.nixos.fleet-agent.plist" {
		t.Error(got)
	}
	s := &standIn{t: t, calls: []call{{
		argv: "/bin/launchctl print system/org.nixos.fleet-agent", out: "system/org.nixos.fleet-agent = {\n\tstate = running\n\tpid = 7\n}\n",
	}}}
	l := launchd{prefix: darwinPrefix, run: s.run, exists: func(string) bool { return true }}
	if st, err := l.State(t.Context(), "fleet-agent"); err != nil || !st.Running || !st.Boot || st.PID != 7 {
		t.Errorf("%+v, %v", st, err)
	}
	s.done()
}
