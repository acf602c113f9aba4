package agent

import (
	"context"
	"os/user"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// unusableHome boots the system, and has homes that may become unusable.
type unusableHome struct {
	booting
	unusable *atomic.Bool
}

func (d unusableHome) Hindrance(_ context.Context, p fleet.ProfileName) (fleet.Reason, error) {
	if p == fleet.System || !d.unusable.Load() {
		return fleet.Reason{}, nil
	}
	return fleet.Reason{Code: fleet.ReasonHomeUnusable, Message: "its directory is not there", Hint: "mend it"}, nil
}

func (d unusableHome) Boot(ctx context.Context, p fleet.ProfileName, from, to string) (driver.Boot, error) {
	if p != fleet.System {
		return driver.Boot{}, nil
	}
	return d.booting.Boot(ctx, p, from, to)
}

// TestHomeHoldsNoReboot: a home that waits on its way back, for as long as its user likes,
// keeps no host from being rebooted.
func TestHomeHoldsNoReboot(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	name := fleet.ProfileName("home/" + me.Username)
	b, unusable := newBootable(t), &atomic.Bool{}
	b.crash()
	b.wrap = func(d *bundledriver.Driver) driver.Driver { return unusableHome{booting{d, b}, unusable} }
	b.start()
	src, blob := b.service("beside", "")
	g := b.fleet.Generation(1, src)
	g.Profile, g.Policy.VerifyDeadline = name, fleet.Duration(2*time.Second)
	g.Probes = []fleet.Probe{{Name: "never", Kind: fleet.ProbeExec, Argv: []string{"/bin/sh", "-c", "exit 75"}, Interval: fleet.Duration(20 * time.Millisecond)}}
	g.Policy.OnInconclusive = fleet.InconclusiveKeep
	b.offer(g, blob)
	waitBeside(t, b.host, name, "kept", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonInconclusive })
	unusable.Store(true)
	if _, err := b.client().RollBack(t.Context(), name, fleet.Number{}); err != nil {
		t.Fatal(err)
	}
	waitBeside(t, b.host, name, "held on its way back", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonHomeUnusable })
	two, blob := b.generation(2, "two", neverRuns)
	reboot(fleet.RebootAuto)(&two)
	second := b.offer(two, blob)
	b.reboot("two")
	b.coord.WaitState(fleet.StateConfirmed, second)
}
