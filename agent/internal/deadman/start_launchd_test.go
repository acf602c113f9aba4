package deadman

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/launchd"
	"github.com/cameronraysmith/fleet/agent/internal/launchd/launchdtest"
)

// onLaunchd is a switch that a stand-in for launchd starts.
func onLaunchd(t *testing.T, after time.Duration) (*world, *launchdtest.Launchd, *Jobs) {
	t.Helper()
	w := newWorld(t, after)
	l := launchdtest.Start(t)
	j := &Jobs{
		Command: w.children.Command, Else: w.children.Start,
		Jobs: &launchd.Jobs{Launchctl: l.Launchctl(), Dir: filepath.Join(t.TempDir(), "jobs"), Name: "fleet-dead-man", Again: true},
		Warn: func(err error) { t.Logf("said: %v", err) },
	}
	w.start = j.Start
	return w, l, j
}

// TestJobFires: a switch that is a job of launchd takes the host back, is started again
// where it fails, and is gone when it is over.
func TestJobFires(t *testing.T) {
	w, l, j := onLaunchd(t, time.Second)
	w.arm()
	loaded := l.Loaded()
	if len(loaded) != 1 || !strings.HasPrefix(loaded[0], "io.github.cameronraysmith.fleet-dead-man.switch.") || len(w.children.pids) > 0 {
		t.Fatalf("loaded %v, and processes %v", loaded, w.children.pids)
	}
	l.Do(func() {
		list := l.Lists[loaded[0]]
		if again, _ := list["KeepAlive"].(map[string]any); again["SuccessfulExit"] != false || list["StandardErrorPath"] != filepath.Join(w.dir, fileLog) {
			t.Errorf("%v", list)
		}
	})
	if o := w.outcome(); !o.Back || w.went() != 1 {
		t.Errorf("%+v, went %d times", o, w.went())
	}
	for range 1000 {
		if j.Jobs.Clear(t.Context()); len(l.Loaded()) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("left %v", l.Loaded())
}

// TestJobFallsBack: where launchd starts no switch, and says so or not, it is a process
// of the agent's own, in time for who arms it.
func TestJobFallsBack(t *testing.T) {
	for name, spoil := range map[string]func(*launchdtest.Launchd){
		"refuses": func(l *launchdtest.Launchd) { l.Refuse = true },
		"idle":    func(l *launchdtest.Launchd) { l.Idle = true },
		"hangs":   func(l *launchdtest.Launchd) { l.Hangs = true },
	} {
		t.Run(name, func(t *testing.T) {
			w, l, j := onLaunchd(t, time.Hour)
			l.Do(func() { spoil(l) })
			w.arm()
			// One of them waits; a slow one has another started.
			if len(w.children.pids) == 0 {
				t.Error("no process")
			}
			bootstraps := 0
			l.Do(func() {
				l.Refuse, l.Idle, l.Hangs = false, false, false
				for _, call := range l.Calls {
					if strings.HasPrefix(call, "bootstrap ") {
						bootstraps++
					}
				}
			})
			if bootstraps != 1 || len(l.Loaded()) > 0 {
				t.Errorf("launchd was asked %d times, and has %v", bootstraps, l.Loaded())
			}
			j.failed = j.failed.Add(-launchdAgainAfter)
			if !j.asks() {
				t.Error("launchd is never asked again")
			}
		})
	}
	// Nobody waits for one that is started ahead, and armed looks again.
	w, l, _ := onLaunchd(t, time.Hour)
	l.Do(func() { l.Idle = true })
	if err := w.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.arm()
	if len(w.children.pids) == 0 {
		t.Error("no process")
	}
}

// TestJobOfAnother: a switch goes on without the agent that had it started, whose
// successor finds it armed and does not clear it away.
func TestJobOfAnother(t *testing.T) {
	w, l, j := onLaunchd(t, time.Hour)
	w.arm()
	loaded := l.Loaded()
	next := &launchd.Jobs{Launchctl: j.Jobs.Launchctl, Dir: j.Jobs.Dir, Name: j.Jobs.Name, Again: j.Jobs.Again}
	next.Clear(t.Context())
	w.arm()
	if got := l.Loaded(); !slices.Equal(got, loaded) || l.PID(loaded[0]) == 0 {
		t.Errorf("loaded %v, then %v", loaded, got)
	}
	if err := syscall.Kill(l.PID(loaded[0]), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// TestKickstart: after it fired a switch has launchd start the agent anew, from its
// property list where that is not loaded.
func TestKickstart(t *testing.T) {
	l := launchdtest.Start(t)
	const label = "org.nixos.fleet-agent"
	if err := kickstart(t.Context(), l.Launchctl(), label, true); err == nil || !strings.Contains(err.Error(), label) {
		t.Errorf("there is no property list, and %v", err)
	}
	j := launchd.Jobs{Launchctl: l.Launchctl(), Dir: filepath.Join(t.TempDir(), "jobs"), Name: "x"}
	if err := j.Start(t.Context(), "y", []string{"/bin/sh", "-c", "exec sleep 600"}); err != nil {
		t.Fatal(err)
	}
	for _, anew := range []bool{true, false} {
		if err := kickstart(t.Context(), l.Launchctl(), "io.github.cameronraysmith.x.y", anew); err != nil {
			t.Error(err)
		}
	}
	l.Do(func() {
		for _, want := range []string{
			"bootstrap system /Library/LaunchDaemons/" + label + ".plist",
			"kickstart -k system/io.github.cameronraysmith.x.y", "kickstart system/io.github.cameronraysmith.x.y",
		} {
			if !slices.Contains(l.Calls, want) {
				t.Errorf("%q is not among %q", want, l.Calls)
			}
		}
		l.Hangs = true
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := kickstart(ctx, l.Launchctl(), label, true); err == nil {
		t.Error("launchctl hangs, and that is no error")
	}
	l.Do(func() { l.Hangs = false })
}
