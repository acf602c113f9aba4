//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

func fiveScenarios() []scenario {
	row := func(name, shows string, run func(context.Context, *five) error) scenario {
		return scenario{name, shows, func(ctx context.Context, w *world) error { return run(ctx, w.five) }}
	}
	return []scenario{
		row("five hosts at once", "one release for all, the coordinator's host among them: each activated once and confirmed", func(ctx context.Context, f *five) error {
			return f.becomeGood(ctx, f.names()...)
		}),
		row("the coordinator's host restarts the coordinator", "verified by hosts that come back from outside, confirmed; the others hold on", restartsCoordinator),
		row("the coordinator goes away midway", "others answer and don't reach it either: verified within the deadline and 5 s, confirmed when it is back, activated once", coordinatorGone),
		row("the coordinator's host lets nobody in", "its agent reaches the coordinator, and nobody else does: rolled back, healthy at most 10 s after the deadline; the others are as before", letsNobodyIn),
		row("the coordinator's host is off the network", "healthy at most 10 s after the deadline, and the others come back by themselves", func(ctx context.Context, f *five) error {
			return f.breaks(ctx, cinnabar, mute, "coordinator-unreachable")
		}),
		row("the network of one is down", "healthy at most 10 s after the deadline; coordinator-unreachable, refused", func(ctx context.Context, f *five) error {
			return f.breaks(ctx, electrum, mute, "coordinator-unreachable")
		}),
		row("one may not reach the coordinator, and nothing else is wrong", "others reach it, and say so: no excuse; rolled back, healthy at most 10 s after the deadline", func(ctx context.Context, f *five) error {
			return f.breaks(ctx, electrum, blocked("dport"), "coordinator-unreachable")
		}),
		row("half of the fleet is cut off midway", "of a release for all: who is cut off goes back, the others are confirmed; together again all are confirmed with the next one", halfCutOff),
		row("one way only", "what the coordinator's host sends to one host does not arrive while that verifies: rolled back; then the next one is confirmed", oneWay),
		row("a network that comes and goes", "each second, in the midst of fetching, activating and verifying: confirmed, activated once", flapping),
	}
}

const (
	// prefMute and prefPort are where the rules are that break a host's network: policy
	// routing is what there is without a program for firewalls.
	prefMute, prefPort = "50", "100"
	// mute has a host send nothing to others any more.
	mute = "ip -6 rule add pref " + prefMute + " blackhole"
)

// blocked lets nothing out to (dport) or from (sport) the coordinator's port, over TCP.
func blocked(port string) string {
	return "ip -6 rule add pref " + prefPort + " ipproto 6 " + port + " 7443 blackhole"
}

// verifyWithin is the deadline of fivePolicy.
const verifyWithin = 20 * time.Second

// breaks has a release break a host, and waits until it is back and well.
func (f *five) breaks(ctx context.Context, name, does, code string, words ...string) error {
	version, err := f.bundle(ctx, name, does)
	if err != nil {
		return err
	}
	numbers, err := f.release(ctx, name)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := f.isBack(ctx, name, numbers[name], version, code, words...); err != nil {
		return err
	}
	if err := f.healthyWithin(began, verifyWithin+10*time.Second); err != nil {
		return err
	}
	if err := f.othersRest(ctx, name); err != nil {
		return err
	}
	return f.becomeGood(ctx, name)
}

func letsNobodyIn(ctx context.Context, f *five) error {
	return f.breaks(ctx, cinnabar, blocked("sport"), "coordinator-unreachable", "from outside")
}

func restartsCoordinator(ctx context.Context, f *five) error {
	version, err := f.bundle(ctx, cinnabar, "systemctl restart fleet-coordinator")
	if err != nil {
		return err
	}
	numbers, err := f.release(ctx, cinnabar)
	if err != nil {
		return err
	}
	if err := f.isGood(ctx, cinnabar, numbers[cinnabar], version); err != nil {
		return err
	}
	return f.othersRest(ctx, cinnabar)
}

