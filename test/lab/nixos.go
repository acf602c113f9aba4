//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// setUpNixOS boots a host that runs a system which a person installed, as hosts
// do when an agent comes to them.
func setUpNixOS(ctx context.Context, w *world) error {
	return w.setUpNixOS(ctx, hosts{})
}

func (w *world) setUpNixOS(ctx context.Context, o hosts) error {
	if err := w.boot(ctx, o); err != nil {
		return err
	}
	if err := w.found(ctx); err != nil {
		return err
	}
	if err := w.fleetFile(ctx, nixosSource, patient); err != nil {
		return err
	}
	if err := w.install(ctx, release{}); err != nil {
		return fmt.Errorf("installing the first system: %w", err)
	}
	return w.enrol(ctx)
}

// install does by hand what an installer does, and anybody who switches a host.
func (w *world) install(ctx context.Context, r release) error {
	s, err := w.commit(ctx, r)
	if err != nil {
		return err
	}
	_, err = w.web.Shell(ctx, `
path=$(nix build --no-link --print-out-paths 'git+file://`+flakeDir+`#`+attr+`')
nix-env --profile /nix/var/nix/profiles/system --set "$path"
"$path/bin/switch-to-configuration" switch
sync`)
	if err != nil {
		return err
	}
	w.good = s
	return w.runs(ctx, s)
}

// runs waits until a system is what runs and what boots.
func (w *world) runs(ctx context.Context, s system) error {
	return wait(ctx, settleTimeout, func() error {
		f, err := w.facts(ctx)
		if err != nil {
			return err
		}
		return f.runs(s)
	})
}

// deployed is a release on its way.
type deployed struct {
	system

	number string
}

// deploy commits and publishes a release.
func (w *world) deploy(ctx context.Context, r release) (deployed, error) {
	s, err := w.commit(ctx, r)
	if err != nil {
		return deployed{}, err
	}
	number, err := w.publish(ctx)
	return deployed{s, number}, err
}

// becomesGood deploys a release that is confirmed after one activation.
func (w *world) becomesGood(ctx context.Context, r release) error {
	d, err := w.deploy(ctx, r)
	if err != nil {
		return err
	}
	return w.isGood(ctx, d, 1)
}

// isGood waits until a release is confirmed, runs and boots, after so many
// activations.
func (w *world) isGood(ctx context.Context, d deployed, activations int) error {
	if _, err := w.settled(ctx, d.number, "confirmed"); err != nil {
		return err
	}
	if err := w.runs(ctx, d.system); err != nil {
		return err
	}
	w.good = d.system
	return w.activated(ctx, d.system, activations)
}

// activated checks how often a system was activated.
func (w *world) activated(ctx context.Context, s system, want int) error {
	f, err := w.facts(ctx)
	if err == nil && f.activations(s) != want {
		err = fmt.Errorf("%s was activated %d times, want %d: %q", s.version, f.activations(s), want, f.Switches)
	}
	return err
}

// isUndone waits until a release is rolled back after one activation, refused,
// and what was good before runs and boots again.
func (w *world) isUndone(ctx context.Context, d deployed) error {
	p, err := w.settled(ctx, d.number, "rolled-back")
	if err != nil {
		return err
	}
	if !slices.Contains(p.Refused, ref{d.number}) {
		return fmt.Errorf("%s is not refused: %s", d.number, p)
	}
	if err := w.runs(ctx, w.good); err != nil {
		return err
	}
	if err := w.activated(ctx, d.system, 1); err != nil {
		return err
	}
	// Nobody holds the lock any more, and nothing of the switch is left. The
	// pattern must not find the shell that looks for it.
	name := path.Base(d.toplevel)
	_, err = w.web.Shell(ctx, `flock -n /run/nixos/switch-to-configuration.lock true
! pgrep -af '[`+name[:1]+`]`+name[1:]+`/bin/switch-to-configuration' >&2`)
	return err
}

