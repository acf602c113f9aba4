// Package systemd asks the host's systemd over its own socket. That needs no
// message bus, which a switch may restart, and no process: one of systemctl takes
// some 15 ms, just before a switch may begin. The interface is
// org.freedesktop.systemd1(5).
package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	service  = "org.freedesktop.systemd1"
	object   = "/org/freedesktop/systemd1"
	manager  = service + ".Manager."
	property = "org.freedesktop.DBus.Properties.Get"
	// running is there where systemd is the first process: sd_booted(3).
	running = "/run/systemd/system"
	// private is systemd's own socket, for root only.
	private = "/run/systemd/private"
	// pending bounds signals that nobody has read yet.
	pending = 128
)

// ErrAbsent says that systemd is not what runs this host.
var ErrAbsent = errors.New("this host has no systemd")

// Address is where a systemd listens. The zero Address is the host's own, others
// are of tests.
type Address string

// Conn is a connection. Safe for concurrent use; Close it.
type Conn struct {
	bus     *dbus.Conn
	manager dbus.BusObject
}

// Connect connects to systemd. ErrAbsent where there is none; after any other
// error another attempt is worth while: one that replaces itself by a newer
// version does not listen for a moment. ctx bounds the connection's life, too.
func (a Address) Connect(ctx context.Context) (*Conn, error) {
	bus, err := a.dial(ctx)
	if err != nil {
		if _, there := os.Stat(running); a == "" && errors.Is(there, fs.ErrNotExist) {
			err = ErrAbsent
		}
		return nil, fmt.Errorf("connecting to systemd: %w", err)
	}
	return &Conn{bus: bus, manager: bus.Object(service, object)}, nil
}

func (a Address) dial(ctx context.Context) (*dbus.Conn, error) {
	path := string(a)
	switch {
	case a != "":
	case os.Geteuid() == 0:
		path = private
	default:
		return dbus.ConnectSystemBus(dbus.WithContext(ctx)) //nolint:wrapcheck // The caller says what failed.
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err //nolint:wrapcheck // As above.
	}
	bus, err := dbus.NewConn(conn, dbus.WithContext(ctx))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// Its number, and not its name, which may need a lookup.
	err = bus.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))})
	if err == nil {
		err = drain(ctx, conn)
	}
	if err != nil {
		return nil, errors.Join(err, bus.Close())
	}
	return bus, nil
}

// drain waits until the other end has read all that was written. systemd (257) does
// not look at a first message that it reads together with the end of the
// authentication, until more comes: one that was busy in that moment never answers.
func drain(ctx context.Context, conn net.Conn) error {
	raw, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	c, err := raw.SyscallConn()
	if err != nil {
		return err //nolint:wrapcheck // The caller says what failed.
	}
	for {
		var left int
		var unread error
		if err := c.Control(func(fd uintptr) { left, unread = outstanding(fd) }); err != nil || unread != nil {
			return errors.Join(err, unread)
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx) //nolint:wrapcheck // As above.
		case <-time.After(time.Millisecond / 4):
		}
	}
}

// Close ends the connection.
func (c *Conn) Close() error {
	if err := c.bus.Close(); err != nil && !errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("leaving systemd: %w", err)
	}
	return nil
}

// call calls a method of the manager.
func (c *Conn) call(ctx context.Context, method string, into []any, args ...any) error {
	if err := c.manager.CallWithContext(ctx, manager+method, 0, args...).Store(into...); err != nil {
		return fmt.Errorf("asking systemd (%s): %w", method, err)
	}
	return nil
}

// Version is what the manager says that its version is, such as "257.8-1".
func (c *Conn) Version(ctx context.Context) (version string, err error) {
	err = c.get(ctx, c.manager.Path(), "the manager", ".Manager", "Version", &version)
	return version, err
}

