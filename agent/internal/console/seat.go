package console

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// Linux is the console of a Linux machine.
type Linux struct {
	// Bus is the socket of the system's message bus, on which logind is.
	Bus string
	// Power is the directory of the kernel's power supplies.
	Power string
	// Teller is the command that shows a message in the session of the user that it runs as:
	// title and body are appended.
	Teller []string
	// Awake is monotonic time that stands still while the machine sleeps.
	Awake func() time.Duration

	run    runner
	device string // of text consoles
}

// NewLinux is the console of this machine.
func NewLinux(teller []string, awake func() time.Duration) *Linux {
	return &Linux{Bus: systemBus, Power: "/sys/class/power_supply", Teller: teller, Awake: awake, run: runProgram, device: "/dev"}
}

// Look asks logind and the kernel.
func (l *Linux) Look(ctx context.Context) (f Facts) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	f.Presence = Nobody
	switch s, err := atSeat(ctx, l.Bus); {
	case errors.Is(err, errNoLogind):
	case err != nil:
		f.Presence, f.Doubt = Unknown, "who is at the console can't be told: "+err.Error()
	case s != nil:
		f.Presence, f.Person, f.Unused = Somebody, s.person, s.unused(l.Awake())
	}
	f.OnBattery = onBattery(l.Power)
	return f
}

// runtimeDirs has the sockets of the users' own message buses, by uid.
const runtimeDirs = "/run/user"

// Tell shows a message in the person's session: on their own message bus, as them, because
// what listens there is theirs; or on their text console.
func (l *Linux) Tell(ctx context.Context, to Person, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	if to.Session == SessionText {
		if to.TTY == "" {
			return fmt.Errorf("%w: their terminal is no text console", ErrUntold)
		}
		return writeTo(filepath.Join(l.device, to.TTY), "\r\n\a*** "+m.Title+"\r\n*** "+m.Body+"\r\n")
	}
	if len(l.Teller) == 0 {
		return fmt.Errorf("%w: there is no program for it", ErrUntold)
	}
	dir := filepath.Join(runtimeDirs, strconv.FormatUint(uint64(to.UID), 10))
	_, err := l.run(ctx, program{
		argv: append(slices.Clip(l.Teller), m.Title, m.Body), uid: to.UID,
		env: []string{"XDG_RUNTIME_DIR=" + dir, "DBUS_SESSION_BUS_ADDRESS=unix:path=" + dir + "/bus"},
	})
	return err
}

// writeTo writes to a terminal without waiting for it, as for one that somebody stopped.
func writeTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|noWait, 0)
	if err != nil {
		return fmt.Errorf("telling the person at the console: %w", err)
	}
	defer func() { _ = f.Close() }()
	if fi, err := f.Stat(); err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		return fmt.Errorf("%w: %s is no terminal", ErrUntold, path)
	}
	_ = f.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:forbidigo // The kernel's.
	if _, err := f.WriteString(text); err != nil {
		return fmt.Errorf("telling the person at the console: %w", err)
	}
	return nil
}
