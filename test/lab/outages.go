//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
)

func outageScenarios() []scenario {
	row := func(name, shows string, run func(context.Context, *five) error) scenario {
		return scenario{name, shows, func(ctx context.Context, w *world) error { return run(ctx, w.five) }}
	}
	return []scenario{
		row("power lost while one fetches, and while it builds", "the agent is stopped where a part of the bundle is on the disk, and where a part is unpacked: confirmed after the boot, activated once", lostMakingReady),
		row("power lost while one activates, and while it verifies", "confirmed after the boot, activated at most once more; nothing is blamed", lostActivating),
		row("rebooted by a person while one activates", "the activation is ended in order, and not blamed: confirmed after the boot, activated once more", rebootedOne),
		row("power lost on the way back", "goes on with it after the boot: refused for what was wrong with it, activated once", lostGoingBack),
	}
}

// losesPower cuts the power of magnetite and boots it again.
func (f *five) losesPower(ctx context.Context) error {
	h := f.hosts[magnetite]
	if err := h.PowerLoss(ctx); err != nil {
		return err
	}
	return h.Boot(ctx)
}

// parts are where what an agent fetches and unpacks is, before it is whole.
const (
	partFetched  = "/var/lib/fleet/agent/blobs/*.part"
	partUnpacked = "/var/lib/fleet/bundles/store/.tmp-*"
)

// payload is a file of a bundle that takes a moment to fetch, and to unpack.
const payload = repo + "/bundles/" + magnetite + "/payload"

func lostMakingReady(ctx context.Context, f *five) error {
	h := f.hosts[magnetite]
	for _, part := range []string{partFetched, partUnpacked} {
		version, err := f.bundle(ctx, magnetite, "")
		if err != nil {
			return err
		}
		if _, err := f.ops.Shell(ctx, "head -c 24000000 /dev/urandom >"+payload); err != nil {
			return err
		}
		// Busy, because what it waits for is there for some milliseconds.
		if _, err := h.Shell(ctx, `rm -f /run/lab-stopped
pid=$(systemctl show -P MainPID fleet-agent)
systemd-run -q --collect --unit=lab-stopper sh -c 'until set -- `+part+`; [ -e "$1" ]; do :; done; kill -STOP '$pid'; [ -e "$1" ] && touch /run/lab-stopped'`); err != nil {
			return err
		}
		numbers, err := f.release(ctx, magnetite)
		if err != nil {
			return err
		}
		if err := wait(ctx, settleTimeout, func() error {
			_, err := h.Run(ctx, "test", "-e", "/run/lab-stopped")
			return err
		}); err != nil {
			return fmt.Errorf("there was no %s: %w", part, err)
		}
		if err := f.losesPower(ctx); err != nil {
			return err
		}
		if err := f.isGood(ctx, magnetite, numbers[magnetite], version); err != nil {
			return fmt.Errorf("power lost with %s: %w", part, err)
		}
	}
	if _, err := f.ops.Run(ctx, "rm", payload); err != nil {
		return err
	}
	return f.othersRest(ctx, "")
}

// hangsOnce hangs the first time that it is run, and says so.
// waitsOnce waits the first time until it is told to go on.
const (
	hangsOnce = "if [ ! -e /var/lib/lab-hung ]; then touch /var/lib/lab-hung; sleep 600; fi"
	waitsOnce = "if [ ! -e /var/lib/lab-hung ]; then touch /var/lib/lab-hung; until [ -e /run/lab-goes-on ]; do sleep 0.1; done; fi"
)

// activating returns when the activation of a release with that script, which says so the first
// time that it is run, is under way on magnetite.
func (f *five) activating(ctx context.Context, script string) (version, number string, err error) {
	if _, err := f.hosts[magnetite].Run(ctx, "rm", "-f", "/var/lib/lab-hung"); err != nil {
		return "", "", err
	}
	if version, err = f.bundle(ctx, magnetite, script); err != nil {
		return "", "", err
	}
	numbers, err := f.release(ctx, magnetite)
	if err != nil {
		return "", "", err
	}
	return version, numbers[magnetite], f.hangs(ctx, "/var/lib/lab-hung")
}

