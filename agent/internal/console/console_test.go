package console

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/agent/internal/console/consoletest"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "show" {
		if err := Show(context.Background(), Message{os.Args[2], os.Args[3]}); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func newBus(t *testing.T) (*consoletest.Bus, *Linux) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bus")
	b, err := consoletest.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := NewLinux([]string{exe, "show"}, func() time.Duration { return time.Hour })
	l.Bus, l.Power = path, t.TempDir()
	return b, l
}

func TestLogind(t *testing.T) {
	b, l := newBus(t)
	alice := Person{UID: 1000, Session: SessionGraphical}
	text := Person{UID: 1000, Session: SessionText, TTY: "tty2"}
	at := func(s consoletest.Seat) consoletest.Seat {
		s.Session, s.UID = "_31", 1000
		return s
	}
	const halfHour = 30 * 60 * 1_000_000
	for name, x := range map[string]struct {
		seat consoletest.Seat
		want Facts
	}{
		"nobody":                   {consoletest.Seat{}, Facts{Presence: Nobody}},
		"somebody":                 {at(consoletest.Seat{}), Facts{Presence: Somebody, Person: alice}},
		"idle":                     {at(consoletest.Seat{Idle: true, IdleSince: halfHour}), Facts{Presence: Somebody, Person: alice, Unused: 30 * time.Minute}},
		"a desktop that was idle":  {at(consoletest.Seat{IdleSince: halfHour}), Facts{Presence: Somebody, Person: alice}},
		"a clock that is ahead":    {at(consoletest.Seat{Idle: true, IdleSince: 3 * halfHour}), Facts{Presence: Somebody, Person: alice}},
		"a text console":           {at(consoletest.Seat{Type: "tty", TTY: "tty2", IdleSince: halfHour}), Facts{Presence: Somebody, Person: text, Unused: 30 * time.Minute}},
		"a path for a terminal":    {at(consoletest.Seat{Type: "tty", TTY: "tty1/../sda"}), Facts{Presence: Somebody, Person: Person{UID: 1000, Session: SessionText}}},
		"a greeter":                {at(consoletest.Seat{Class: "greeter"}), Facts{Presence: Nobody}},
		"somebody from far away":   {at(consoletest.Seat{Remote: true}), Facts{Presence: Nobody}},
		"root":                     {consoletest.Seat{Session: "c1"}, Facts{Presence: Somebody, Person: Person{Session: SessionGraphical}}},
		"a session of no known id": {consoletest.Seat{UID: 1000}, Facts{Presence: Nobody}},
	} {
		b.Sit(x.seat)
		if got := l.Look(t.Context()); got != x.want {
			t.Errorf("%s: got %+v, want %+v", name, got, x.want)
		}
	}
}

// TestLogindThatFails: where there is none, nobody is there; where it does not answer,
// somebody may be.
func TestLogindThatFails(t *testing.T) {
	b, l := newBus(t)
	b.Sit(consoletest.Seat{Session: "_31", UID: 1000})
	for name, want := range map[string]Presence{
		"org.freedesktop.DBus.Error.ServiceUnknown": Nobody, "org.freedesktop.DBus.Error.UnknownObject": Nobody,
		"org.freedesktop.systemd1.UnitMasked": Nobody, "org.freedesktop.DBus.Error.NoReply": Unknown,
		"org.freedesktop.DBus.Error.AccessDenied": Unknown,
	} {
		b.Fail(name)
		if f := l.Look(t.Context()); f.Presence != want || (f.Doubt == "") != (want == Nobody) {
			t.Errorf("%s: %+v", name, f)
		}
	}
	b.Fail("")
	b.Without("User")
	if f := l.Look(t.Context()); f.Presence != Unknown || !strings.Contains(f.Doubt, "without User") {
		t.Errorf("a session of nobody: %+v", f)
	}
	b.Silence()
	began := time.Now()
	if f := l.Look(t.Context()); f.Presence != Unknown || f.Doubt == "" {
		t.Errorf("a bus that does not answer: %+v", f)
	}
	if took := time.Since(began); took > lookTimeout+time.Second {
		t.Errorf("looked for %s", took)
	}
	l.Bus += ".gone"
	if f := l.Look(t.Context()); f != (Facts{Presence: Nobody}) {
		t.Errorf("without a bus: %+v", f)
	}
}

