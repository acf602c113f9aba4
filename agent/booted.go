package agent

import (
	"context"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
)

// Units are the units of the host's service manager. A program that switches a host tells
// by its exit code that some of them failed; a boot has no exit code.
type Units interface {
	// Troubled lists the units that are failed, or wait to be started again.
	Troubled(ctx context.Context) ([]string, error)
	// Broken names, for people, those that failed in this boot and are not among before;
	// empty for none. over says that the boot is: before that nothing is said.
	Broken(ctx context.Context, before []string) (broken string, over bool, err error)
}

const (
	// mostTroubled bounds what is remembered of failed units: a host with more of them
	// tells nothing by one more.
	mostTroubled = 200
	// bootLook is between looks whether a boot is over.
	bootLook = 500 * time.Millisecond
)

// unitsBefore notes which units are failed before a boot.
func (a *Agent) unitsBefore(ctx context.Context, act *journal.Activation) {
	if !act.Boots || a.config.Units == nil {
		return
	}
	names, err := a.config.Units.Troubled(ctx)
	if err != nil || len(names) > mostTroubled {
		a.config.Log.Warn("units that fail in the boot will not count", "failed_before", len(names), "error", err)
		return
	}
	act.Units = &journal.TroubledUnits{Names: names}
}

// brokenByBoot waits until the boot is over, and names the units that failed in it and had
// not before; empty for none, or where that can't be told until ctx ends.
func (w *worker) brokenByBoot(ctx context.Context, t trial) string {
	if t.units == nil || w.a.config.Units == nil {
		return ""
	}
	for {
		broken, over, err := w.a.config.Units.Broken(ctx, t.units.Names)
		if over {
			return broken
		}
		if err != nil {
			w.log.Warn("which units the boot broke can't be told yet", "error", err)
		}
		if sleep(ctx, bootLook) != nil {
			return ""
		}
	}
}
