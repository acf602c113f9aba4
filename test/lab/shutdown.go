//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func shutdownScenarios() []scenario {
	return []scenario{
		{"rebooted while it builds", "by a person, in order: built after the boot, activated once, confirmed", rebootedBuilding},
		{"rebooted in the midst of the activation", "ended in order before anything is unmounted, and not blamed; the system before boots; activated once more, confirmed", rebootedActivating},
		{"rebooted while it verifies", "the system before boots, nothing is blamed; activated once more, confirmed", rebootedVerifying},
		{"powered off while it is made what boots", "the shutdown waits for that: the new system boots, confirmed, activated once", poweredOffCommitting},
		{"rebooted on the way back", "what is gone back to boots; refused for what was wrong with it, and activated once", rebootedGoingBack},
		{"rebooted while the dead-man switch goes back", "with no agent: the way back is ended in order, and gone to its end after the boot; refused, activated once", rebootedFired},
	}
}

// shutdownWithin bounds an orderly shutdown: what waits for a commit of a few seconds, or
// ends a program, takes no longer.
const shutdownWithin = 40 * time.Second

// rebootsMidway has a person reboot the agent's host, and returns how the newest run of
// that kind ended, as the host's disk says while it is down.
func (w *world) rebootsMidway(ctx context.Context, kind string) (outcome string, err error) {
	if _, err := w.web.Run(ctx, "systemctl", "reboot"); err != nil {
		return "", err
	}
	err = w.web.FollowReboots(ctx, 1, shutdownWithin, func(int) (err error) {
		outcome, err = w.outcomeOf(kind)
		return err
	})
	return outcome, err
}

// outcomeOf reads how the newest run of a kind ended; empty without a kind.
func (w *world) outcomeOf(kind string) (string, error) {
	if kind == "" {
		return "", nil
	}
	runs := w.web.KeptPath("/var/lib/fleet/agent/runs")
	found, err := filepath.Glob(filepath.Join(runs, "system-*-"+kind, "result.json"))
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("no run %q left a result in %s: %w", kind, runs, err)
	}
	b, err := os.ReadFile(found[len(found)-1])
	if err != nil {
		return "", err
	}
	var r struct {
		Outcome string `json:"outcome"`
	}
	return r.Outcome, json.Unmarshal(b, &r)
}