func (w *world) becomesUndone(ctx context.Context, r release) error {
	d, err := w.deploy(ctx, r)
	if err != nil {
		return err
	}
	return w.isUndone(ctx, d)
}

func nixosScenarios() []scenario {
	return []scenario{
		{"publish to confirmed", "the closure that was evaluated runs, the profile and the boot entry have it; activated once", func(ctx context.Context, w *world) error {
			return w.becomesGood(ctx, release{})
		}},
		{"failing activation (exit 2)", "rolled back and refused; the system before runs, is the profile and boots; activated once", func(ctx context.Context, w *world) error {
			return w.becomesUndone(ctx, release{settings: map[string]string{"activation": "fails"}})
		}},
		{"hanging activation", "ended at its deadline with a child in a session of its own that is deaf to SIGTERM and holds the lock; rolled back", hangs},
		{"a unit that was failed before (exit 4)", "a unit that fails again does not count; confirmed", unrelatedFails},
		{"a unit that restarts for ever before (exit 4)", "does not count either; confirmed", unrelatedRestarts},
		{"a unit that fails only now (exit 4)", "rolled back and refused", func(ctx context.Context, w *world) error {
			return w.becomesUndone(ctx, release{units: map[string]string{"lab-broken.service": brokenUnit}})
		}},
		{"another switch holds the lock (exit 11)", "waited for; confirmed", lockIsHeld},
		{"an init that needs a reboot (exit 100)", "nothing was changed; the system before runs and boots", func(ctx context.Context, w *world) error {
			return w.becomesUndone(ctx, release{settings: map[string]string{"interface": `"systemd 3"`}})
		}},
		{"a kernel that needs a reboot", "confirmed, and status says what only a reboot puts in place; after it the host is up to date", kernelNeedsReboot},
		{"the boot loader fails", "the verified system is not the one that boots: said, and not called confirmed", bootLoaderFails},
		{"unchanged closure again", "confirmed under its new number; nothing was activated", sameAgain},
		{"rollback by hand, then a deploy", "nix-env --rollback and a switch by hand; the next release is confirmed", func(ctx context.Context, w *world) error {
			if err := byHand(ctx, w); err != nil {
				return err
			}
			return w.becomesGood(ctx, release{})
		}},
		{"rollback by hand, then a deploy that fails", "rolled back to what ran, which is the profile and boots", func(ctx context.Context, w *world) error {
			if err := byHand(ctx, w); err != nil {
				return err
			}
			return w.becomesUndone(ctx, release{settings: map[string]string{"activation": "fails"}})
		}},
		{"staged without a key, then signed", "publish --stage evaluates and pins the pushed revision, and no host sees it before fleetctl sign; then it is confirmed", stagedAndSigned},
		{"an inventory from the flake", "fleetctl inventory import evaluates it with nix; the same again changes nothing", inventoryImported},
		{"switched by hand, and corrected", "policy drift: correct: what was activated last runs and boots again within minutes, and status says why", switchedAndCorrected},
		{"switched by hand, and not to be corrected", "what was activated last does not work any more: the host is as the person left it, and boots so; nothing is blamed, and fleet-agent retry corrects it once it is mended", switchedAndNotCorrected},
		{"switched by hand", "status says overridden within a minute, held, and names what runs and boots; nothing undoes it, and the next release is confirmed", switchedByHand},
		{"the source before, published again", "the old closure under a new number: confirmed, activated once more", sourceBefore},
		{"operator's rollback", "through revert_to: the generation before runs, is confirmed and boots", operatorRollback},
		{"garbage collection before the activation", "nix-collect-garbage -d while the staged system waits: it activates, nothing was built again", garbage},
		{"a failed release offered again", "agent and coordinator restarted: not activated again, until fleetctl retry", offeredAgain},
	}
}

func hangs(ctx context.Context, w *world) error {
	defer w.restoreSource(ctx)
	if err := w.fleetFile(ctx, nixosSource, hasty); err != nil {
		return err
	}
	return w.becomesUndone(ctx, release{settings: map[string]string{"hangs": "firmly"}})
}

