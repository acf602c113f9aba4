package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/console"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// cli as the first argument makes the test binary fleet-agent.
const cli = "fleet-agent"

// sat is a host that somebody may sit at, and its clock.
type sat struct {
	*host

	mu    sync.Mutex
	facts console.Facts
	told  []console.Message
	ahead time.Duration
}

func (s *sat) Look(context.Context) console.Facts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.facts
}

func (s *sat) Tell(_ context.Context, _ console.Person, m console.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, m)
	return nil
}

func (s *sat) messages() []console.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]console.Message(nil), s.told...)
}

// becomes changes what is known of the console, lets time go by, and has the agent look.
func (s *sat) becomes(later time.Duration, change func(*console.Facts)) {
	s.mu.Lock()
	s.ahead += later
	if change != nil {
		change(&s.facts)
	}
	s.mu.Unlock()
	s.agent.console.mu.Lock()
	s.agent.console.at = time.Time{}
	s.agent.console.mu.Unlock()
	s.agent.wakeAll()
}

// newSat has a host that runs a first generation, and somebody at it who does nothing.
func newSat(t *testing.T) *sat {
	t.Helper()
	s := &sat{host: newHost(t), facts: console.Facts{
		Presence: console.Somebody, Person: console.Person{UID: uint32(os.Getuid()), Session: console.SessionGraphical}, Unused: time.Hour, //nolint:gosec // A uid.
	}}
	s.config.Console = s
	s.config.Now = func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		return time.Now().Add(s.ahead)
	}
	s.start()
	s.confirmed(1, "one")
	return s
}

// owes is a policy about the console.
func owes(c fleet.ConsolePolicy) func(*fleet.Generation) {
	return func(g *fleet.Generation) {
		g.Policy.Console = c
		if !c.IsZero() {
			g.Critical = append(g.Critical, fleet.CriticalConsole)
		}
	}
}

func (s *sat) waits(code fleet.ReasonCode) control.Profile {
	s.t.Helper()
	return waitProfile(s.t, s.host, string(code), func(p control.Profile) bool {
		// Not the moment in which they are being told.
		return p.State == fleet.StateHeld && p.Reason.Code == code && !strings.Contains(p.Reason.Message, "is told")
	})
}

func (s *sat) person() *control.PersonClient { return control.NewPersonClient(s.config.RunDir) }

var tenMinutes = fleet.ConsolePolicy{Notice: fleet.Duration(10 * time.Minute), Postpone: 2}

// TestConsoleTold: the person is told once, has the time that the policy gives, and it
// begins by itself then.
func TestConsoleTold(t *testing.T) {
	s := newSat(t)
	if _, err := s.person().Status(t.Context()); !errors.Is(err, control.ErrNoAgent) {
		t.Errorf("a socket that nobody needs yet: %v", err)
	}
	second := s.publish(2, "two", "", owes(tenMinutes))
	p := s.waits(fleet.ReasonConsoleNotice)
	if !strings.Contains(p.Reason.Message, "begins at") || !strings.Contains(p.Reason.Hint, "postpone (2 more)") {
		t.Errorf("status says %+v", p.Reason)
	}
	s.coord.WaitReason(fleet.ReasonConsoleNotice)
	s.becomes(9*time.Minute, nil)
	s.waits(fleet.ReasonConsoleNotice)
	s.expectServing("one")
	if m := s.messages(); len(m) != 1 || !strings.Contains(m[0].Body, "generation 1.2") || !strings.Contains(m[0].Body, "2 more times: fleet-agent postpone") {
		t.Errorf("told %q", m)
	}
	s.becomes(time.Minute, nil)
	s.coord.WaitState(fleet.StateConfirmed, second)
	if n := count(s.host, fleet.StateActivating, second); n != 1 || len(s.messages()) != 1 {
		t.Errorf("activated %d times, told %q", n, s.messages())
	}
	if _, err := os.Stat(s.agent.worker(fleet.System).waits.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what waited is remembered: %v", err)
	}
}