func lostActivating(ctx context.Context, f *five) error {
	h := f.hosts[magnetite]
	version, number, err := f.activating(ctx, hangsOnce)
	if err != nil {
		return err
	}
	if err := f.losesPower(ctx); err != nil {
		return err
	}
	if err := f.isConfirmed(ctx, number, version, 2); err != nil {
		return fmt.Errorf("power lost while it activates: %w", err)
	}
	if version, number, err = f.activating(ctx, waitsOnce); err != nil {
		return err
	}
	if err := h.Unplug(ctx, true); err != nil {
		return err
	}
	if _, err := h.Run(ctx, "touch", "/run/lab-goes-on"); err != nil {
		return err
	}
	if err := wait(ctx, settleTimeout, func() error {
		_, err := h.Shell(ctx, "fleet-agent status | grep -q verifying")
		return err
	}); err != nil {
		return err
	}
	if err := h.PowerLoss(ctx); err != nil {
		return err
	}
	if err := errors.Join(h.Unplug(ctx, false), h.Boot(ctx)); err != nil {
		return err
	}
	if err := f.isConfirmed(ctx, number, version, 2); err != nil {
		return fmt.Errorf("power lost while it verifies: %w", err)
	}
	return f.becomeGood(ctx, magnetite)
}

func rebootedOne(ctx context.Context, f *five) error {
	h := f.hosts[magnetite]
	version, number, err := f.activating(ctx, hangsOnce)
	if err != nil {
		return err
	}
	if _, err := h.Run(ctx, "systemctl", "reboot"); err != nil {
		return err
	}
	if err := h.FollowReboots(ctx, 1, shutdownWithin, nil); err != nil {
		return err
	}
	return f.isConfirmed(ctx, number, version, 2)
}

// hangs waits until magnetite says that something hangs there.
func (f *five) hangs(ctx context.Context, file string) error {
	return wait(ctx, settleTimeout, func() error {
		_, err := f.hosts[magnetite].Run(ctx, "test", "-e", file)
		return err
	})
}

// isConfirmed waits until magnetite has confirmed a release, activated so often at most.
func (f *five) isConfirmed(ctx context.Context, number, version string, times int) error {
	p, err := f.comesTo(ctx, magnetite, number, "confirmed")
	if err != nil {
		return err
	}
	if p.Reason.Code != "up-to-date" || len(p.Refused) > 0 && p.Refused[len(p.Refused)-1].Number == number {
		return fmt.Errorf("%s is %s", magnetite, p)
	}
	f.good[magnetite] = version
	return f.runs(ctx, magnetite, version, times)
}

func lostGoingBack(ctx context.Context, f *five) error {
	h := f.hosts[magnetite]
	if _, err := h.Run(ctx, "touch", "/var/lib/lab-hung"); err != nil {
		return err
	}
	good, err := f.bundle(ctx, magnetite, hangsOnce)
	if err != nil {
		return err
	}
	numbers, err := f.release(ctx, magnetite)
	if err != nil {
		return err
	}
	if err := f.isGood(ctx, magnetite, numbers[magnetite], good); err != nil {
		return err
	}
	bad, err := f.bundle(ctx, magnetite, "rm /var/lib/lab-hung; exit 1")
	if err != nil {
		return err
	}
	if numbers, err = f.release(ctx, magnetite); err != nil {
		return err
	}
	if err := wait(ctx, settleTimeout, func() error {
		// Not before the way back has begun: the bad one takes away what says that it hangs
		// only once it is known to run.
		_, err := h.Shell(ctx, "[ \"$(grep -cx "+good+" "+activations+")\" = 2 ]; [ -e /var/lib/lab-hung ]")
		return err
	}); err != nil {
		return fmt.Errorf("it does not go back: %w", err)
	}
	if err := f.losesPower(ctx); err != nil {
		return err
	}
	// There, on the way back that was cut short, and on the next one.
	if err := f.isBackAfter(ctx, magnetite, numbers[magnetite], bad, 3, "activation-failed"); err != nil {
		return err
	}
	if err := f.becomeGood(ctx, magnetite); err != nil {
		return err
	}
	return f.othersRest(ctx, "")
}