// brokenUnit never starts.
const brokenUnit = "[Service]\nType=oneshot\nExecStart=/bin/false\n"

// unrelatedFails has a unit of the host's own that fails whenever it is started,
// also by the switch.
func unrelatedFails(ctx context.Context, w *world) error {
	return w.withUnit(ctx, "lab-unrelated.service", brokenUnit)
}

// unrelatedRestarts has one that systemd starts again and again.
func unrelatedRestarts(ctx context.Context, w *world) error {
	return w.withUnit(ctx, "lab-restarting.service",
		"[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=30\n")
}

func (w *world) withUnit(ctx context.Context, name, text string) error {
	if _, err := w.web.Input(ctx, text, "sh", "-euc", `cat >/etc/systemd/system/`+name+`
mkdir -p /etc/systemd/system/lab.target.wants
ln -sf ../`+name+` /etc/systemd/system/lab.target.wants/
systemctl daemon-reload
systemctl start `+name+` || true`); err != nil {
		return err
	}
	d, err := w.deploy(ctx, release{})
	if err != nil {
		return err
	}
	if err := w.isGood(ctx, d, 1); err != nil {
		return err
	}
	f, err := w.facts(ctx)
	if err != nil {
		return err
	}
	if !f.saw(d.system, "test", 4) {
		return fmt.Errorf("the switch did not end with 4: %q", f.Switches)
	}
	_, err = w.web.Shell(ctx, `systemctl stop `+name+`
rm /etc/systemd/system/lab.target.wants/`+name+` /etc/systemd/system/`+name+`
systemctl daemon-reload
systemctl reset-failed`)
	return err
}

func lockIsHeld(ctx context.Context, w *world) error {
	if _, err := w.web.Shell(ctx, `mkdir -p /run/nixos
systemd-run -q --unit=lab-lock --collect flock /run/nixos/switch-to-configuration.lock sleep 3`); err != nil {
		return err
	}
	return w.becomesGood(ctx, release{})
}

func bootLoaderFails(ctx context.Context, w *world) error {
	before := w.good
	d, err := w.deploy(ctx, release{settings: map[string]string{"bootloader": "fails"}})
	if err != nil {
		return err
	}
	var f facts
	if err := wait(ctx, settleTimeout, func() error {
		f, err = w.facts(ctx)
		if err == nil && !slices.Contains(f.Switches, "boot "+d.toplevel) {
			err = errors.New("its boot entry was never asked for")
		}
		return err
	}); err != nil {
		return err
	}
	p, err := w.until(ctx, settleTimeout, func(p profileStatus) bool {
		return p.Desired.Number == d.number && (p.State == "confirmed" || p.State == "rolled-back" || p.State == "held" || p.State == "failed")
	})
	if err != nil {
		return err
	}
	if p.State == "confirmed" {
		return fmt.Errorf("called confirmed, although it does not boot: %s", p)
	}
	if f, err = w.facts(ctx); err != nil {
		return err
	}
	if f.BootDefault != before.toplevel {
		return fmt.Errorf("what boots is %s, want %s", f.BootDefault, before.toplevel)
	}
	return w.becomesGood(ctx, release{})
}

func sameAgain(ctx context.Context, w *world) error {
	f, err := w.facts(ctx)
	if err != nil {
		return err
	}
	number, err := w.publish(ctx)
	if err != nil {
		return err
	}
	return w.isGood(ctx, deployed{w.good, number}, f.activations(w.good))
}

func sourceBefore(ctx context.Context, w *world) error {
	before := w.good
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	f, err := w.facts(ctx)
	if err != nil {
		return err
	}
	d, err := w.deploy(ctx, release{version: before.version})
	if err != nil {
		return err
	}
	if d.toplevel != before.toplevel {
		return fmt.Errorf("the same source makes %s, and before %s", d.toplevel, before.toplevel)
	}
	return w.isGood(ctx, d, f.activations(before)+1)
}