// TestConsoleNobody: where nobody is there, nobody is told, and nothing waits; nor is
// anybody told of what disturbs nobody.
func TestConsoleNobody(t *testing.T) {
	s := newSat(t)
	s.becomes(0, func(f *console.Facts) { f.Presence = console.Nobody })
	second := s.publish(2, "two", "", owes(tenMinutes))
	s.coord.WaitState(fleet.StateConfirmed, second)
	s.becomes(0, func(f *console.Facts) { f.Presence = console.Somebody })
	third := s.publish(3, "two", "", owes(tenMinutes)) // The same, under another number.
	s.coord.WaitState(fleet.StateConfirmed, third)
	if len(s.messages()) > 0 {
		t.Errorf("told %q", s.messages())
	}
}

// TestConsolePostponed: the person puts it off as often as the policy lets them, an agent
// that is started anew knows, and what is published meanwhile gives them no more.
func TestConsolePostponed(t *testing.T) {
	s := newSat(t)
	s.publish(2, "two", "", owes(tenMinutes))
	s.waits(fleet.ReasonConsoleNotice)
	if code, _, stderr := s.fleetAgent("postpone", "--for", "5h"); code != exitRefused || !strings.Contains(stderr, "4h0m0s at a time") {
		t.Errorf("longer than may be: %d, %s", code, stderr)
	}
	code, stdout, stderr := s.fleetAgent("postpone", "--for", "2h")
	if code != exitOK || !strings.Contains(stdout, "system: 1.2") || !strings.Contains(stdout, "may be 1 more times") {
		t.Errorf("postpone: %d, %s%s", code, stdout, stderr)
	}
	p := s.waits(fleet.ReasonPostponed)
	if !strings.Contains(p.Reason.Message, "by local/uid-") || !strings.Contains(p.Reason.Message, "1 of 2 times") {
		t.Errorf("status says %+v", p.Reason)
	}
	s.coord.WaitReason(fleet.ReasonPostponed)
	s.crash()
	s.start()
	s.waits(fleet.ReasonPostponed)

	s.becomes(2*time.Hour, nil)
	s.waits(fleet.ReasonConsoleNotice)
	if n := len(s.messages()); n != 2 {
		t.Errorf("told %d times: before it begins they are told again", n)
	}
	third := s.publish(3, "three", "", owes(tenMinutes))
	waitProfile(t, s.host, "one that waits with the third", func(p control.Profile) bool {
		return p.Desired == third && p.Reason.Code == fleet.ReasonConsoleNotice
	})
	if got, err := s.person().Postpone(t.Context(), 0); err != nil || len(got) != 1 || got[0].Left != 0 || got[0].Target != third {
		t.Fatalf("the last time: %+v, %v", got, err)
	}
	s.waits(fleet.ReasonPostponed)
	s.becomes(4*time.Hour, nil)
	s.waits(fleet.ReasonConsoleNotice)
	if _, err := s.person().Postpone(t.Context(), 0); !errors.Is(err, control.ErrNotPossible) || !strings.Contains(err.Error(), "allows no more") {
		t.Errorf("once too often: %v", err)
	}
	s.becomes(10*time.Minute, nil)
	s.coord.WaitState(fleet.StateConfirmed, third)
	if _, err := s.person().Postpone(t.Context(), 0); !errors.Is(err, control.ErrNotPossible) || !strings.Contains(err.Error(), "nothing waits") {
		t.Errorf("when it is over: %v", err)
	}
	// For the next one they may again.
	s.publish(4, "four", "", owes(tenMinutes))
	s.waits(fleet.ReasonConsoleNotice)
	if got, err := s.person().Postpone(t.Context(), 0); err != nil || got[0].Left != 1 {
		t.Errorf("the next one: %+v, %v", got, err)
	}
	// Which does not keep away what is published so that it can't be put off.
	fifth := s.publish(5, "five", "", owes(fleet.ConsolePolicy{}))
	s.coord.WaitState(fleet.StateConfirmed, fifth)
}

// TestConsoleRestarted: an agent that is started in the midst of a notice goes on with it,
// and one that cannot read what was before begins anew.
func TestConsoleRestarted(t *testing.T) {
	s := newSat(t)
	second := s.publish(2, "two", "", owes(tenMinutes))
	s.waits(fleet.ReasonConsoleNotice)
	path := s.agent.worker(fleet.System).waits.path
	s.crash()
	s.start()
	s.waits(fleet.ReasonConsoleNotice)
	if n := len(s.messages()); n != 1 {
		t.Errorf("told %d times", n)
	}
	s.crash()
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.waits(fleet.ReasonConsoleNotice)
	if n := len(s.messages()); n != 2 {
		t.Errorf("told %d times", n)
	}
	s.becomes(10*time.Minute, nil)
	s.coord.WaitState(fleet.StateConfirmed, second)
}