// Troubled lists the units that are failed, and those that wait to be started
// again, with the state that they are in.
func (c *Conn) Troubled(ctx context.Context) (map[string]string, error) {
	var units []struct {
		Name, Description, Load, Active, Sub, Following string
		Path                                            dbus.ObjectPath
		JobID                                           uint32
		JobType                                         string
		JobPath                                         dbus.ObjectPath
	}
	if err := c.call(ctx, "ListUnitsFiltered", []any{&units}, []string{"failed", "auto-restart", "auto-restart-queued"}); err != nil {
		return nil, err
	}
	states := make(map[string]string, len(units))
	for _, u := range units {
		states[u.Name] = u.Sub
	}
	return states, nil
}

// Booted says whether the host's boot is over: all that starts with it has, or has failed.
func (c *Conn) Booted(ctx context.Context) (bool, error) {
	var state string
	if err := c.manager.CallWithContext(ctx, property, 0, strings.TrimSuffix(manager, "."), "SystemState").Store(&state); err != nil {
		return false, fmt.Errorf("asking systemd (SystemState): %w", err)
	}
	return state != "initializing" && state != "starting", nil
}

// MainStatus is what the main process of a service ended with, the last time.
func (c *Conn) MainStatus(ctx context.Context, unit string) (int32, error) {
	var path dbus.ObjectPath
	if err := c.call(ctx, "LoadUnit", []any{&path}, unit); err != nil {
		return 0, err
	}
	var status int32
	err := c.get(ctx, path, unit, ".Service", "ExecMainStatus", &status)
	return status, err
}

// get reads a property of a unit, of its interface with that end.
func (c *Conn) get(ctx context.Context, path dbus.ObjectPath, unit, of, name string, into any) error {
	if err := c.bus.Object(service, path).CallWithContext(ctx, property, 0, service+of, name).Store(into); err != nil {
		return fmt.Errorf("asking systemd (%s of %s): %w", name, unit, err)
	}
	return nil
}

// Restart has systemd start a unit anew, whatever state it is in, and does not wait
// for that.
func (c *Conn) Restart(ctx context.Context, unit string) error {
	return c.anew(ctx, "RestartUnit", unit)
}

// Start has systemd start a unit, where it does not run or is being started, and does
// not wait for that.
func (c *Conn) Start(ctx context.Context, unit string) error {
	return c.anew(ctx, "StartUnit", unit)
}

// Reboot has systemd reboot the host as "systemctl reboot" does where nothing inhibits
// that: all services are stopped first.
func (c *Conn) Reboot(ctx context.Context) error {
	var job dbus.ObjectPath
	return c.call(ctx, "StartUnit", []any{&job}, "reboot.target", "replace-irreversibly")
}

// anew has systemd do something with a unit whose failures are forgotten.
func (c *Conn) anew(ctx context.Context, method, unit string) error {
	// Fails where nothing is to be reset.
	_ = c.call(ctx, "ResetFailedUnit", nil, unit)
	var job dbus.ObjectPath
	return c.call(ctx, method, []any{&job}, unit, "replace")
}

// Service is a transient service.
type Service struct {
	// Name of the unit, with its suffix.
	Name        string
	Description string
	// Argv is the program, an absolute path first.
	Argv []string
	// Log is a file that gets what it prints, at its end; default systemd's journal.
	Log string
	// Again has it started again while it fails.
	Again bool
	// Ends has it end when the host begins to shut down, and not with the last: while
	// the file systems that it works on are mounted still.
	Ends bool
	// After are units that a shutdown stops only when it has ended, where it Ends.
	After []string
	// Before is a unit that a shutdown stops before it tells this one to end, where it
	// Ends; empty for none.
	Before string
	// StopWithin is how long it may take to end when it is told to; default systemd's.
	StopWithin time.Duration
	// Alone keeps the others of its processes alive when the kernel ends one for want of
	// memory. systemd 243 and younger knows that.
	Alone bool
	// OOMScore is how readily the kernel ends it for want of memory: proc(5).
	OOMScore int32
	// Ahead says that nobody waits for it yet.
	Ahead bool
}

// setting is a property of a transient unit.
type setting struct {
	Name  string
	Value dbus.Variant
}

func set(name string, value any) setting { return setting{name, dbus.MakeVariant(value)} }

