//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

func rebootScenarios() []scenario {
	return []scenario{
		{"a kernel that works", "booted once by the host itself while the old system stays what boots, verified, then made what boots; switched to by nothing else", kernelWorks},
		{"a kernel that panics", "the host comes back with the old system by itself: boot-failed, refused, nothing else changed", kernelPanics},
		{"a kernel with which a unit fails", "no probe asks for it: verified not, because it had not failed before the boot; rolled back, and rebooted into the old system", kernelBreaksUnit},
		{"a kernel without network", "nobody is reached: rolled back, and rebooted into the old system", kernelWithoutNetwork},
		{"an agent that ends at once, on another kernel", "the dead-man switch goes back after the boot, and the agent before reboots into the old system", kernelWithoutAgent},
		{"power lost on the other kernel", "before it was verified: the old system boots, and the release is tried again and confirmed", kernelLosesPower},
		{"reboot: ask", "it is built and waits, and status says for what; fleet-agent reboot has it booted, verified and confirmed", kernelAsks},
		{"a way back that fails", "tried three times; then the host is rebooted once into what boots, and is back", wayBackFails},
		{"a way back that does not help", "what the release broke stays broken: back, and out of reach still, the host is rebooted once into what boots, and that is verified", wayBackDoesNotHelp},
		{"a loader with room for one entry", "nothing is booted, because nothing would lead back: rolled back, and the old system has its entry and boots", oneEntry},
		{"a kernel without panic=", "not booted by itself: switched to as far as that goes, and status says why it waits for a reboot", kernelWithoutPanic},
	}
}

// bootctl is the part of systemd's that asks for a boot. The real one writes a variable of
// the firmware, which a container has none of.
const bootctl = `#!/bin/sh
set -eu
[ "$1" = set-oneshot ] || exit 2
if [ -z "$2" ]; then
	rm -f /boot/loader/oneshot
	exit 0
fi
[ -e "/boot/loader/entries/$2" ] || { echo "no entry $2" >&2; exit 1; }
echo "$2" >/boot/loader/oneshot
sync -f /boot/loader
`

const (
	// alone is a policy for a host that comes up with nobody at it.
	alone = "{verifyDeadline: 20s, activationDeadline: 60s, reboot: auto}"
	asks  = "{verifyDeadline: 20s, activationDeadline: 60s, reboot: ask}"
	// rebootTimeout bounds all reboots of one scenario.
	rebootTimeout = 3 * time.Minute
)

// setUpReboots boots a host whose boot loader can boot something once, and which was
// booted from an entry of it.
func setUpReboots(ctx context.Context, w *world) error {
	if err := setUpAgents(ctx, w); err != nil {
		return err
	}
	if _, err := w.web.Input(ctx, bootctl, "sh", "-euc", "cat >/usr/local/bin/bootctl; chmod 0755 /usr/local/bin/bootctl"); err != nil {
		return err
	}
	if err := w.becomesGood(ctx, w.kernel("", nil)); err != nil {
		return err
	}
	if err := w.rebootsClean(ctx); err != nil {
		return err
	}
	return w.fleetFile(ctx, nixosSource, alone)
}

// kernel is a release with a kernel of that name, and an agent.
func (w *world) kernel(name string, settings map[string]string) release {
	r := w.withAgent(installedAgent)
	r.settings = map[string]string{"kernel": name, "params": "panic=10"}
	maps.Copy(r.settings, settings)
	return r
}

// boots deploys a release, follows the reboots that come of it, and returns it.
func (w *world) boots(ctx context.Context, r release, times int) (deployed, error) {
	d, err := w.deploy(ctx, r)
	if err != nil {
		return d, err
	}
	return d, w.web.FollowReboots(ctx, times, rebootTimeout, nil)
}