func TestPower(t *testing.T) {
	type supply map[string]string
	ac := func(online string) supply { return supply{"type": "Mains", "online": online} }
	usb := func(online string) supply { return supply{"type": "USB", "online": online} }
	battery := func(status string) supply { return supply{"type": "Battery", "status": status, "scope": "System"} }
	mouse := supply{"type": "Battery", "status": "Discharging", "scope": "Device"}
	for name, x := range map[string]struct {
		supplies []supply
		want     bool
	}{
		"a desktop":                 {nil, false},
		"a desktop with a mouse":    {[]supply{mouse}, false},
		"a laptop at the wall":      {[]supply{ac("1"), battery("Charging"), usb("0")}, false},
		"a laptop":                  {[]supply{ac("0"), battery("Discharging")}, true},
		"one that charges by USB":   {[]supply{ac("0"), usb("1"), battery("Full")}, false},
		"one that says little":      {[]supply{ac("0"), battery("Unknown")}, true},
		"a battery alone":           {[]supply{battery("Discharging")}, true},
		"a battery that is full":    {[]supply{battery("Full")}, false},
		"mains off, and no battery": {[]supply{ac("0")}, false},
		"two batteries":             {[]supply{battery("Full"), battery("Discharging")}, true},
		"nothing to be read":        {[]supply{{}, {"online": "0"}}, false},
	} {
		dir := t.TempDir()
		for i, s := range x.supplies {
			sub := filepath.Join(dir, string(rune('a'+i)))
			if err := os.Mkdir(sub, 0o700); err != nil {
				t.Fatal(err)
			}
			for file, text := range s {
				if err := os.WriteFile(filepath.Join(sub, file), []byte(text+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := onBattery(dir); got != x.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if onBattery(filepath.Join(t.TempDir(), "none")) {
		t.Error("a kernel without power supplies is on battery")
	}
}

// TestShow: a message arrives on the person's own bus as it was written, markup and all,
// through the program that runs as them.
func TestShow(t *testing.T) {
	b, l := newBus(t)
	l.run = func(ctx context.Context, p program) ([]byte, error) {
		want := []string{"XDG_RUNTIME_DIR=/run/user/1000", "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus"}
		if p.uid != 1000 || !slices.Equal(p.env, want) {
			t.Errorf("run as %d with %q", p.uid, p.env)
		}
		p.uid, p.env = 0, []string{"DBUS_SESSION_BUS_ADDRESS=unix:path=" + l.Bus}
		return runProgram(ctx, p)
	}
	if err := l.Tell(t.Context(), Person{UID: 1000, Session: SessionGraphical}, Message{"An update", "$(id) <b>begins</b> & \"ends\""}); err != nil {
		t.Fatal(err)
	}
	shown := b.Shown()
	if len(shown) != 1 || shown[0][0] != "fleet" || shown[0][3] != "An update" || shown[0][4] != "$(id) &lt;b&gt;begins&lt;/b&gt; &amp; \"ends\"" {
		t.Errorf("shown: %q", shown)
	}
	b.Fail("org.freedesktop.DBus.Error.ServiceUnknown")
	if err := l.Tell(t.Context(), Person{UID: 1000, Session: SessionGraphical}, Message{}); err == nil || !strings.Contains(err.Error(), "showing a notification") {
		t.Errorf("without a desktop: %v", err)
	}
	l.Teller = nil
	if err := l.Tell(t.Context(), Person{UID: 1000, Session: SessionGraphical}, Message{}); !errors.Is(err, ErrUntold) {
		t.Errorf("without a teller: %v", err)
	}
	if err := Show(t.Context(), Message{}); !errors.Is(err, ErrUntold) {
		t.Errorf("without a bus: %v", err)
	}
}

// TestTextConsole: a message goes to a terminal and to nothing else, and does not wait for
// one that nobody reads.
func TestTextConsole(t *testing.T) {
	_, l := newBus(t)
	l.device = t.TempDir()
	to := Person{Session: SessionText, TTY: "tty1"}
	if err := os.WriteFile(filepath.Join(l.device, "tty1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Tell(t.Context(), to, Message{"a", "b"}); !errors.Is(err, ErrUntold) {
		t.Errorf("a file: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(l.device, "tty1")); err != nil || len(b) > 0 {
		t.Errorf("written to a file: %q, %v", b, err)
	}
	if err := l.Tell(t.Context(), Person{Session: SessionText}, Message{}); !errors.Is(err, ErrUntold) {
		t.Errorf("no text console: %v", err)
	}
	if err := l.Tell(t.Context(), Person{Session: SessionText, TTY: "tty9"}, Message{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none there: %v", err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(l.device, "tty3")); err != nil {
		t.Fatal(err)
	}
	if err := l.Tell(t.Context(), Person{Session: SessionText, TTY: "tty3"}, Message{"a", "b"}); err != nil {
		t.Errorf("a device: %v", err)
	}
}

func TestProgramIsBounded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := runProgram(ctx, program{argv: []string{"/bin/sh", "-c", "sleep 60 & sleep 60"}}); err == nil {
		t.Error("ended")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	out, err := runProgram(t.Context(), program{argv: []string{"/bin/sh", "-c", "head -c 1000000 /dev/zero"}})
	if err != nil || len(out) != maxOutput {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	if _, err := runProgram(t.Context(), program{argv: []string{"/bin/sh", "-c", "printf 'no\\033[2J way\\nmore'; exit 3"}}); err == nil || !strings.HasSuffix(err.Error(), ": no[2J way") {
		t.Errorf("got %q", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	out, err = runProgram(t.Context(), program{argv: []string{"/bin/sh", "-c", "id -u; id -G; env"}, uid: 1000})
	if err != nil || !strings.HasPrefix(string(out), "1000\n65534\n") || strings.Contains(string(out), "HOME=") {
		t.Errorf("as somebody: %q, %v", out, err)
	}
}

// What a Mac of 2023 prints: ioreg -c IOHIDSystem -d 4 -r -k HIDIdleTime, and pmset -g batt.
const (
	ioreg = `+-o IOHIDSystem  <class IOHIDSystem, id 0x1000003f1, registered, matched, active, busy 0 (1 ms), retain 27>
    {
      "IOClass" = "IOHIDSystem"
      "HIDScrollCountMap" = <>
      "HIDParameters" = {"HIDClickTime"=500000000,"HIDIdleTimeX"=7}
      "HIDIdleTime" = 1234567890123
    }
`
	onMains = "Now drawing from 'AC Power'\n -InternalBattery-0 (id=22216803)\t100%; charged; 0:00 remaining present: true\n"
	unplugs = "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=22216803)\t87%; discharging; 6:40 remaining present: true\n"
	desktop = "Now drawing from 'AC Power'\n"
)

func TestMac(t *testing.T) {
	answers := func(ioreg, pmset string) runner {
		return func(_ context.Context, p program) ([]byte, error) {
			switch {
			case filepath.Base(p.argv[0]) == "ioreg" && ioreg != "":
				return []byte(ioreg), nil
			case filepath.Base(p.argv[0]) == "pmset" && pmset != "":
				return []byte(pmset), nil
			}
			return nil, syscall.ENOENT
		}
	}
	somebody := Person{UID: 501, Session: SessionGraphical}
	for name, x := range map[string]struct {
		uid          uint32
		ioreg, pmset string
		want         Facts
	}{
		"the login window":  {0, ioreg, desktop, Facts{Presence: Nobody}},
		"idle on mains":     {501, ioreg, onMains, Facts{Presence: Somebody, Person: somebody, Unused: 1234567890123}},
		"idle on battery":   {501, ioreg, unplugs, Facts{Presence: Somebody, Person: somebody, Unused: 1234567890123, OnBattery: true}},
		"another ioreg":     {501, "+-o Root\n", onMains, Facts{Presence: Somebody, Person: somebody, Doubt: "whether the screen is used can't be told: ioreg names no HIDIdleTime"}},
		"a huge number":     {501, `"HIDIdleTime" = 99999999999999999999`, onMains, Facts{Presence: Somebody, Person: somebody, Doubt: "whether the screen is used can't be told: ioreg's HIDIdleTime: strconv.ParseInt: parsing \"99999999999999999999\": value out of range"}},
		"no program at all": {501, "", "", Facts{Presence: Somebody, Person: somebody, Doubt: "whether the screen is used can't be told: " + syscall.ENOENT.Error()}},
	} {
		m := &Mac{run: answers(x.ioreg, x.pmset), owner: func() (uint32, error) { return x.uid, nil }}
		if got := m.Look(t.Context()); got != x.want {
			t.Errorf("%s: got %+v, want %+v", name, got, x.want)
		}
	}
	m := &Mac{run: answers(ioreg, unplugs), owner: func() (uint32, error) { return 0, syscall.EIO }}
	if f := m.Look(t.Context()); f.Presence != Unknown || f.Doubt == "" || !f.OnBattery {
		t.Errorf("an owner that can't be told: %+v", f)
	}
}

// TestMacTells: a message is an argument, and never a part of what osascript runs.
func TestMacTells(t *testing.T) {
	var got program
	m := &Mac{run: func(_ context.Context, p program) ([]byte, error) {
		got = p
		return nil, nil
	}}
	evil := `" & (do shell script "id") & "`
	if err := m.Tell(t.Context(), Person{UID: 501}, Message{"An update", evil}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/bin/launchctl", "asuser", "501", "/usr/bin/sudo", "-n", "-u", "#501", "/usr/bin/osascript",
		"-e", "on run argv", "-e", "display notification (item 2 of argv) with title (item 1 of argv)", "-e", "end run", "An update", evil,
	}
	if !slices.Equal(got.argv, want) || got.uid != 0 {
		t.Errorf("ran %q as %d", got.argv, got.uid)
	}
}