func coordinatorGone(ctx context.Context, f *five) error {
	var began time.Time
	number, version, err := f.midway(ctx, electrum, func() error {
		_, err := f.ops.Run(ctx, "systemctl", "stop", "fleet-coordinator")
		began = time.Now()
		return err
	})
	if err != nil {
		return err
	}
	if err := wait(ctx, settleTimeout, func() error {
		_, err := f.web.Shell(ctx, "fleet-agent status | grep -q verified")
		return err
	}); err != nil {
		return err
	}
	if err := f.healthyWithin(began, verifyWithin+5*time.Second); err != nil {
		return err
	}
	if _, err := f.ops.Run(ctx, "systemctl", "start", "fleet-coordinator"); err != nil {
		return err
	}
	if err := f.isGood(ctx, electrum, number, version); err != nil {
		return err
	}
	if err := f.othersRest(ctx, electrum); err != nil {
		return err
	}
	return f.becomeGood(ctx, electrum) // With one that does not wait, should it be gone back to.
}

// halfCutOff cuts two hosts off while all five are in the midst of an activation.
func halfCutOff(ctx context.Context, f *five) error {
	versions := map[string]string{}
	for _, name := range f.names() {
		version, err := f.bundle(ctx, name, "touch /run/lab-midway; while [ -e /run/lab-midway ]; do sleep 0.1; done")
		if err != nil {
			return err
		}
		versions[name] = version
	}
	numbers, err := f.release(ctx, f.names()...)
	if err != nil {
		return err
	}
	each := func(do func(name string) error) error {
		var eg errgroup.Group
		for _, name := range f.names() {
			eg.Go(func() error { return do(name) })
		}
		return eg.Wait()
	}
	if err := each(func(name string) error {
		return wait(ctx, settleTimeout, func() error {
			_, err := f.hosts[name].Run(ctx, "test", "-e", "/run/lab-midway")
			return err
		})
	}); err != nil {
		return err
	}
	cut := []string{scheelite, magnetite}
	for _, name := range cut {
		if err := f.hosts[name].Unplug(ctx, true); err != nil {
			return err
		}
	}
	err = each(func(name string) error {
		_, err := f.hosts[name].Run(ctx, "rm", "/run/lab-midway")
		return err
	})
	for _, name := range []string{cinnabar, electrum, galena} {
		err = errors.Join(err, f.isGood(ctx, name, numbers[name], versions[name]))
	}
	for _, name := range cut {
		err = errors.Join(err, wait(ctx, settleTimeout, func() error {
			_, err := f.hosts[name].Shell(ctx, "fleet-agent status | grep -q rolled-back")
			return err
		}))
	}
	for _, name := range cut {
		err = errors.Join(err, f.hosts[name].Unplug(ctx, false))
	}
	if err != nil {
		return err
	}
	for _, name := range cut {
		p, err := f.comesTo(ctx, name, numbers[name], "rolled-back")
		if err == nil && p.Reason.Code != "coordinator-unreachable" && p.Reason.Code != "rollback-unverified" {
			err = fmt.Errorf("%s is %s", name, p)
		}
		if err == nil {
			err = f.runs(ctx, name, f.good[name], 2)
		}
		if err != nil {
			return err
		}
	}
	return f.becomeGood(ctx, f.names()...)
}

// oneWay has a host take no answers of the coordinator, though it can send.
func oneWay(ctx context.Context, f *five) error {
	number, version, err := f.midway(ctx, galena, func() error {
		_, err := f.ops.Shell(ctx, "ip -6 rule add pref "+prefPort+" to "+f.hosts[galena].Address+" blackhole")
		return err
	})
	if err != nil {
		return err
	}
	err = wait(ctx, settleTimeout, func() error {
		_, err := f.hosts[galena].Shell(ctx, "fleet-agent status | grep -q rolled-back")
		return err
	})
	if _, uerr := f.ops.Shell(ctx, mend); uerr != nil {
		return errors.Join(err, uerr)
	}
	if err != nil {
		return err
	}
	if err := f.isBack(ctx, galena, number, version, "coordinator-unreachable"); err != nil {
		return err
	}
	return f.becomeGood(ctx, galena)
}

// flapping cuts a host off and lets it back each second, while a release arrives.
func flapping(ctx context.Context, f *five) error {
	version, err := f.bundle(ctx, magnetite, "sleep 3")
	if err != nil {
		return err
	}
	numbers, err := f.release(ctx, magnetite)
	if err != nil {
		return err
	}
	for n := range 12 {
		if err := f.hosts[magnetite].Unplug(ctx, n%2 == 0); err != nil {
			return err
		}
		time.Sleep(time.Second)
	}
	return f.isGood(ctx, magnetite, numbers[magnetite], version)
}
