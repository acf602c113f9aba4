// Package consoletest plays a message bus with logind and a desktop on it, for tests.
package consoletest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/cameronraysmith/fleet/agent/internal/systemd/systemdtest"
)

// Seat is who is at seat0, as logind tells it.
type Seat struct {
	// UID is of the session's user; Session its id, empty for nobody.
	UID     uint32
	Session string
	// Class, Type and TTY are the session's; default user, wayland and none.
	Class, Type, TTY string
	Remote           bool
	Idle             bool
	// IdleSince is in microseconds of monotonic time.
	IdleSince uint64
}

// Bus is a message bus. Close it.
type Bus struct {
	listener net.Listener
	running  sync.WaitGroup

	mu      sync.Mutex
	seat    Seat
	fail    string
	silent  bool
	shown   [][]any
	looks   int
	conns   map[net.Conn]bool
	without []string
}

// Listen opens one at a socket.
func Listen(path string) (*Bus, error) {
	l, err := net.Listen("unix", path) //nolint:noctx // Close ends it.
	if err != nil {
		return nil, err //nolint:wrapcheck // For a test.
	}
	b := &Bus{listener: l, conns: map[net.Conn]bool{}}
	b.running.Go(b.accept)
	return b, nil
}

// Close ends it and all connections.
func (b *Bus) Close() {
	_ = b.listener.Close()
	b.do(func() {
		for c := range b.conns {
			_ = c.Close()
		}
	})
	b.running.Wait()
}

func (b *Bus) do(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// Sit has somebody be at the seat.
func (b *Bus) Sit(s Seat) { b.do(func() { b.seat = s }) }

// Fail has all calls but those of the bus itself fail with an error of that name; empty
// for not.
func (b *Bus) Fail(name string) { b.do(func() { b.fail = name }) }

// Silence has nobody answer any more.
func (b *Bus) Silence() { b.do(func() { b.silent = true }) }

// Without leaves properties of sessions out.
func (b *Bus) Without(names ...string) { b.do(func() { b.without = names }) }

// Shown are the notifications that were shown, as they came.
func (b *Bus) Shown() (all [][]any) {
	b.do(func() { all = append(all, b.shown...) })
	return all
}

// Looks counts how often somebody asked who is at the seat.
func (b *Bus) Looks() (n int) {
	b.do(func() { n = b.looks })
	return n
}

func (b *Bus) accept() {
	for {
		c, err := b.listener.Accept()
		if err != nil {
			return
		}
		b.do(func() { b.conns[c] = true })
		b.running.Go(func() {
			_ = b.serve(c) // Clients come and go.
			b.do(func() { delete(b.conns, c) })
			_ = c.Close()
		})
	}
}

// serve lets everybody in, then answers.
func (b *Bus) serve(c net.Conn) error {
	in := bufio.NewReader(c)
	if err := systemdtest.Authenticate(c, in, func() {}); err != nil {
		return err //nolint:wrapcheck // For nobody.
	}
	return b.answer(c, in)
}

func (b *Bus) answer(c net.Conn, in *bufio.Reader) error {
	for {
		call, err := dbus.DecodeMessage(in)
		if err != nil {
			return err //nolint:wrapcheck // As above.
		}
		if call.Type != dbus.TypeMethodCall {
			continue
		}
		body, name := b.reply(call)
		m := &dbus.Message{Type: dbus.TypeMethodReply, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()), dbus.FieldSender: dbus.MakeVariant("org.freedesktop.DBus"),
		}}
		if name == "silence" {
			continue
		}
		if name != "" {
			m.Type, m.Body = dbus.TypeError, []any{"as the test says"}
			m.Headers[dbus.FieldErrorName] = dbus.MakeVariant(name)
		}
		if len(m.Body) > 0 {
			m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(m.Body...))
		}
		if err := m.EncodeTo(c, binary.LittleEndian); err != nil {
			return errors.Join(err)
		}
	}
}

// reply is the answer to a call, or the name of the error.
func (b *Bus) reply(call *dbus.Message) (body []any, failure string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	method, _ := call.Headers[dbus.FieldMember].Value().(string)
	type named struct {
		ID   string
		Path dbus.ObjectPath
	}
	s := b.seat
	switch {
	case b.silent:
		return nil, "silence"
	case method == "Hello":
		return []any{":1.7"}, ""
	case b.fail != "":
		return nil, b.fail
	case method == "Get":
		b.looks++
		path := dbus.ObjectPath("/")
		if s.Session != "" {
			path = dbus.ObjectPath("/org/freedesktop/login1/session/" + s.Session)
		}
		return []any{dbus.MakeVariant(named{s.Session, path})}, ""
	case method == "GetAll":
		type user struct {
			UID  uint32
			Path dbus.ObjectPath
		}
		class, kind := s.Class, s.Type
		if class == "" {
			class = "user"
		}
		if kind == "" {
			kind = "wayland"
		}
		all := map[string]dbus.Variant{
			"User": dbus.MakeVariant(user{s.UID, "/org/freedesktop/login1/user/_1"}), "Class": dbus.MakeVariant(class),
			"Type": dbus.MakeVariant(kind), "Active": dbus.MakeVariant(true), "Remote": dbus.MakeVariant(s.Remote),
			"TTY": dbus.MakeVariant(s.TTY), "IdleHint": dbus.MakeVariant(s.Idle),
			"IdleSinceHintMonotonic": dbus.MakeVariant(s.IdleSince), "Name": dbus.MakeVariant("alice"),
		}
		for _, name := range b.without {
			delete(all, name)
		}
		return []any{all}, ""
	case method == "Notify":
		b.shown = append(b.shown, call.Body)
		return []any{uint32(1)}, ""
	}
	return nil, "org.freedesktop.DBus.Error.UnknownMethod"
}
