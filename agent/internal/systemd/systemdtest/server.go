// Package systemdtest plays systemd's side of its own socket, for tests.
package systemdtest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/cameronraysmith/fleet/agent/internal/systemd"
)

// busy is how long it does other things between two lines: long enough for what is
// sent at once to be there together.
const busy = 2 * time.Millisecond

// Unit is one that is in trouble.
type Unit struct {
	// Sub is its state: failed, auto-restart.
	Sub string
	// Status is what its main process ended with.
	Status int32
}

// Server is a systemd. What it says is changed, and looked at, within Do.
type Server struct {
	// Address is where it listens.
	Address systemd.Address

	// Units are those in trouble; called for each answer.
	Units func() map[string]Unit
	// Away has every other connection broken off, as by a systemd that replaces
	// itself by a newer one.
	Away bool
	// Services are how services are defined, by name.
	Services map[string]systemd.Definition
	// Result is how jobs end; default "done".
	Result string
	// Refuse has it start nothing, and say so.
	Refuse bool
	// Stopping has it say that the host is shut down.
	Stopping bool
	// Starting has it say that the boot is not over.
	Starting bool
	// Runs has it run what it starts, in sessions of their own.
	Runs bool
	// Processes are those that ran.
	Processes []*exec.Cmd
	// Groups is the directory of control groups in which scopes are made; empty for none.
	Groups string
	// Started are the transient units, with their settings.
	Started map[string]map[string]any
	// Calls are the methods that were called, with a unit's name where there is one.
	Calls []string

	t           *testing.T
	listener    net.Listener
	running     sync.WaitGroup
	mu          sync.Mutex // guards all but Address, for those who ask at once
	conns       map[net.Conn]bool
	connections int
}

// Start starts one that goes with the test.
func Start(t *testing.T) *Server {
	t.Helper()
	path := filepath.Join(t.TempDir(), "systemd")
	l, err := net.Listen("unix", path) //nolint:noctx // It ends with the test.
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		Address: systemd.Address(path), t: t, listener: l, conns: map[net.Conn]bool{},
		Units: func() map[string]Unit { return nil }, Started: map[string]map[string]any{}, Result: "done",
	}
	s.running.Go(s.accept)
	t.Cleanup(s.stop)
	return s
}

// Do runs what changes the server, or looks at it, while it answers nobody.
func (s *Server) Do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *Server) stop() {
	_ = s.listener.Close()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	for _, cmd := range s.Processes {
		_ = cmd.Process.Kill() // Where it has not ended.
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.connections++
		if s.Away && s.connections%2 == 1 {
			_ = c.Close()
			s.mu.Unlock()
			continue
		}
		s.conns[c] = true
		s.mu.Unlock()
		s.running.Go(func() {
			if err := s.serve(c); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.t.Logf("systemd's stand-in: %v", err)
			}
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			_ = c.Close()
		})
	}
}

// serve answers until the connection ends, and says how.
func (s *Server) serve(c net.Conn) error {
	in := bufio.NewReader(c)
	if err := Authenticate(c, in, func() { time.Sleep(busy) }); err != nil {
		return err
	}
	if in.Buffered() > 0 {
		// As systemd 257 does.
		s.t.Error("a message came together with the end of the authentication: systemd never looks at it")
	}
	return s.answer(c, in)
}

// Authenticate is the server's half of the D-Bus Specification's authentication, which lets
// everybody in; before is called ahead of each line.
func Authenticate(c io.Writer, in *bufio.Reader, before func()) error {
	if _, err := in.ReadByte(); err != nil {
		return err //nolint:wrapcheck // For a log.
	}
	for {
		before()
		line, err := in.ReadString('\n')
		if err != nil {
			return err //nolint:wrapcheck // As above.
		}
		answer := "ERROR"
		switch word, rest, _ := strings.Cut(strings.TrimSpace(line), " "); {
		case word == "AUTH" && rest == "":
			answer = "REJECTED EXTERNAL"
		case word == "AUTH":
			answer = "OK 0123456789abcdef0123456789abcdef"
		case word == "BEGIN":
			return nil
		}
		if _, err := io.WriteString(c, answer+"\r\n"); err != nil {
			return err //nolint:wrapcheck // As above.
		}
	}
}

func (s *Server) answer(c net.Conn, in *bufio.Reader) error {
	var serial uint32
	send := func(m *dbus.Message) error {
		serial++
		m.Headers[dbus.FieldSender] = dbus.MakeVariant("org.freedesktop.systemd1")
		if len(m.Body) > 0 {
			m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(m.Body...))
		}
		return m.EncodeTo(c, binary.LittleEndian)
	}
	for {
		call, err := dbus.DecodeMessage(in)
		if err != nil {
			return err //nolint:wrapcheck // As above.
		}
		if call.Type != dbus.TypeMethodCall {
			continue
		}
		body, signal, failure := s.reply(call)
		m := &dbus.Message{
			Type: dbus.TypeMethodReply, Body: body,
			Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(call.Serial())},
		}
		if failure != "" {
			m.Type = dbus.TypeError
			m.Headers[dbus.FieldErrorName] = dbus.MakeVariant("org.freedesktop.systemd1." + failure)
			m.Body = []any{failure}
		}
		if err := send(m); err != nil {
			return err
		}
		if signal != nil {
			if err := send(signal); err != nil {
				return err
			}
		}
	}
}