// TestConsolePower: what wants mains power waits for it, and not for ever; so does what
// wants a screen that nobody uses.
func TestConsolePower(t *testing.T) {
	s := newSat(t)
	rules := fleet.ConsolePolicy{Power: fleet.PowerAC, Idle: fleet.Duration(15 * time.Minute), AtMost: fleet.Duration(48 * time.Hour)}
	s.becomes(0, func(f *console.Facts) { f.OnBattery = true })
	second := s.publish(2, "two", "", owes(rules))
	if p := s.waits(fleet.ReasonOnBattery); !strings.Contains(p.Reason.Message, "at most") {
		t.Errorf("status says %+v", p.Reason)
	}
	s.becomes(0, func(f *console.Facts) { f.OnBattery, f.Unused = false, 0 })
	s.waits(fleet.ReasonInUse)
	s.becomes(0, func(f *console.Facts) { f.Unused = 15 * time.Minute })
	s.coord.WaitState(fleet.StateConfirmed, second)

	s.becomes(0, func(f *console.Facts) { f.OnBattery, f.Unused = true, 0 })
	third := s.publish(3, "three", "", owes(rules), func(g *fleet.Generation) { g.Expires = g.Issued.Add(30 * 24 * time.Hour) })
	s.waits(fleet.ReasonOnBattery)
	s.crash()
	s.start()
	s.waits(fleet.ReasonOnBattery)
	s.becomes(47*time.Hour, nil)
	s.waits(fleet.ReasonOnBattery)
	s.becomes(time.Hour, nil)
	s.coord.WaitState(fleet.StateConfirmed, third)
}

// TestConsoleRoot: what root asks for on the host waits for nobody: a retry, a file that
// is handed over, a way back.
func TestConsoleRoot(t *testing.T) {
	s := newSat(t)
	second := s.publish(2, "two", "", owes(tenMinutes))
	s.waits(fleet.ReasonConsoleNotice)
	if code, stdout, stderr := s.fleetAgent("retry"); code != exitOK || !strings.Contains(stdout, "waits no longer (console-notice") {
		t.Errorf("retry: %d, %s%s", code, stdout, stderr)
	}
	s.coord.WaitState(fleet.StateConfirmed, second)

	g, blob := s.generation(3, "three", "")
	owes(tenMinutes)(&g)
	env, third := s.fleet.Seal(g)
	if _, _, err := s.client().Apply(t.Context(), bytes.NewReader(s.carried(env, nil, blob))); err != nil {
		t.Fatal(err)
	}
	s.coord.WaitState(fleet.StateConfirmed, third)
	if n := len(s.messages()); n != 1 {
		t.Errorf("told %d times", n)
	}

	s.publish(4, "four", "", owes(tenMinutes))
	s.waits(fleet.ReasonConsoleNotice)
	if _, err := s.client().RollBack(t.Context(), fleet.System, fleet.Number{}); err != nil {
		t.Fatal(err)
	}
	waitProfile(t, s.host, "back", func(p control.Profile) bool { return p.Current == second })
	s.expectServing("two")
}

// TestConsoleDiskFull: what could not be written down was not put off, and whoever was told
// is not told again for that.
func TestConsoleDiskFull(t *testing.T) {
	s := newSat(t)
	s.publish(2, "two", "", owes(tenMinutes))
	s.waits(fleet.ReasonConsoleNotice)
	w := s.agent.worker(fleet.System)
	path := w.waits.path
	w.waits.mu.Lock()
	w.waits.path = filepath.Join(path, "below a file")
	w.waits.mu.Unlock()
	if _, err := s.person().Postpone(t.Context(), 0); err == nil || errors.Is(err, control.ErrNotPossible) || !strings.Contains(err.Error(), "recording") {
		t.Errorf("got %v", err)
	}
	s.waits(fleet.ReasonConsoleNotice)
	if is := w.waits.get(); is.Times != 0 {
		t.Errorf("it counts: %+v", is)
	}
}

