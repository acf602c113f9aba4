package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// sleeper is a host with a gate that holds it in a phase.
type sleeper struct {
	*host

	t     *testing.T
	clock *offset
	gate  string                        // closed while it is there
	begun string                        // is there once something waits at the gate
	log   string                        // versions, one for each activation
	pass  atomic.Pointer[chan struct{}] // nil for builds that do not wait
}

// wait is a script that waits at the gate, where that is closed.
func (s *sleeper) wait() string {
	return "if [ -e '" + s.gate + "' ]; then : >'" + s.begun + "'; fi; while [ -e '" + s.gate + "' ]; do sleep 0.01; done"
}

// sleeping builds, and commits, at the gate.
type sleeping struct {
	committing

	s *sleeper
}

func (d sleeping) Build(ctx context.Context, r driver.BuildRequest, progress func(driver.Progress)) (string, error) {
	if pass := d.s.pass.Load(); pass != nil {
		open(d.s.t, d.s.begun)
		<-*pass
	}
	return d.committing.Build(ctx, r, progress)
}

// TestSleepInEachPhase: eight hours asleep, which no deadline counts and nothing is
// blamed for, in each phase of a release. Time awake is the monotonic clock, which stands
// still in suspend and can't be set: wall time goes on beside it, as it does then.
func TestSleepInEachPhase(t *testing.T) {
	for phase, play := range map[string]func(s *sleeper) (next fleet.Ref, wake func()){
		"fetching": func(s *sleeper) (fleet.Ref, func()) {
			wake := s.coord.Hold("GetBlob")
			calls := s.coord.Calls("GetBlob")
			next := s.publish(2, "two", "echo two >>'"+s.log+"'")
			s.coord.Wait("it fetches", func() bool { return s.coord.Calls("GetBlob") > calls })
			return next, wake
		},
		"building": func(s *sleeper) (fleet.Ref, func()) {
			pass := make(chan struct{})
			s.pass.Store(&pass)
			next := s.publish(2, "two", "echo two >>'"+s.log+"'")
			s.waits()
			return next, func() { close(pass) }
		},
		"activating": func(s *sleeper) (fleet.Ref, func()) {
			s.closes()
			next := s.publish(2, "two", "echo two >>'"+s.log+"'; "+s.wait())
			s.waits()
			return next, s.opens
		},
		"verifying": func(s *sleeper) (fleet.Ref, func()) {
			s.closes()
			next := s.publish(2, "two", "echo two >>'"+s.log+"'", func(g *fleet.Generation) {
				g.Probes = append(g.Probes, unsureWhile(s.gate)...)
			})
			waitLocal(s.t, s.host, fleet.StateVerifying)
			return next, s.opens
		},
		"committing": func(s *sleeper) (fleet.Ref, func()) {
			s.closes()
			next := s.publish(2, "two", "echo two >>'"+s.log+"'")
			s.waits()
			return next, s.opens
		},
	} {
		t.Run(phase, func(t *testing.T) {
			s := newSleeper(t, phase == "committing")
			s.confirmed(1, "one")
			next, wake := play(s)
			s.clock.add(8 * time.Hour)
			wake()
			p := waitProfile(t, s.host, "settled", func(p control.Profile) bool {
				return p.Current == next && p.State == fleet.StateConfirmed || len(p.Refused) > 0
			})
			if p.Current != next || s.activations("two") != 1 {
				t.Errorf("activated %d times: %+v", s.activations("two"), p)
			}
		})
	}
	t.Run("rolling back", func(t *testing.T) {
		s := newSleeper(t, false)
		first := s.publish(1, "one", "echo one >>'"+s.log+"'; "+s.wait())
		s.coord.WaitState(fleet.StateConfirmed, first)
		s.closes()
		s.publish(2, "two", "echo two >>'"+s.log+"'; exit 1")
		s.waits()
		s.clock.add(8 * time.Hour)
		s.opens()
		p := waitLocal(t, s.host, fleet.StateRolledBack)
		if p.Current != first || p.Reason.Code != fleet.ReasonActivationFailed || s.activations("one") != 2 || s.activations("two") != 1 {
			t.Errorf("activated %d and %d times: %+v", s.activations("one"), s.activations("two"), p)
		}
	})
}

func newSleeper(t *testing.T, commits bool) *sleeper {
	t.Helper()
	dir := t.TempDir()
	s := &sleeper{
		host: newHost(t), t: t, clock: newOffset(),
		gate: filepath.Join(dir, "gate"), begun: filepath.Join(dir, "begun"), log: filepath.Join(dir, "activations"),
	}
	s.config.Now = s.clock.now
	script := ""
	if commits {
		script = s.wait()
	}
	committer(t, s.host, script)
	inner := s.wrap
	s.wrap = func(d *bundledriver.Driver) driver.Driver { return sleeping{inner(d).(committing), s} } //nolint:forcetypeassert // committer's.
	s.start()
	return s
}

func (s *sleeper) closes() { open(s.t, s.gate) }

func (s *sleeper) opens() {
	if err := os.Remove(s.gate); err != nil {
		s.t.Error(err)
	}
}

// waits returns when something does at the gate.
func (s *sleeper) waits() {
	s.t.Helper()
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(s.begun); err == nil {
			return
		}
	}
	s.t.Fatal("nothing waits at the gate")
}

// activations counts those of a version.
func (s *sleeper) activations(version string) int {
	b, err := os.ReadFile(s.log)
	if err != nil {
		s.t.Error(err)
	}
	return strings.Count(string(b), version+"\n")
}
