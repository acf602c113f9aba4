package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// hostUnitsOf is a service manager whose failed units a test sets.
type hostUnitsOf struct {
	mu      sync.Mutex
	failed  []string
	looks   int // of Broken
	over    int // the look at which the boot is over
	unknown bool
}

func (u *hostUnitsOf) Troubled(context.Context) ([]string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.unknown {
		return nil, errors.New("systemd does not answer")
	}
	return slices.Clone(u.failed), nil
}

func (u *hostUnitsOf) Broken(_ context.Context, before []string) (broken string, over bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.looks++; u.looks < u.over {
		return "", false, errors.New("systemd does not answer yet")
	}
	var names []string
	for _, unit := range u.failed {
		if !slices.Contains(before, unit) {
			names = append(names, unit)
		}
	}
	return strings.Join(names, ", "), true, nil
}

func (u *hostUnitsOf) set(unknown bool, failed ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unknown, u.failed, u.looks, u.over = unknown, failed, 0, 2
}

// TestBootBreaksUnit: what a boot breaks fails it, once the boot is over; what was broken
// before does not, nor what nobody could tell before.
func TestBootBreaksUnit(t *testing.T) {
	for name, c := range map[string]struct {
		before, after []string
		unknown, back bool
	}{
		"another one":    {before: []string{"old.service"}, after: []string{"new.service", "old.service"}, back: true},
		"the same":       {before: []string{"old.service"}, after: []string{"old.service"}},
		"mended":         {before: []string{"old.service"}},
		"unknown before": {after: []string{"old.service"}, unknown: true},
		"many too many":  {before: make([]string, mostTroubled+1), after: []string{"old.service"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBootable(t)
			b.crash()
			units := &hostUnitsOf{}
			units.set(c.unknown, c.before...)
			b.config.Units = units
			b.start()
			second := b.publish(2, "two", neverRuns, reboot(fleet.RebootAuto))
			<-b.reboots
			units.set(false, c.after...)
			b.reboots <- struct{}{}
			b.reboot("two")
			if !c.back {
				b.coord.WaitState(fleet.StateConfirmed, second)
				return
			}
			b.reboot("")
			p := waitProfile(t, b.host, "rolled back", func(p control.Profile) bool { return p.State == fleet.StateRolledBack })
			if p.Reason.Code != fleet.ReasonProbeFailed || !strings.Contains(p.Reason.Message, "units that failed in the boot, and had not before: new.service") {
				t.Errorf("status says %+v", p)
			}
		})
	}
}
