package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// needs has a generation be good only while a file is there, which is not its own.
func needs(file string) func(*fleet.Generation) {
	return func(g *fleet.Generation) {
		g.Policy.VerifyDeadline = fleet.Duration(300 * time.Millisecond)
		g.Probes = append(g.Probes, fleet.Probe{
			Name: "database", Kind: fleet.ProbeExec, Argv: []string{"/usr/bin/test", "-e", file},
			Interval: fleet.Duration(20 * time.Millisecond),
		})
	}
}

// breaks publishes a first generation that needs a file, and a second one that takes it
// away and fails.
func (h *host) breaks(more func(*fleet.Generation)) (good, bad fleet.Ref, mend func()) {
	h.t.Helper()
	file := filepath.Join(h.t.TempDir(), "database")
	mend = func() {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	mend()
	good = h.publish(1, "good", "", needs(file))
	h.coord.WaitState(fleet.StateConfirmed, good)
	bad = h.publish(2, "bad", "rm "+file+"; exit 1", more)
	return good, bad, mend
}

// TestRollbackIsVerified: that the way back ran well is not enough.
func TestRollbackIsVerified(t *testing.T) {
	h := newHost(t)
	h.start()
	good, bad, mend := h.breaks(func(*fleet.Generation) {})
	p := h.coord.WaitReason(fleet.ReasonRollbackUnverified)
	if p.State != fleet.StateRolledBack || p.Current != good || len(p.Refused) != 1 || p.Refused[0] != bad {
		t.Errorf("status: %+v", p)
	}
	for _, part := range []string{`probe "database"`, "exit code 1", "went back because"} {
		if !strings.Contains(p.Reason.Message, part) {
			t.Errorf("the reason %q lacks %q", p.Reason.Message, part)
		}
	}
	// It is so for the next agent too, and for a fleet that was told.
	h.crash()
	n := len(h.coord.Reports())
	h.start()
	h.coord.Wait("a report of the next agent", func() bool { return len(h.coord.Reports()) > n })
	if p := h.coord.WaitReason(fleet.ReasonRollbackUnverified); p.State != fleet.StateRolledBack {
		t.Errorf("status after a restart: %+v", p)
	}
	// Until it works, by whatever mended it.
	mend()
	p = h.coord.WaitReason(fleet.ReasonActivationFailed)
	if p.State != fleet.StateRolledBack || p.Current != good {
		t.Errorf("status after it was mended: %+v", p)
	}
	h.confirmed(3, "healed")
}

// TestDoubtMakesWay: what does not prove to work keeps nothing better from coming.
func TestDoubtMakesWay(t *testing.T) {
	h := newHost(t)
	h.start()
	h.breaks(func(*fleet.Generation) {})
	h.coord.WaitReason(fleet.ReasonRollbackUnverified)
	h.confirmed(3, "better")
}

// TestRollbackOutOfReach: the coordinator goes away in the midst of an activation and
// comes back later.
func TestRollbackOutOfReach(t *testing.T) {
	h := newHost(t)
	h.start()
	quick := func(g *fleet.Generation) { g.Policy.VerifyDeadline = fleet.Duration(300 * time.Millisecond) }
	good := h.publish(1, "good", "", quick)
	h.coord.WaitState(fleet.StateConfirmed, good)
	goOn := filepath.Join(t.TempDir(), "on")
	bad := h.publish(2, "bad", gate(goOn), quick)
	waitLocal(t, h, fleet.StateActivating)
	h.coord.Stop()
	open(t, goOn)
	p := waitProfile(t, h, "one that went back", func(p control.Profile) bool { return p.State == fleet.StateRolledBack })
	if p.Reason.Code != fleet.ReasonRollbackUnverified || p.Current != good {
		t.Errorf("status: %+v", p)
	}
	h.expectServing("good")
	h.coord.Start()
	if p := h.coord.WaitReason(fleet.ReasonUnreachable); p.State != fleet.StateRolledBack || len(p.Refused) != 1 || p.Refused[0] != bad {
		t.Errorf("status once the coordinator is back: %+v", p)
	}
}

// switching is a driver whose generations may be booted and need not be.
type switching struct {
	*bundledriver.Driver
}

func (switching) Boot(context.Context, fleet.ProfileName, string, string) (driver.Boot, error) {
	return driver.Boot{}, nil
}

// TestRollbackReboots: where what the host went back to does not work, it is booted, once,
// if that is allowed.
func TestRollbackReboots(t *testing.T) {
	for name, helps := range map[string]bool{"which helps": true, "which does not": false} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.wrap = func(d *bundledriver.Driver) driver.Driver { return switching{d} }
			reboots := make(chan struct{}, 10)
			h.config.BootID = "boot-0"
			h.config.Reboot = func(context.Context) error {
				reboots <- struct{}{}
				return nil
			}
			h.start()
			good, _, mend := h.breaks(reboot(fleet.RebootAuto))
			<-reboots
			h.crash()
			h.config.BootID = "boot-1"
			want := fleet.ReasonRollbackUnverified
			if helps {
				mend()
				want = fleet.ReasonActivationFailed
			}
			h.start()
			p := h.coord.WaitState(fleet.StateRolledBack, good)
			if p.Reason.Code != want {
				t.Errorf("status: %+v", p)
			}
			h.expectServing("good")
			if len(reboots) != 0 {
				t.Errorf("rebooted %d times more", len(reboots))
			}
		})
	}
}