func operatorRollback(ctx context.Context, w *world) error {
	before := w.good
	p, err := w.profile(ctx, systemProfile)
	if err != nil {
		return err
	}
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	f, err := w.facts(ctx)
	if err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "rollback", webName); err != nil {
		return err
	}
	return w.isGood(ctx, deployed{before, p.Current.Number}, f.activations(before)+1)
}

func garbage(ctx context.Context, w *world) error {
	if _, err := w.web.Run(ctx, "fleet-agent", "pause", "garbage is collected"); err != nil {
		return err
	}
	d, err := w.deploy(ctx, release{})
	if err != nil {
		return err
	}
	// The agent's own root: while nix still builds, its temporary root names
	// the path before it exists.
	if err := wait(ctx, settleTimeout, func() error {
		_, err := w.web.Shell(ctx, "nix-store --gc --print-roots | grep -q '^/nix/var/nix/gcroots/fleet/.*"+d.toplevel+"'")
		return err
	}); err != nil {
		return fmt.Errorf("the staged system has no root: %w", err)
	}
	inode := "stat -c %i " + d.toplevel
	before, err := w.web.Shell(ctx, inode+"; nix-collect-garbage -d >/dev/null 2>&1")
	if err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "fleet-agent", "resume"); err != nil {
		return err
	}
	if err := w.isGood(ctx, d, 1); err != nil {
		return err
	}
	after, err := w.web.Shell(ctx, inode)
	if err == nil && strings.TrimSpace(before) != strings.TrimSpace(after) {
		err = errors.New("the staged system was collected, and built again")
	}
	return err
}

func offeredAgain(ctx context.Context, w *world) error {
	d, err := w.deploy(ctx, release{settings: map[string]string{"needs": "/var/lib/lab/ready"}})
	if err != nil {
		return err
	}
	if err := w.isUndone(ctx, d); err != nil {
		return err
	}
	if _, err := w.ops.Run(ctx, "systemctl", "restart", "fleet-coordinator"); err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "systemctl", "restart", "fleet-agent"); err != nil {
		return err
	}
	if err := wait(ctx, settleTimeout, func() error {
		m, err := w.status(ctx)
		if err == nil && !m.Connected {
			err = errors.New("not connected")
		}
		return err
	}); err != nil {
		return err
	}
	if err := w.isUndone(ctx, d); err != nil {
		return fmt.Errorf("offered again: %w", err)
	}
	if _, err := w.web.Shell(ctx, "mkdir -p /var/lib/lab; touch /var/lib/lab/ready"); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "retry", webName); err != nil {
		return err
	}
	return w.isGood(ctx, d, 2)
}

// kernelNeedsReboot deploys another kernel with other parameters, and reboots.
func kernelNeedsReboot(ctx context.Context, w *world) error {
	// The host was made without a system that it could have booted.
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	if err := w.rebootsClean(ctx); err != nil {
		return err
	}
	if err := w.becomesGood(ctx, release{settings: map[string]string{"kernel": "-next", "params": "quiet"}}); err != nil {
		return err
	}
	p, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.Reason.Code == "reboot-needed" })
	if err == nil && p.State != "confirmed" {
		err = fmt.Errorf("it is %s", p)
	}
	if err == nil {
		err = says(p.Reason.Message, "kernel (kernel runs, kernel-next is installed)", "initrd", "kernel modules", "kernel parameters")
	}
	if err != nil {
		return err
	}
	if err := w.rebootsClean(ctx); err != nil {
		return err
	}
	// The kernel before is another one again.
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	return w.rebootsClean(ctx)
}

// rebootsClean reboots the agent's host, which then needs no further reboot.
func (w *world) rebootsClean(ctx context.Context) error {
	if err := w.web.PowerOff(ctx); err != nil {
		return err
	}
	if err := w.web.Boot(ctx); err != nil {
		return err
	}
	_, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.State == "confirmed" && p.Reason.Code == "up-to-date" })
	return err
}
