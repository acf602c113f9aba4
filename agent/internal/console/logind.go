package console

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	logind     = "org.freedesktop.login1"
	properties = "org.freedesktop.DBus.Properties."
	// seat is the one that every machine has. Further seats have screens of their own, and
	// whoever is at them is not looked for.
	seat = dbus.ObjectPath("/org/freedesktop/login1/seat/seat0")
	// systemBus is the message bus: logind has no socket of its own.
	systemBus = "/run/dbus/system_bus_socket"
)

// errNoLogind says that there is no logind, and so nobody at its seats.
var errNoLogind = errors.New("there is no logind")

// session is the one at the seat, by logind's properties.
type session struct {
	person Person
	// class of the session: user, greeter and others.
	class string
	// idle says that its desktop calls it idle; a text session's is never asked.
	idle bool
	// since is when it was last used, where that is known, in monotonic time.
	since time.Duration
}

// atSeat asks logind who is at the seat; nil for nobody, errNoLogind where none can be asked.
func atSeat(ctx context.Context, socket string) (*session, error) {
	bus, err := dialBus(ctx, socket)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, errNoLogind
		}
		return nil, fmt.Errorf("connecting to the system's message bus: %w", err)
	}
	defer func() { _ = bus.Close() }()
	var active dbus.Variant
	err = bus.Object(logind, seat).CallWithContext(ctx, properties+"Get", 0, logind+".Seat", "ActiveSession").Store(&active)
	if err != nil {
		return nil, explain(err)
	}
	var at struct {
		ID   string
		Path dbus.ObjectPath
	}
	if err := active.Store(&at); err != nil || at.ID == "" {
		return nil, err //nolint:wrapcheck // It says what failed.
	}
	var all map[string]dbus.Variant
	err = bus.Object(logind, at.Path).CallWithContext(ctx, properties+"GetAll", 0, logind+".Session").Store(&all)
	if e, ok := errors.AsType[dbus.Error](err); ok && e.Name == "org.freedesktop.DBus.Error.UnknownObject" {
		return nil, nil //nolint:nilnil // It ended meanwhile.
	}
	if err != nil {
		return nil, explain(err)
	}
	return sessionOf(all)
}

// explain tells a system without logind from one whose logind does not answer.
func explain(err error) error {
	if e, ok := errors.AsType[dbus.Error](err); ok {
		switch e.Name {
		case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
			// No seat: of a logind that manages none.
			"org.freedesktop.DBus.Error.UnknownObject", "org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.UnitMasked":
			return errNoLogind
		}
	}
	return fmt.Errorf("asking logind: %w", err)
}

// textConsole is the name of a virtual console. What it is opened by comes from logind, and
// is a path.
var textConsole = regexp.MustCompile(`^tty[0-9]{1,2}$`)

// sessionOf reads the properties of a session.
func sessionOf(all map[string]dbus.Variant) (*session, error) {
	var user struct {
		UID  uint32
		Path dbus.ObjectPath
	}
	var s session
	var kind, tty string
	var active, remote bool
	var since uint64
	for name, into := range map[string]any{
		"User": &user, "Class": &s.class, "Type": &kind, "Active": &active, "Remote": &remote,
		"TTY": &tty, "IdleHint": &s.idle, "IdleSinceHintMonotonic": &since,
	} {
		v, ok := all[name]
		if !ok {
			return nil, fmt.Errorf("asking logind: a session without %s", name)
		}
		if err := v.Store(into); err != nil {
			return nil, fmt.Errorf("asking logind: %s of a session: %w", name, err)
		}
	}
	// A greeter is a screen that waits for somebody; a manager is none at all.
	if !active || remote || s.class != "user" && s.class != "user-early" && s.class != "user-light" && s.class != "user-early-light" {
		return nil, nil //nolint:nilnil // Nobody.
	}
	s.person = Person{UID: user.UID, Session: SessionGraphical}
	if kind == "tty" || kind == "unspecified" {
		s.person.Session = SessionText
		if textConsole.MatchString(tty) {
			s.person.TTY = tty
		}
	}
	s.since = time.Duration(since) * time.Microsecond //nolint:gosec // Centuries.
	return &s, nil
}

// unused is for how long the session was not used. A desktop says so itself, and does not
// always; a text console is used when its terminal is.
func (s *session) unused(now time.Duration) time.Duration {
	if s.since <= 0 || s.person.Session == SessionGraphical && !s.idle {
		return 0
	}
	return max(0, now-s.since)
}

// dialBus connects to a message bus, by the number of the user and not by the name, which
// may need a lookup.
func dialBus(ctx context.Context, socket string) (*dbus.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err //nolint:wrapcheck // The caller says what failed.
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // The handshake knows no context.
	}
	bus, err := dbus.NewConn(conn, dbus.WithContext(ctx))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err = bus.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err == nil {
		err = bus.Hello()
	}
	if err != nil {
		return nil, errors.Join(err, bus.Close())
	}
	return bus, nil
}
