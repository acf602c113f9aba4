package systemd_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/agent/internal/systemd"
	"github.com/cameronraysmith/fleet/agent/internal/systemd/systemdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t *testing.T, a systemd.Address) *systemd.Conn {
	t.Helper()
	c, err := a.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestVersion(t *testing.T) {
	s := systemdtest.Start(t)
	if got, err := connect(t, s.Address).Version(t.Context()); got != "257.8-1" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if !slices.Contains(s.Calls, "Get org.freedesktop.systemd1.Manager") {
		t.Errorf("called %v", s.Calls)
	}
}

func TestTroubled(t *testing.T) {
	s := systemdtest.Start(t)
	units := map[string]systemdtest.Unit{"a.service": {Sub: "failed", Status: 3}, "b.service": {Sub: "auto-restart"}, "c.service": {Sub: "running"}}
	s.Do(func() { s.Units = func() map[string]systemdtest.Unit { return units } })
	c := connect(t, s.Address)
	got, err := c.Troubled(t.Context())
	if diff := cmp.Diff(map[string]string{"a.service": "failed", "b.service": "auto-restart"}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for unit, want := range map[string]int32{"a.service": 3, "b.service": 0} {
		if got, err := c.MainStatus(t.Context(), unit); err != nil || got != want {
			t.Errorf("%s: %d, %v", unit, got, err)
		}
	}
}

func TestStartTransient(t *testing.T) {
	s := systemdtest.Start(t)
	c := connect(t, s.Address)
	service := systemd.Service{Name: "x.service", Description: "an x", Argv: []string{"/bin/x", "y z"}, Log: "/log", Again: true, Ends: true, After: []string{"y.service"}, Before: "z.service", StopWithin: 2 * time.Second, Alone: true, OOMScore: -900}
	if err := c.StartTransient(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"Description": "an x", "Type": "exec", "Restart": "on-failure", "RestartUSec": uint64(1000000), "KillMode": "process",
		"OOMScoreAdjust": int32(-900), "OOMPolicy": "continue", "DefaultDependencies": false, "IgnoreOnIsolate": true,
		"Conflicts": []string{"shutdown.target"}, "Before": []string{"shutdown.target", "z.service"},
		"After": []string{"local-fs.target", "y.service"}, "TimeoutStopUSec": uint64(2000000), "CollectMode": "inactive-or-failed", "StandardOutputFileToAppend": "/log",
		"StandardErrorFileToAppend": "/log", "ExecStart": [][]any{{"/bin/x", []string{"/bin/x", "y z"}, false}},
	}
	s.Do(func() {
		if diff := cmp.Diff(want, s.Started["x.service"]); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		s.Result = "failed"
	})
	if err := c.StartTransient(t.Context(), service); err == nil || !strings.Contains(err.Error(), `"failed"`) {
		t.Errorf("got %v", err)
	}
	service.Argv[0] = "x"
	if err := c.StartTransient(t.Context(), service); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("got %v", err)
	}
}

// TestBooted: a boot is over when systemd says so, with or without failed units.
func TestBooted(t *testing.T) {
	s := systemdtest.Start(t)
	for _, want := range []bool{false, true} {
		s.Do(func() { s.Starting = !want })
		var got bool
		if err := s.Address.Ask(t.Context(), func(ctx context.Context, c *systemd.Conn) (err error) {
			got, err = c.Booted(ctx)
			return err
		}); err != nil || got != want {
			t.Errorf("over: %t, %v, want %t", got, err, want)
		}
	}
}

// TestStopping: a host that is to shut down is told from one that is not, and one that
// can't be asked counts for none.
func TestStopping(t *testing.T) {
	s := systemdtest.Start(t)
	for _, want := range []bool{false, true} {
		s.Do(func() { s.Stopping = want })
		if got := s.Address.Stopping(t.Context()); got != want {
			t.Errorf("stopping: %t, want %t", got, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if systemd.Address(filepath.Join(t.TempDir(), "nowhere")).Stopping(ctx) {
		t.Error("nobody said so")
	}
}

// TestDefine: what a service would be started as, also one that systemd knows only
// because it runs still.
func TestDefine(t *testing.T) {
	s := systemdtest.Start(t)
	want := systemd.Definition{
		Load: "loaded", Enabled: "enabled", Files: []string{"/etc/a.service", "/run/a.service.d/b.conf"}, Stale: true, Argv: []string{"/bin/a", "b"}, MainPID: 7,
	}
	gone := systemd.Definition{Load: "not-found"}
	s.Do(func() { s.Services = map[string]systemd.Definition{"a.service": want, "b.service": gone} })
	c := connect(t, s.Address)
	for unit, want := range map[string]systemd.Definition{"a.service": want, "b.service": gone} {
		got, err := c.Define(t.Context(), unit)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", unit, err, diff)
		}
	}
	if err := c.Reload(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRestart(t *testing.T) {
	s := systemdtest.Start(t)
	c := connect(t, s.Address)
	if err := c.Restart(t.Context(), "x.service"); err != nil {
		t.Fatal(err)
	}
	s.Do(func() {
		if diff := cmp.Diff([]string{"ResetFailedUnit x.service", "RestartUnit x.service"}, s.Calls); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestAskAgain: a systemd that breaks off is asked again, one that is not there is
// not waited for for ever.
func TestAskAgain(t *testing.T) {
	s := systemdtest.Start(t)
	s.Do(func() { s.Away = true })
	n := 0
	if err := s.Address.Ask(t.Context(), func(ctx context.Context, c *systemd.Conn) error {
		n++
		_, err := c.Troubled(ctx)
		return err
	}); err != nil || n == 0 {
		t.Errorf("asked %d times: %v", n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	nowhere := systemd.Address(filepath.Join(t.TempDir(), "nowhere"))
	err := nowhere.Ask(ctx, func(context.Context, *systemd.Conn) error { return nil })
	if err == nil || errors.Is(err, systemd.ErrAbsent) {
		t.Errorf("got %v", err)
	}
}