// ends are the settings of a service that ends when the host begins to shut down. What
// starts after another unit is stopped before it. None of them is required: what a
// switch stops must not take the service with it.
func (s Service) ends() []setting {
	before := []string{shutdown}
	if s.Before != "" {
		before = append(before, s.Before)
	}
	return []setting{
		set("Conflicts", []string{shutdown}), set("Before", before),
		set("After", append([]string{"local-fs.target"}, s.After...)),
	}
}

// StartTransient is Conn's, over a connection of its own, and again as Ask does.
func (a Address) StartTransient(ctx context.Context, s Service) error {
	return a.Ask(ctx, func(ctx context.Context, c *Conn) error { return c.StartTransient(ctx, s) })
}

// StartTransient starts a service whose processes systemd does not end with it, and
// which goes when it is over. It returns when its program runs; ahead of time, when it
// is to be started: systemd tells of each step with all properties of the service,
// milliseconds to read.
func (c *Conn) StartTransient(ctx context.Context, s Service) error {
	if len(s.Argv) == 0 || !filepath.IsAbs(s.Argv[0]) {
		return fmt.Errorf("starting %s: program %q: want an absolute path", s.Name, strings.Join(s.Argv, " "))
	}
	type command struct {
		Path   string
		Argv   []string
		Ignore bool
	}
	settings := []setting{
		set("Description", s.Description),
		set("Type", "exec"),
		set("KillMode", "process"),
		set("OOMScoreAdjust", s.OOMScore),
		// What services usually require would be started again wherever it had failed,
		// and the failure blamed on what is activated; a change of targets ends those.
		set("DefaultDependencies", false),
		set("IgnoreOnIsolate", true),
		set("CollectMode", "inactive-or-failed"),
		set("ExecStart", []command{{s.Argv[0], s.Argv, false}}),
	}
	if s.Again {
		settings = append(settings, set("Restart", "on-failure"), set("RestartUSec", uint64(time.Second/time.Microsecond)))
	}
	if s.Ends {
		settings = append(settings, s.ends()...)
	}
	if s.StopWithin > 0 {
		settings = append(settings, set("TimeoutStopUSec", uint64(s.StopWithin/time.Microsecond)))
	}
	if s.Alone {
		settings = append(settings, set("OOMPolicy", "continue"))
	}
	if s.Log != "" {
		settings = append(settings, set("StandardOutputFileToAppend", s.Log), set("StandardErrorFileToAppend", s.Log))
	}
	return c.startTransient(ctx, s.Name, settings, s.Ahead)
}

// startTransient starts a transient unit. It returns when its job has ended; ahead of
// time, when there is one.
func (c *Conn) startTransient(ctx context.Context, name string, settings []setting, ahead bool) error {
	type unit struct {
		Name     string
		Settings []setting
	}
	var job dbus.ObjectPath
	if ahead {
		return c.call(ctx, "StartTransientUnit", []any{&job}, name, "fail", settings, []unit{})
	}
	ended := make(chan *dbus.Signal, pending)
	c.bus.Signal(ended)
	defer c.bus.RemoveSignal(ended)
	if err := c.call(ctx, "StartTransientUnit", []any{&job}, name, "fail", settings, []unit{}); err != nil {
		return err
	}
	return c.wait(ctx, ended, job, name)
}

// wait returns when a job has ended. systemd tells each of its own connections,
// and on a bus those that asked for it.
func (c *Conn) wait(ctx context.Context, signals <-chan *dbus.Signal, job dbus.ObjectPath, unit string) error {
	for {
		select {
		case s, ok := <-signals:
			if !ok {
				return fmt.Errorf("starting %s: %w", unit, dbus.ErrClosed)
			}
			var id uint32
			var path dbus.ObjectPath
			var name, result string
			if s.Name != manager+"JobRemoved" || dbus.Store(s.Body, &id, &path, &name, &result) != nil || path != job {
				continue
			}
			if result != "done" {
				return fmt.Errorf("starting %s: systemd says %q: see its journal", unit, result)
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("starting %s: %w", unit, context.Cause(ctx))
		}
	}
}