// isBooted checks that a release that was booted is confirmed, and was never switched to.
func (w *world) isBooted(ctx context.Context, d deployed) error {
	if err := w.isGood(ctx, d, 0); err != nil {
		return err
	}
	f, err := w.facts(ctx)
	if err != nil {
		return err
	}
	if f.Booted != d.toplevel {
		return fmt.Errorf("booted is %s, want %s", f.Booted, d.toplevel)
	}
	_, err = w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.State == "confirmed" && p.Reason.Code == "up-to-date" })
	return err
}

// isBack checks that a release is rolled back for that reason, and that the host runs, and
// was booted with, what was good before.
func (w *world) isBack(ctx context.Context, d deployed, code string) error {
	p, err := w.settled(ctx, d.number, "rolled-back")
	if err != nil {
		return err
	}
	if p.Reason.Code != code || !slices.Contains(p.Refused, ref{d.number}) {
		return fmt.Errorf("want %s, and that it is refused: %s", code, p)
	}
	if err := w.runs(ctx, w.good); err != nil {
		return err
	}
	f, err := w.facts(ctx)
	if err == nil && f.Booted != w.good.toplevel {
		err = fmt.Errorf("booted is %s, want %s", f.Booted, w.good.toplevel)
	}
	if err == nil {
		_, err = w.web.Run(ctx, "test", "!", "-e", "/boot/loader/oneshot")
	}
	return err
}

func kernelWorks(ctx context.Context, w *world) error {
	d, err := w.boots(ctx, w.kernel("-works", nil), 1)
	if err != nil {
		return err
	}
	w.booted = "-works"
	return w.isBooted(ctx, d)
}

func kernelPanics(ctx context.Context, w *world) error {
	d, err := w.boots(ctx, w.kernel("-panics", map[string]string{"kernel_panics": "yes"}), 2)
	if err != nil {
		return err
	}
	return w.isBack(ctx, d, "boot-failed")
}

func kernelBreaksUnit(ctx context.Context, w *world) error {
	r := w.kernel("-breaks", nil)
	r.units["lab-broken.service"] = brokenUnit
	d, err := w.boots(ctx, r, 2)
	if err != nil {
		return err
	}
	if err := w.isBack(ctx, d, "probe-failed"); err != nil {
		return err
	}
	_, err = w.until(ctx, settleTimeout, func(p profileStatus) bool {
		return says(p.Reason.Message, "failed in the boot, and had not before: lab-broken.service") == nil
	})
	return err
}

func kernelWithoutNetwork(ctx context.Context, w *world) error {
	d, err := w.deploy(ctx, w.kernel("-mute", nil))
	if err != nil {
		return err
	}
	if err := w.web.FollowReboots(ctx, 2, rebootTimeout, w.muteFrom(ctx, 0)); err != nil {
		return err
	}
	return w.isBack(ctx, d, "coordinator-unreachable")
}

// muteFrom has a host be without network from that boot on, until the next.
func (w *world) muteFrom(ctx context.Context, boot int) func(int) error {
	return func(n int) error {
		return w.web.Unplug(ctx, n == boot)
	}
}

func kernelWithoutAgent(ctx context.Context, w *world) error {
	r := w.kernel("-headless", nil)
	r.units[agentUnit] = replaceStart(r.units[agentUnit], "/bin/false")
	d, err := w.boots(ctx, r, 2)
	if err != nil {
		return err
	}
	return w.isBack(ctx, d, "not-verified")
}

func kernelLosesPower(ctx context.Context, w *world) error {
	d, err := w.deploy(ctx, w.kernel("-dark", nil))
	if err != nil {
		return err
	}
	if err := w.web.FollowReboots(ctx, 1, rebootTimeout, w.muteFrom(ctx, 0)); err != nil {
		return err
	}
	if f, err := w.facts(ctx); err != nil || f.Booted != d.toplevel {
		return errors.Join(err, fmt.Errorf("booted is %s, want %s", f.Booted, d.toplevel))
	}
	if err := wait(ctx, settleTimeout, func() error {
		_, err := w.web.Shell(ctx, "fleet-agent status | grep -q verifying")
		return err
	}); err != nil {
		return err
	}
	if err := w.web.Kill(); err != nil {
		return err
	}
	if err := errors.Join(w.web.Unplug(ctx, false), w.web.Boot(ctx)); err != nil {
		return err
	}
	if err := w.web.FollowReboots(ctx, 1, rebootTimeout, nil); err != nil {
		return err
	}
	return w.isBooted(ctx, d)
}

