//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cameronraysmith/fleet/test/lab/booted"
)

// setUpPower is setUpNixOS with disks whose power can be cut.
func setUpPower(ctx context.Context, w *world) error {
	return w.setUpNixOS(ctx, hosts{powerLoss: true})
}

func powerScenarios() []scenario {
	return []scenario{
		{"right after the enrolment", "the agent is the same host afterwards, without another join string", func(ctx context.Context, w *world) error {
			if err := w.losePower(ctx, w.web, false); err != nil {
				return err
			}
			return w.becomesGood(ctx, release{})
		}},
		{"right after the confirmation", "what was confirmed boots and runs whole; nothing is activated again", func(ctx context.Context, w *world) error {
			return w.afterConfirmed(ctx, false)
		}},
		{"the same, with the disk's journal written", "names and sizes are on the disk then, and contents are too", func(ctx context.Context, w *world) error {
			return w.afterConfirmed(ctx, true)
		}},
		{"what runs is damaged", "files of the running closure and of the one that is gone back to are empty after the power loss: both are whole again before anything is decided, status says so; nothing was activated", damagedConfirmed},
		{"what is being activated is damaged", "midway in the switch, files of both ends are emptied: mended first, so that the release is confirmed and not blamed", damagedMidway},
		{"between staged and the switch", "what is called staged is whole on the disk, also with the disk's journal written and the switch not begun", stagedIsDurable},
		{"midway in the switch", "the system before boots; the release is tried once more and confirmed", powerLostMidway},
		{"while it is made what boots", "verified, and the power is lost in the midst of the commit: the system before boots; activated once more, confirmed", powerLostCommitting},
		{"on the way back", "the system before boots whole; refused for what was wrong with the release, which was activated once", powerLostGoingBack},
		{"the coordinator, right after it confirmed", "its host's store and the operator's repository have what was acknowledged; the next release goes above it", func(ctx context.Context, w *world) error {
			if err := w.becomesGood(ctx, release{}); err != nil {
				return err
			}
			before, err := w.profile(ctx, systemProfile)
			if err != nil {
				return err
			}
			if err := w.losePower(ctx, w.ops, false); err != nil {
				return err
			}
			after, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.State == "confirmed" })
			if err != nil {
				return err
			}
			if after.Desired != before.Desired || after.Highest != before.Highest {
				return fmt.Errorf("before: %s; after: %s", before, after)
			}
			return w.becomesGood(ctx, release{})
		}},
	}
}

// losePower cuts a host's power and boots it again; journal says whether the
// disk's journal is written just before.
func (w *world) losePower(ctx context.Context, h *booted.Host, journal bool) error {
	if journal {
		if err := h.Disk.CommitJournal(); err != nil {
			return err
		}
	}
	if err := h.PowerLoss(ctx); err != nil {
		return err
	}
	if err := h.Boot(ctx); err != nil {
		return err
	}
	return w.connected(ctx)
}

func (w *world) connected(ctx context.Context) error {
	return wait(ctx, settleTimeout, func() error {
		m, err := w.status(ctx)
		if err == nil && !m.Connected {
			err = errors.New("the agent is not connected")
		}
		return err
	})
}

func (w *world) afterConfirmed(ctx context.Context, journal bool) error {
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	if err := w.losePower(ctx, w.web, journal); err != nil {
		return err
	}
	if _, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.State == "confirmed" }); err != nil {
		return err
	}
	if err := w.runs(ctx, w.good); err != nil {
		return err
	}
	if err := w.activated(ctx, w.good, 1); err != nil {
		return err
	}
	return w.whole(ctx, w.good) // Not only there.
}

// whole checks that all contents of a system's closure are as they were built.
func (w *world) whole(ctx context.Context, s system) error {
	out, err := w.web.Run(ctx, "nix", "store", "verify", "--no-trust", "--recursive", s.toplevel)
	if err != nil {
		return fmt.Errorf("%s is not whole: %w: %s", s.version, err, strings.TrimSpace(out))
	}
	return nil
}

func powerLostMidway(ctx context.Context, w *world) error {
	return w.losePowerIn(ctx, w.inTheMidst)
}

func powerLostCommitting(ctx context.Context, w *world) error {
	return w.losePowerIn(ctx, w.committing)
}

// losePowerIn loses the power in the midst of a release, which is confirmed after the boot
// of the system before, and the second activation.
func (w *world) losePowerIn(ctx context.Context, midst func(context.Context) (deployed, error)) error {
	before := w.good
	d, err := midst(ctx)
	if err != nil {
		return err
	}
	if err := w.losePower(ctx, w.web, true); err != nil {
		return err
	}
	if err := w.isGood(ctx, d, 2); err != nil {
		return err
	}
	f, err := w.facts(ctx)
	if err == nil && f.Booted != before.toplevel {
		err = fmt.Errorf("booted %s, want %s", f.Booted, before.toplevel)
	}
	return err
}

func powerLostGoingBack(ctx context.Context, w *world) error {
	d, err := w.goingBack(ctx)
	if err != nil {
		return err
	}
	if err := w.losePower(ctx, w.web, true); err != nil {
		return err
	}
	if err := w.isUndoneBecause(ctx, d, "activation-failed"); err != nil {
		return err
	}
	return w.whole(ctx, w.good)
}