// notBlamed checks that nobody took the shutdown for a power loss, and that the system
// that was booted is the one that ran before.
func (w *world) notBlamed(ctx context.Context, booted system) error {
	if out, err := w.web.Shell(ctx, "! journalctl -b -u fleet-agent | grep 'did not shut down in order'"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	f, err := w.facts(ctx)
	if err == nil && f.Booted != booted.toplevel {
		err = fmt.Errorf("booted %s, want %s", f.Booted, booted.toplevel)
	}
	return err
}

func rebootedBuilding(ctx context.Context, w *world) error {
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	before := w.good
	if _, err := w.web.Shell(ctx, "mkdir -p /var/lib/lab; echo 60 >"+slowBuild+"; : >"+slowBuild+".log"); err != nil {
		return err
	}
	d, err := w.deploy(ctx, release{})
	if err != nil {
		return err
	}
	if err := wait(ctx, settleTimeout, func() error {
		_, err := w.web.Run(ctx, "test", "-s", slowBuild+".log")
		return err
	}); err != nil {
		return fmt.Errorf("nothing is built: %w", err)
	}
	if _, err := w.web.Run(ctx, "rm", slowBuild); err != nil {
		return err
	}
	if _, err := w.rebootsMidway(ctx, ""); err != nil {
		return err
	}
	return errors.Join(w.notBlamed(ctx, before), w.isGood(ctx, d, 1))
}

func rebootedActivating(ctx context.Context, w *world) error {
	before := w.good
	d, err := w.inTheMidst(ctx)
	if err != nil {
		return err
	}
	switch outcome, err := w.rebootsMidway(ctx, "activate"); {
	case err != nil:
		return err
	case outcome != "stopped":
		return fmt.Errorf("the activation is called %q", outcome)
	}
	return errors.Join(w.notBlamed(ctx, before), w.isGood(ctx, d, 2))
}

func rebootedVerifying(ctx context.Context, w *world) (err error) {
	before := w.good
	d, err := w.deploy(ctx, release{settings: map[string]string{"slow": "3"}})
	if err != nil {
		return err
	}
	if err := w.midway(ctx, d.system); err != nil {
		return err
	}
	if _, err := w.ops.Run(ctx, "systemctl", "stop", "fleet-coordinator"); err != nil {
		return err
	}
	err = wait(ctx, settleTimeout, func() error {
		_, err := w.web.Shell(ctx, "fleet-agent status | grep -q verifying")
		return err
	})
	if err == nil {
		_, err = w.rebootsMidway(ctx, "activate")
	}
	if _, serr := w.ops.Run(ctx, "systemctl", "start", "fleet-coordinator"); err != nil || serr != nil {
		return errors.Join(err, serr)
	}
	return errors.Join(w.notBlamed(ctx, before), w.isGood(ctx, d, 2))
}

// committing returns when a release is being made what boots.
func (w *world) committing(ctx context.Context) (deployed, error) {
	d, err := w.deploy(ctx, release{settings: map[string]string{"slow_boot": "6"}})
	if err != nil {
		return d, err
	}
	return d, wait(ctx, settleTimeout, func() error {
		f, err := w.facts(ctx)
		if err == nil && !f.began(d.system, "boot") {
			err = errors.New("it is not made what boots yet")
		}
		return err
	})
}

func poweredOffCommitting(ctx context.Context, w *world) error {
	d, err := w.committing(ctx)
	if err != nil {
		return err
	}
	if err := w.web.PowerOff(ctx); err != nil {
		return err
	}
	switch outcome, err := w.outcomeOf("commit-1"); {
	case err != nil:
		return err
	case outcome != "ok":
		return fmt.Errorf("the commit is called %q", outcome)
	}
	if err := w.web.Boot(ctx); err != nil {
		return err
	}
	return errors.Join(w.notBlamed(ctx, d.system), w.isGood(ctx, d, 1))
}

// goingBack returns when a release has failed and the host is on a way back that hangs;
// begun once more, it does not.
func (w *world) goingBack(ctx context.Context) (deployed, error) {
	if _, err := w.web.Shell(ctx, "mkdir -p /var/lib/lab; touch "+goesOn); err != nil {
		return deployed{}, err
	}
	if err := w.becomesGood(ctx, release{settings: map[string]string{"hangs_without": goesOn}}); err != nil {
		return deployed{}, err
	}
	if _, err := w.web.Run(ctx, "rm", goesOn); err != nil {
		return deployed{}, err
	}
	d, err := w.deploy(ctx, release{settings: map[string]string{"activation": "fails"}})
	if err != nil {
		return d, err
	}
	if err := wait(ctx, settleTimeout, func() error { return w.activated(ctx, w.good, 2) }); err != nil {
		return d, fmt.Errorf("it does not go back: %w", err)
	}
	_, err = w.web.Run(ctx, "touch", goesOn)
	return d, err
}

// isUndoneBecause is isUndone, for that reason.
func (w *world) isUndoneBecause(ctx context.Context, d deployed, code string) error {
	if err := w.isUndone(ctx, d); err != nil {
		return err
	}
	p, err := w.profile(ctx, systemProfile)
	if err == nil && p.Reason.Code != code {
		err = fmt.Errorf("want %s: %s", code, p)
	}
	return err
}

func rebootedGoingBack(ctx context.Context, w *world) error {
	d, err := w.goingBack(ctx)
	if err != nil {
		return err
	}
	switch outcome, err := w.rebootsMidway(ctx, "rollback-1"); {
	case err != nil:
		return err
	case outcome != "stopped":
		return fmt.Errorf("the way back is called %q", outcome)
	}
	return errors.Join(w.notBlamed(ctx, w.good), w.isUndoneBecause(ctx, d, "activation-failed"))
}

// rebootedFired has the dead-man switch be on its way back, which hangs, when a person
// reboots the host.
func rebootedFired(ctx context.Context, w *world) error {
	if _, err := w.web.Shell(ctx, "mkdir -p /var/lib/lab; touch "+goesOn); err != nil {
		return err
	}
	return w.inHaste(ctx, func() error {
		if err := w.becomesGood(ctx, release{settings: map[string]string{"hangs_without": goesOn}}); err != nil {
			return err
		}
		before := w.good
		// For what hangs: nobody has to be in time but the switch.
		if err := w.fleetFile(ctx, nixosSource, "{verifyDeadline: 2s, activationDeadline: 5s}"); err != nil {
			return err
		}
		d, err := w.neverEnds(ctx)
		if err != nil {
			return err
		}
		if err := w.midway(ctx, d.system); err != nil {
			return err
		}
		if _, err := w.web.Run(ctx, "systemctl", "stop", "fleet-agent"); err != nil {
			return err
		}
		if err := wait(ctx, switchTimeout, func() error { return w.activated(ctx, before, 2) }); err != nil {
			return fmt.Errorf("the switch does not go back: %w", err)
		}
		if _, err := w.web.Run(ctx, "touch", goesOn); err != nil {
			return err
		}
		switch outcome, err := w.rebootsMidway(ctx, "rollback-1"); {
		case err != nil:
			return err
		case outcome != "stopped":
			return fmt.Errorf("the way back is called %q", outcome)
		}
		return errors.Join(w.notBlamed(ctx, before), w.isUndoneBecause(ctx, d, "activation-hung"))
	})
}