func kernelAsks(ctx context.Context, w *world) (err error) {
	if err := w.fleetFile(ctx, nixosSource, asks); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.fleetFile(ctx, nixosSource, alone)) }()
	before := w.good
	d, err := w.deploy(ctx, w.kernel("-asks", nil))
	if err != nil {
		return err
	}
	p, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.Reason.Code == "reboot-waits" })
	if err == nil && p.State != "held" {
		err = fmt.Errorf("it is %s", p)
	}
	if err == nil {
		err = says(p.Reason.Message, "kernel-asks is installed")
	}
	if err == nil {
		err = w.runs(ctx, before)
	}
	if err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "fleet-agent", "reboot"); err != nil {
		return err
	}
	if err := w.web.FollowReboots(ctx, 1, rebootTimeout, nil); err != nil {
		return err
	}
	w.booted = "-asks"
	return w.isBooted(ctx, d)
}

// wayBackFails has a release of the same kernel whose way back fails, until a boot.
func wayBackFails(ctx context.Context, w *world) error {
	d, err := w.boots(ctx, w.kernel(w.booted, map[string]string{"activation": "fails", "way_back": "fails"}), 1)
	if err != nil {
		return err
	}
	return w.isBack(ctx, d, "activation-failed")
}

// wayBackDoesNotHelp has a release of the same kernel take the network away until a boot.
func wayBackDoesNotHelp(ctx context.Context, w *world) error {
	d, err := w.deploy(ctx, w.kernel(w.booted, map[string]string{"slow": "5"}))
	if err != nil {
		return err
	}
	if err := wait(ctx, settleTimeout, func() error {
		_, err := w.web.Shell(ctx, "fleet-agent status | grep -q activating")
		return err
	}); err != nil {
		return err
	}
	if err := w.web.Unplug(ctx, true); err != nil {
		return err
	}
	if err := w.web.FollowReboots(ctx, 1, rebootTimeout, w.muteFrom(ctx, -1)); err != nil {
		return err
	}
	return w.isBack(ctx, d, "coordinator-unreachable")
}

func oneEntry(ctx context.Context, w *world) error {
	if err := w.becomesGood(ctx, w.kernel(w.booted, map[string]string{"boot_entries": "1"})); err != nil {
		return err
	}
	if err := w.rebootsClean(ctx); err != nil {
		return err
	}
	d, err := w.deploy(ctx, w.kernel("-crowded", nil))
	if err != nil {
		return err
	}
	p, err := w.settled(ctx, d.number, "rolled-back")
	if err == nil {
		err = says(p.Reason.Message, "would not boot afterwards")
	}
	if err == nil {
		err = w.runs(ctx, w.good)
	}
	if err == nil {
		_, err = w.web.Shell(ctx, `[ ! -e /boot/loader/oneshot ]
grep -q "init=`+w.good.toplevel+`/init" "/boot/loader/entries/$(sed -n 's/^default //p' /boot/loader/loader.conf)"`)
	}
	return err
}

func kernelWithoutPanic(ctx context.Context, w *world) error {
	if err := w.becomesGood(ctx, w.kernel("-hopes", map[string]string{"params": "quiet"})); err != nil {
		return err
	}
	p, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.Reason.Code == "reboot-needed" })
	if err == nil && p.State != "confirmed" {
		err = fmt.Errorf("it is %s", p)
	}
	if err == nil {
		_, err = w.web.Shell(ctx, "fleet-agent status | grep -F 'have no panic='")
	}
	return err
}
