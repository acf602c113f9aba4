package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/agent/internal/permission"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/service"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manager has services as a test says.
type manager map[string]service.State

func (manager) File(string) string                                            { return "" }
func (manager) Load(context.Context, string) error                            { return nil }
func (manager) Unload(context.Context, string) error                          { return nil }
func (manager) Forget(context.Context, string) error                          { return nil }
func (manager) Control(context.Context, string, service.Verb) error           { return nil }
func (m manager) State(_ context.Context, name string) (service.State, error) { return m[name], nil }

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// daemon is the end of a Nix daemon that says hello.
func daemon(hello uint64) net.Conn {
	ours, theirs := net.Pipe()
	go func() {
		defer func() { _ = theirs.Close() }()
		if _, err := io.ReadFull(theirs, make([]byte, 8)); err == nil && hello != 0 {
			_, _ = theirs.Write(binary.LittleEndian.AppendUint64(nil, hello))
		}
	}()
	return ours
}

// well is a host that lacks nothing.
func well(t *testing.T, mac bool) Host {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"sys/fs/cgroup", "nix/store", "state", "usr/local/bin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil { //nolint:gosec // A test's.
			t.Fatal(err)
		}
	}
	for _, file := range []string{"sys/fs/cgroup/cgroup.controllers", "usr/local/bin/fleet-agent"} {
		if err := os.WriteFile(filepath.Join(root, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	runs := service.State{Installed: true, Running: true, Boot: true}
	h := Host{
		Mac: mac, Root: root, StateDir: "/state", Now: func() time.Time { return now }, Synced: func() bool { return true },
		Manager: manager{"agent": runs, "dead-man": {Installed: true, Boot: !mac}}, AgentService: "agent", DeadMan: "dead-man", Program: "/usr/local/bin/fleet-agent",
		Ask: func(context.Context) (control.Status, error) {
			return control.Status{Machine: "web1", AgentVersion: "1.2", CoordinatorSeen: now}, nil
		},
		Binding: func() (identity.Binding, error) {
			return identity.Binding{Machine: "web1", Fleet: "home", Addresses: []string{"[fd00::1]:7443"}, CA: "sha256:0123456789abcdef", Root: "sha256:fedcba9876543210", Issued: now.Add(-time.Hour)}, nil
		},
		Expiry:         func() (time.Time, error) { return now.Add(24 * time.Hour), nil },
		Dial:           func(context.Context, string, string) (net.Conn, error) { return daemon(daemonsHello), nil },
		Nix:            func() bool { return true },
		SystemdVersion: func(context.Context) (string, error) { return "257.8-1~deb13u2", nil },
		BootOnce:       func() (string, error) { return "", nil },
		Permissions: func(context.Context) (map[string]permission.Permission, error) {
			granted := permission.Permission{Answer: permission.Granted, Detail: "may be"}
			return map[string]permission.Permission{permission.AppManagement: granted, permission.FullDiskAccess: granted}, nil
		},
		ConsoleUser: func(context.Context) (uint32, error) { return 501, nil },
	}
	if mac {
		h.BootOnce = nil
	}
	return h
}

// TestOfAnotherUser: beside a host that is well, what only root may look at is unknown,
// with sudo as the way, and nothing is missing.
func TestOfAnotherUser(t *testing.T) {
	h := well(t, false)
	h.EUID = 1000
	h.Ask = func(context.Context) (control.Status, error) {
		return control.Status{}, fmt.Errorf("%w to ask the agent", control.ErrNotAllowed)
	}
	h.Binding = func() (identity.Binding, error) {
		return identity.Binding{}, &os.PathError{Op: "open", Path: "binding.json", Err: syscall.EACCES}
	}
	findings := h.Examine(t.Context())
	if Lacks(findings) {
		t.Errorf("something is missing: %+v", findings)
	}
	for _, f := range findings {
		if f.State == Unknown && f.Hint != useSudo {
			t.Errorf("%+v", f)
		}
	}
	for what, err := range map[string]error{useSudo: syscall.EACCES, "": syscall.EIO} {
		if f := noRoom("room for state", "/state", err); f.State != Unknown || f.Hint != what {
			t.Errorf("%v: %+v", err, f)
		}
	}
}

func TestWell(t *testing.T) {
	for _, mac := range []bool{false, true} {
		findings := well(t, mac).Examine(t.Context())
		if len(findings) < 12 || Lacks(findings) {
			t.Errorf("%+v", findings)
		}
		for _, f := range findings {
			if f.State != OK || f.Detail == "" || f.Name == "" {
				t.Errorf("mac %t: %+v", mac, f)
			}
		}
	}
}

// TestFindings: each thing that a host can lack is found, told from what it only does
// better with, and has something to do.
func TestFindings(t *testing.T) {
	no := errors.New("no")
	refused := func(err error) func(h *Host) {
		return func(h *Host) {
			h.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, err }
		}
	}
	says := func(st control.Status, err error) func(h *Host) {
		return func(h *Host) { h.Ask = func(context.Context) (control.Status, error) { return st, err } }
	}
	services := func(name string, st service.State) func(h *Host) {
		return func(h *Host) { h.Manager.(manager)[name] = st } //nolint:forcetypeassert // A test's.
	}
	version := func(v string, err error) func(h *Host) {
		return func(h *Host) { h.SystemdVersion = func(context.Context) (string, error) { return v, err } }
	}
	permits := func(a permission.Answer, err error) func(h *Host) {
		return func(h *Host) {
			h.Permissions = func(context.Context) (map[string]permission.Permission, error) {
				p := permission.Permission{Answer: a, Detail: "tried"}
				return map[string]permission.Permission{permission.AppManagement: p, permission.FullDiskAccess: p}, err
			}
		}
	}
	away := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	closed := fmt.Errorf("%w to ask the agent", control.ErrNotAllowed)
	expires := func(until time.Time, err error) func(h *Host) {
		return func(h *Host) { h.Expiry = func() (time.Time, error) { return until, err } }
	}
	noAgent := ui.WithHint(control.ErrNoAgent, "start it")
	for name, tt := range map[string]struct {
		mac   bool
		spoil func(*Host)
		of    string
		want  State
		says  string
	}{
		"not root":               {false, func(h *Host) { h.EUID = 1000 }, "user", Warning, "not root"},
		"no manager":             {false, func(h *Host) { h.Manager = nil }, "service", Warning, "no service manager"},
		"no manager, at boot":    {false, func(h *Host) { h.Manager = nil }, "dead-man at boot", Warning, "without an agent"},
		"no manager, systemd":    {false, func(h *Host) { h.Manager = nil }, "systemd", Warning, "does not run"},
		"not installed":          {false, services("agent", service.State{}), "service", Missing, "not installed"},
		"stopped":                {false, services("agent", service.State{Installed: true}), "service", Missing, "stopped"},
		"not at boot":            {false, services("agent", service.State{Installed: true, Running: true}), "service", Warning, "does not start with the host"},
		"failed":                 {false, services("agent", service.State{Installed: true, Failed: true, Why: "x"}), "service", Missing, "failed"},
		"no dead-man":            {false, services("dead-man", service.State{}), "dead-man at boot", Missing, "does not start"},
		"dead-man disabled":      {false, services("dead-man", service.State{Installed: true}), "dead-man at boot", Missing, "does not start"},
		"no dead-man on a Mac":   {true, services("dead-man", service.State{}), "dead-man at boot", Missing, "does not start"},
		"no agent":               {false, says(control.Status{}, noAgent), "agent", Missing, "no agent"},
		"not asked":              {false, says(control.Status{}, no), "agent", Unknown, "no"},
		"not enrolled, and runs": {false, says(control.Status{}, nil), "agent", Missing, "not enrolled"},
		"held": {true, says(control.Status{Machine: "web1", Profiles: []control.Profile{{ProfileStatus: fleet.ProfileStatus{
			Profile: fleet.System, State: fleet.StateHeld, Reason: fleet.Reason{Code: fleet.ReasonNoAppManagement, Message: "m", Hint: "h"},
		}}}}, nil), "agent", Missing, "no-app-management"},
		"no nix":                      {false, func(h *Host) { h.Nix = func() bool { return false } }, "nix", Warning, "only bundles"},
		"no daemon on Linux":          {false, refused(away), "nix daemon", OK, "needs none"},
		"no daemon on a Mac":          {true, refused(away), "nix daemon", Missing, "refused"},
		"daemon is not for this user": {false, refused(os.ErrPermission), "nix daemon", Unknown, "permission"},
		"daemon that hangs up": {false, func(h *Host) {
			h.Dial = func(context.Context, string, string) (net.Conn, error) { return daemon(0), nil }
		}, "nix daemon", Missing, "does not answer"},
		"no Nix daemon": {false, func(h *Host) {
			h.Dial = func(context.Context, string, string) (net.Conn, error) { return daemon(7), nil }
		}, "nix daemon", Missing, "is no Nix daemon"},
		"systemd is away":               {false, version("", no), "systemd", Unknown, "no"},
		"old systemd":                   {false, version("239", nil), "systemd", Missing, "239"},
		"odd systemd":                   {false, version("v", nil), "systemd", Unknown, `"v"`},
		"no unified groups":             {false, func(h *Host) { _ = os.RemoveAll(filepath.Join(h.Root, "sys")) }, "cgroup", Warning, "unified"},
		"no unified groups nor systemd": {false, func(h *Host) { _ = os.RemoveAll(filepath.Join(h.Root, "sys")); h.Manager = nil }, "cgroup", OK, "without systemd"},
		"no boot once":                  {false, func(h *Host) { h.BootOnce = func() (string, error) { return "GRUB", nil } }, "boot once", Warning, "GRUB"},
		"boot once can't be told":       {false, func(h *Host) { h.BootOnce = func() (string, error) { return "", no } }, "boot once", Unknown, "no"},
		"no binding": {false, func(h *Host) {
			h.Binding = func() (identity.Binding, error) { return identity.Binding{}, identity.ErrNotEnrolled }
		}, "identity", Missing, "not enrolled"},
		"damaged binding": {false, func(h *Host) { h.Binding = func() (identity.Binding, error) { return identity.Binding{}, no } }, "identity", Missing, "no"},
		"closed binding": {false, func(h *Host) {
			h.Binding = func() (identity.Binding, error) { return identity.Binding{}, os.ErrPermission }
		}, "identity", Unknown, "permission"},
		"no certificate":             {false, expires(time.Time{}, identity.ErrNotEnrolled), "identity", Missing, "not enrolled yet"},
		"damaged certificate":        {false, expires(time.Time{}, no), "identity", Missing, "no"},
		"closed certificate":         {false, expires(time.Time{}, os.ErrPermission), "identity", Unknown, "permission"},
		"expired":                    {false, expires(now.Add(-time.Hour), nil), "identity", Missing, "expired"},
		"without an agent":           {false, says(control.Status{}, noAgent), "identity", OK, "for another"},
		"agent is not for this user": {false, says(control.Status{}, closed), "agent", Unknown, "not allowed to ask the agent"},
		"trusts":                     {false, func(*Host) {}, "identity", OK, "CA sha256:0123456789ab and the trust root sha256:fedcba987654"},
		"no coordinator":             {false, says(control.Status{Machine: "web1", Coordinator: fleet.Reason{Code: fleet.ReasonUnreachable, Message: "m"}}, nil), "coordinator", Missing, "coordinator-unreachable"},
		"its port, without an agent": {false, says(control.Status{}, noAgent), "coordinator", OK, "takes connections"},
		"no port, without an agent":  {true, func(h *Host) { says(control.Status{}, noAgent)(h); refused(away)(h) }, "coordinator", Missing, "refused"},
		"none known": {false, func(h *Host) {
			says(control.Status{}, noAgent)(h)
			h.Binding = func() (identity.Binding, error) { return identity.Binding{}, identity.ErrNotEnrolled }
		}, "coordinator", Unknown, "none yet"},
		"coordinator is not for this user": {false, func(h *Host) {
			says(control.Status{}, closed)(h)
			h.Binding = func() (identity.Binding, error) { return identity.Binding{}, os.ErrPermission }
		}, "coordinator", Unknown, "permission"},
		"coordinator can't be read": {false, func(h *Host) {
			says(control.Status{}, noAgent)(h)
			h.Binding = func() (identity.Binding, error) { return identity.Binding{}, no }
		}, "coordinator", Unknown, "can't be read: no"},
		"clock is not kept":      {false, func(h *Host) { h.Synced = func() bool { return false } }, "clock", Warning, "adjtimex"},
		"clock before enrolment": {false, func(h *Host) { h.Now = func() time.Time { return now.Add(-2 * time.Hour) } }, "clock", Missing, "before this host was enrolled"},
		"no state directory yet": {false, func(h *Host) { h.StateDir = "/not/made" }, "room for state", OK, "free at /not/made"},
		"program in the store": {true, func(h *Host) {
			h.Program = "/nix/store/x/bin/fleet-agent"
			_ = os.MkdirAll(filepath.Join(h.Root, h.Program), 0o755)
		}, "program", Missing, "Nix store"}, //nolint:gosec // A test's.
		"program of everybody": {true, func(h *Host) {
			_ = os.Chmod(filepath.Join(h.Root, "usr/local/bin"), 0o777) //nolint:gosec // A test's.
		}, "program", Missing, "everybody"},
		"program of everybody on Linux": {false, func(h *Host) {
			_ = os.Chmod(filepath.Join(h.Root, "usr/local/bin"), 0o777) //nolint:gosec // A test's.
		}, "program", Warning, "everybody"},
		"program of a package":       {false, func(h *Host) { h.Program = "" }, "program", OK, "a package"},
		"no program":                 {true, func(h *Host) { h.Program = "/gone" }, "program", Missing, "no such file"},
		"program not known":          {true, func(h *Host) { h.Program = "" }, "program", Unknown, "not known"},
		"nobody at the screen":       {true, func(h *Host) { h.ConsoleUser = func(context.Context) (uint32, error) { return 0, nil } }, "console", Warning, "nobody"},
		"console can't be told":      {true, func(h *Host) { h.ConsoleUser = func(context.Context) (uint32, error) { return 0, no } }, "console", Unknown, "no"},
		"no App Management":          {true, permits(permission.Denied, nil), "App Management", Missing, "tried; without it"},
		"no Full Disk Access":        {true, permits(permission.Denied, nil), "Full Disk Access", Warning, "tried; without it"},
		"nothing to try it on":       {true, permits(permission.Unknown, nil), "App Management", Unknown, "tried"},
		"permissions can't be asked": {true, permits(permission.Granted, no), "App Management", Unknown, "no"},
	} {
		t.Run(name, func(t *testing.T) {
			h := well(t, tt.mac)
			tt.spoil(&h)
			findings := h.Examine(t.Context())
			for _, f := range findings {
				if f.Name != tt.of {
					continue
				}
				if f.State != tt.want || !strings.Contains(f.Detail, tt.says) || f.State == Missing && f.Hint == "" {
					t.Errorf("%+v", f)
				}
				if (f.State == Missing) && !Lacks(findings) {
					t.Error("it is missing, and nothing is")
				}
				return
			}
			t.Errorf("nothing of %s in %+v", tt.of, findings)
		})
	}
}