// TestConsoleUsers: with real users, whoever is at the screen sees and postpones, another
// one is told why not, and nobody but root does more.
func TestConsoleUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("becoming other users needs root")
	}
	s := newSat(t)
	const alice, mallory = 1000, 1001
	s.becomes(0, func(f *console.Facts) { f.Person.UID = alice })
	if err := os.Chmod(filepath.Dir(s.config.RunDir), 0o711); err != nil { //nolint:gosec // As /run is.
		t.Fatal(err)
	}
	program := filepath.Join(filepath.Dir(s.config.RunDir), "program")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, exe, program)
	as := func(uid uint32, args ...string) (int, string) {
		cmd := exec.CommandContext(t.Context(), program, append(append([]string{cli}, args...), "--state-dir", s.config.StateDir, "--run-dir", s.config.RunDir)...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if e := (*exec.ExitError)(nil); err != nil && !errors.As(err, &e) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
	// Nobody is owed anything yet.
	for _, command := range []string{"status", "postpone"} {
		if code, out := as(alice, command); code == exitOK || !strings.Contains(out, "policy.console") {
			t.Errorf("%s before: %d, %s", command, code, out)
		}
	}
	s.publish(2, "two", "", owes(tenMinutes))
	s.waits(fleet.ReasonConsoleNotice)
	for _, command := range []string{"status", "postpone"} {
		if code, out := as(mallory, command); code != exitRefused || !strings.Contains(out, "only root and whoever is at this machine's screen may ask") {
			t.Errorf("%s by another user: %d, %s", command, code, out)
		}
	}
	if code, out := as(alice, "status"); code != exitOK || !strings.Contains(out, string(fleet.ReasonConsoleNotice)) || !strings.Contains(out, "begins at") {
		t.Errorf("status: %d, %s", code, out)
	}
	for _, args := range [][]string{{"pause", "x"}, {"rollback"}, {"retry"}, {"logs"}, {"resume"}} {
		if code, out := as(alice, args...); code == exitOK {
			t.Errorf("%q: %d, %s", args, code, out)
		}
	}
	if code, out := as(alice, "postpone", "--for", "1h"); code != exitOK || !strings.Contains(out, "is put off until") {
		t.Errorf("postpone: %d, %s", code, out)
	}
	if p := s.waits(fleet.ReasonPostponed); !strings.Contains(p.Reason.Message, "by local/uid-1000") {
		t.Errorf("status says %+v", p.Reason)
	}
	// Who leaves the screen may no more.
	s.becomes(0, func(f *console.Facts) { f.Person.UID = mallory })
	if code, out := as(alice, "postpone"); code != exitRefused {
		t.Errorf("from far away: %d, %s", code, out)
	}
	if code, out := as(mallory, "status"); code != exitOK {
		t.Errorf("who is there now: %d, %s", code, out)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755) //nolint:gosec // Others run it.
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestConsoleBoots: the person is told that the machine restarts, and it does once they
// had the time; where a person is asked for the boot, root's word is enough.
func TestConsoleBoots(t *testing.T) {
	b := newBootable(t)
	b.crash()
	s := &sat{host: b.host, facts: console.Facts{Presence: console.Somebody, Person: console.Person{UID: 1000, Session: console.SessionGraphical}}}
	b.config.Console = s
	b.start()
	second := b.publish(2, "two", neverRuns, reboot(fleet.RebootAuto), owes(fleet.ConsolePolicy{Notice: fleet.Duration(300 * time.Millisecond)}))
	b.reboot("two")
	b.coord.WaitState(fleet.StateConfirmed, second)
	if m := s.messages(); len(m) != 1 || !strings.Contains(m[0].Body, " and restarts it: save your work.") {
		t.Errorf("told %q", m)
	}
	third := b.publish(3, "three", neverRuns, reboot(fleet.RebootAsk), owes(tenMinutes))
	s.waits(fleet.ReasonRebootAsk)
	if _, err := b.client().Boot(t.Context(), fleet.System); err != nil {
		t.Fatal(err)
	}
	b.reboot("three")
	b.coord.WaitState(fleet.StateConfirmed, third)
	if n := len(s.messages()); n != 1 {
		t.Errorf("told %d times", n)
	}
}