func (s *Server) reply(call *dbus.Message) (body []any, signal *dbus.Message, failure string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path, _ := call.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	method, _ := call.Headers[dbus.FieldMember].Value().(string)
	name := ""
	if len(call.Body) > 0 {
		name, _ = call.Body[0].(string)
	}
	s.Calls = append(s.Calls, strings.TrimSpace(method+" "+name))
	const units, started = "/org/freedesktop/systemd1/unit/", dbus.ObjectPath("/org/freedesktop/systemd1/job/7")
	switch method {
	case "ListUnitsFiltered":
		return []any{s.list(call)}, nil, ""
	case "LoadUnit":
		return []any{dbus.ObjectPath(units + escaped.Replace(name))}, nil, ""
	case "Get":
		unit := unescaped.Replace(strings.TrimPrefix(string(path), units))
		property, _ := call.Body[1].(string)
		return []any{dbus.MakeVariant(s.property(unit, property))}, nil, ""
	case "Reload":
		return nil, nil, ""
	case "RestartUnit":
		return []any{started}, nil, ""
	case "StartTransientUnit":
		if s.Refuse {
			return nil, nil, "NoSuchUnit"
		}
		settings := map[string]any{}
		for _, v := range call.Body[2].([][]any) { //nolint:forcetypeassert // A test fails then.
			settings[v[0].(string)] = v[1].(dbus.Variant).Value() //nolint:forcetypeassert // As above.
		}
		s.Started[name] = settings
		if s.Groups != "" && strings.HasSuffix(name, ".scope") {
			s.makeScope(name, settings)
		}
		if _, runs := settings["ExecStart"]; runs && s.Runs {
			s.run(settings["ExecStart"].([][]any)[0][1].([]string)) //nolint:forcetypeassert // As above.
		}
		return []any{started}, &dbus.Message{
			Type: dbus.TypeSignal, Body: []any{uint32(7), started, name, s.Result},
			Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/systemd1")),
				dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.systemd1.Manager"),
				dbus.FieldMember:    dbus.MakeVariant("JobRemoved"),
			},
		}, ""
	}
	return nil, nil, "NoSuchUnit"
}

// Names of units in paths of objects.
var (
	escaped   = strings.NewReplacer(".", "_2e", "-", "_2d")
	unescaped = strings.NewReplacer("_2e", ".", "_2d", "-")
)

// command is a line of ExecStart, as systemd tells it.
type command struct {
	Path                                         string
	Argv                                         []string
	Ignore                                       bool
	Began, BeganMonotonic, Ended, EndedMonotonic uint64
	PID                                          uint32
	Code, Status                                 int32
}

// job is one that a unit has, as systemd tells it.
type job struct {
	ID   uint32
	Path dbus.ObjectPath
}

// property is one of a unit.
func (s *Server) property(unit, name string) any {
	d := s.Services[unit]
	var first string
	more := []string{}
	if len(d.Files) > 0 {
		first, more = d.Files[0], d.Files[1:]
	}
	commands := []command{}
	if len(d.Argv) > 0 {
		commands = append(commands, command{Path: d.Argv[0], Argv: d.Argv})
	}
	switch name {
	case "Version":
		return "257.8-1"
	case "LoadState":
		return d.Load
	case "UnitFileState":
		return d.Enabled
	case "FragmentPath":
		return first
	case "DropInPaths":
		return more
	case "NeedDaemonReload":
		return d.Stale
	case "ExecStart":
		return commands
	case "MainPID":
		return d.MainPID
	case "Job":
		if s.Stopping {
			return job{9, "/org/freedesktop/systemd1/job/9"}
		}
		return job{0, "/"}
	case "ActiveState":
		return "inactive"
	case "SystemState":
		if s.Starting {
			return "starting"
		}
		return "degraded"
	}
	return s.Units()[unit].Status
}

// run starts a program, which ends with the server at the latest.
func (s *Server) run(argv []string) {
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // It ends with what it connects to.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		s.t.Errorf("starting %q: %v", argv, err)
		return
	}
	s.Processes = append(s.Processes, cmd)
	s.running.Go(func() { _ = cmd.Wait() })
}

// makeScope makes a scope's control group, and moves its processes there.
func (s *Server) makeScope(name string, settings map[string]any) {
	slice, _ := settings["Slice"].(string)
	top := filepath.Join(s.Groups, "user.slice")
	dir := filepath.Join(top, slice, name)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // Of the kernel's.
		s.t.Errorf("making a scope: %v", err)
	}
	pids, _ := settings["PIDs"].([]uint32)
	for _, pid := range pids {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.FormatUint(uint64(pid), 10)), 0o600); err != nil {
			s.t.Errorf("moving a process into a scope: %v", err)
		}
	}
	s.t.Cleanup(func() {
		for _, d := range []string{dir, filepath.Dir(dir), top} {
			_ = os.Remove(d) // Where nothing is in there.
		}
	})
}

// listed is a unit as systemd lists it.
type listed struct {
	Name, Description, Load, Active, Sub, Following string
	Path                                            dbus.ObjectPath
	JobID                                           uint32
	JobType                                         string
	JobPath                                         dbus.ObjectPath
}

func (s *Server) list(call *dbus.Message) []listed {
	states, _ := call.Body[0].([]string)
	out := []listed{}
	for name, u := range s.Units() {
		if slices.Contains(states, u.Sub) {
			out = append(out, listed{Name: name, Load: "loaded", Active: "whatever", Sub: u.Sub, Path: "/", JobPath: "/"})
		}
	}
	return out
}
