//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

func crashScenarios() []scenario {
	return []scenario{
		{"the agent is killed midway", "SIGKILL while the switch runs: it goes on, the next agent takes it up while it still runs; confirmed, activated once", func(ctx context.Context, w *world) error {
			return agentKilled(ctx, w, "main")
		}},
		{"all of the agent's service is killed midway", "SIGKILL to each of its processes while the switch runs, which is a service of its own and goes on; confirmed, activated once", func(ctx context.Context, w *world) error {
			return agentKilled(ctx, w, "all")
		}},
		{"the switch restarts the agent", "the agent's own unit is restarted by the switch; confirmed, activated once", func(ctx context.Context, w *world) error {
			return w.becomesGood(ctx, release{settings: map[string]string{"restarts_agent": "yes"}})
		}},
		{"the host dies midway", "SIGKILL of all of it while the switch runs: it boots the system before; tried once more, confirmed", hostDies},
		{"the host dies midway each time", "not a fourth time: refused, the system before runs and boots; the next release is confirmed", hostDiesEachTime},
		{"the host dies after the release", "booted again, it runs what was confirmed, and nothing is activated", hostDiesLater},
	}
}

// midway waits until a switch has begun.
func (w *world) midway(ctx context.Context, s system) error {
	return wait(ctx, settleTimeout, func() error {
		f, err := w.facts(ctx)
		if err == nil && f.activations(s) == 0 {
			err = errors.New("its activation has not begun")
		}
		return err
	})
}

// agentKilled kills the agent, or whom systemctl(1) calls so of its service.
func agentKilled(ctx context.Context, w *world, whom string) error {
	d, err := w.deploy(ctx, release{settings: map[string]string{"slow": "9"}})
	if err != nil {
		return err
	}
	if err := w.midway(ctx, d.system); err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "systemctl", "kill", "--kill-whom="+whom, "-s", "KILL", "fleet-agent"); err != nil {
		return err
	}
	return w.isGood(ctx, d, 1)
}

const goesOn = "/var/lib/lab/goes-on"

// dieMidway kills the host in a release's nth activation, and boots it again.
func (w *world) dieMidway(ctx context.Context, d deployed, nth int) error {
	if err := wait(ctx, settleTimeout, func() error { return w.activated(ctx, d.system, nth) }); err != nil {
		return err
	}
	if err := w.web.Kill(); err != nil {
		return err
	}
	return w.web.Boot(ctx)
}

// neverEnds is a release whose activation hangs until the host has a file.
func (w *world) neverEnds(ctx context.Context) (deployed, error) {
	if _, err := w.web.Run(ctx, "rm", "-f", goesOn); err != nil {
		return deployed{}, err
	}
	return w.deploy(ctx, release{settings: map[string]string{"hangs_without": goesOn}})
}

// inTheMidst returns when the host is in a switch that never ends; begun
// again, it would.
func (w *world) inTheMidst(ctx context.Context) (deployed, error) {
	d, err := w.neverEnds(ctx)
	if err != nil {
		return d, err
	}
	if err := wait(ctx, settleTimeout, func() error { return w.activated(ctx, d.system, 1) }); err != nil {
		return d, err
	}
	_, err = w.web.Shell(ctx, "mkdir -p /var/lib/lab; touch "+goesOn)
	return d, err
}

func hostDies(ctx context.Context, w *world) error {
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	before := w.good
	d, err := w.inTheMidst(ctx)
	if err != nil {
		return err
	}
	if err := w.dieMidway(ctx, d, 1); err != nil {
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

func hostDiesEachTime(ctx context.Context, w *world) error {
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	d, err := w.neverEnds(ctx)
	if err != nil {
		return err
	}
	const most = 3
	for n := range most {
		if err := w.dieMidway(ctx, d, n+1); err != nil {
			return err
		}
	}
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
	if err := w.activated(ctx, d.system, most); err != nil {
		return err
	}
	return w.becomesGood(ctx, release{})
}

func hostDiesLater(ctx context.Context, w *world) error {
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	before, err := w.facts(ctx)
	if err != nil {
		return err
	}
	if err := w.web.Kill(); err != nil {
		return err
	}
	if err := w.web.Boot(ctx); err != nil {
		return err
	}
	p, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.State == "confirmed" })
	if err != nil {
		return err
	}
	if err := w.runs(ctx, w.good); err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	return w.activated(ctx, w.good, before.activations(w.good))
}
