//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

func setUpCrashPoints(ctx context.Context, w *world) error {
	return w.setUpNixOS(ctx, hosts{crashPoints: true})
}

// crashLog has the hits of crash points, and what was killed.
const crashLog = "/var/lib/lab/crash-points"

// The functions of the drivers that make or remove a root with atomicfile, which
// has the crash points, and the points that each meets. No other programs than
// the lab's meet them: they need Nix.
const (
	keepRoot    = "nixdriver.(*base).keep"
	refuseBuild = "nixdriver.(*base).build"
	refusePath  = "nixdriver.(*OutPath).Build"
)

var rootPoints = map[string][]string{
	keepRoot:    {"link.begin", "link.made", "link.renamed", "link.done"},
	refuseBuild: {"link.begin", "link.renamed", "link.done"},
	refusePath:  {"link.begin", "link.renamed", "link.done"},
}

func crashPointScenarios() []scenario {
	return []scenario{
		{"what was built becomes a root", "the agent is killed at each point, once and twice in a row: confirmed, activated once; what is gone back to is whole and a root, also after a garbage collection", keepKilled},
		{"what was staged is durable, and not on record", "killed there once and twice in a row: the same", stagedKilled},
		{"nix builds", "the agent is killed while a builder runs, once and twice in a row, and nix goes on: the same, built once", buildKilled},
		{"nix repairs", "what runs is damaged, and the agent is killed while nix repairs it, once and twice in a row: whole again before anything else, nothing is activated", repairKilled},
		{"a refused closure loses its root", "killed at each point, once and twice in a row: refused by its name, nothing activated, no root is left", refusedKilled},
		{"an out path without a program loses its root", "killed at each point, once and twice in a row: refused by its name, nothing activated, no root is left", pathKilled},
	}
}

// armed has the agent start anew and kill itself so many times at a point.
func (w *world) armed(ctx context.Context, point string, times int) error {
	trigger := strings.TrimSuffix(strings.Repeat("agent/"+point+"=kill,", times), ",")
	if _, err := w.web.Input(ctx, "[Service]\nRestartSec=100ms\nEnvironment=\"FLEET_CRASHPOINT="+trigger+"\" \"FLEET_CRASHPOINT_LOG="+crashLog+"\"\n",
		"sh", "-euc", `mkdir -p /run/systemd/system/fleet-agent.service.d /var/lib/lab
cat >/run/systemd/system/fleet-agent.service.d/crash.conf
rm -f `+crashLog+`
systemctl daemon-reload
systemctl restart fleet-agent`); err != nil {
		return err
	}
	return w.connected(ctx)
}

// killed checks that the agent was killed so many times.
func (w *world) killed(ctx context.Context, point string, times int) error {
	out, err := w.web.Run(ctx, "cat", crashLog)
	if err != nil {
		return err
	}
	n := 0
	for _, line := range lines(out) {
		if strings.HasPrefix(line, "fired ") {
			n++
		}
	}
	if n != times {
		return fmt.Errorf("%s: the agent was killed %d times, want %d", point, n, times)
	}
	return nil
}

// atEach plays a release with the agent killed at each of points, once and twice.
func (w *world) atEach(ctx context.Context, function string, points []string, play func() error) error {
	for _, point := range points {
		if function != "" {
			point += "@" + function
		}
		for times := 1; times <= 2; times++ {
			err := w.armed(ctx, point, times)
			if err == nil {
				err = play()
			}
			if err == nil {
				err = w.killed(ctx, point, times)
			}
			if err != nil {
				return fmt.Errorf("killed at %s %d times: %w", point, times, err)
			}
		}
	}
	return nil
}

// becomesGoodOver is becomesGood, and that what ran before is what would be gone
// back to, and is a root.
func (w *world) becomesGoodOver(ctx context.Context) error {
	p, err := w.profile(ctx, systemProfile)
	if err != nil {
		return err
	}
	before := w.good
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	after, err := w.profile(ctx, systemProfile)
	if err != nil {
		return err
	}
	if p.Current.Number != "" && after.LastGood != p.Current {
		return fmt.Errorf("last good is %v, want %v", after.LastGood, p.Current)
	}
	_, err = w.web.Shell(ctx, `nix-store --gc --print-roots >/run/lab-roots
for p in `+before.toplevel+` `+w.good.toplevel+`; do grep -q "^/nix/var/nix/gcroots/fleet/.* $p$" /run/lab-roots; done
[ ! -L /nix/var/nix/gcroots/fleet/build-nixos-system ]`)
	if err != nil {
		err = fmt.Errorf("roots are missing, or left: %w", err)
	}
	return err
}

// collected collects garbage and looks at what runs and what ran before.
func (w *world) collected(ctx context.Context, before system) error {
	if _, err := w.web.Run(ctx, "nix-store", "--gc", "--quiet"); err != nil {
		return err
	}
	return errors.Join(w.whole(ctx, before), w.whole(ctx, w.good))
}

func (w *world) atEachGood(ctx context.Context, function string, points ...string) error {
	before := w.good
	if err := w.atEach(ctx, function, points, func() error {
		before = w.good
		return w.becomesGoodOver(ctx)
	}); err != nil {
		return err
	}
	return w.collected(ctx, before)
}

func keepKilled(ctx context.Context, w *world) error {
	return w.atEachGood(ctx, keepRoot, rootPoints[keepRoot]...)
}

func stagedKilled(ctx context.Context, w *world) error {
	return w.atEachGood(ctx, "staged", "journal.append")
}

// slowBuild is how many seconds builders of the agent's host take.
const slowBuild = "/var/lib/lab/builds-take"

func buildKilled(ctx context.Context, w *world) error {
	before := w.good
	for times := 1; times <= 2; times++ {
		if err := w.armed(ctx, "", 0); err != nil {
			return err
		}
		if _, err := w.web.Shell(ctx, "echo 3 >"+slowBuild+"; : >"+slowBuild+".log"); err != nil {
			return err
		}
		before = w.good
		d, err := w.deploy(ctx, release{})
		if err != nil {
			return err
		}
		for n := range times {
			if err := w.killWhile(ctx, "nix"); err != nil {
				return fmt.Errorf("after %d kills: %w", n, err)
			}
		}
		if err := w.isGood(ctx, d, 1); err != nil {
			return fmt.Errorf("killed %d times: %w", times, err)
		}
		if _, err := w.web.Shell(ctx, "rm "+slowBuild+"; [ $(grep -c '^toplevel' "+slowBuild+".log) = 1 ]"); err != nil {
			return fmt.Errorf("not built once: %w", err)
		}
	}
	return w.collected(ctx, before)
}

// killWhile kills the agent while a program runs that it started.
func (w *world) killWhile(ctx context.Context, program string) error {
	if err := wait(ctx, settleTimeout, func() error {
		_, err := w.web.Shell(ctx, `[ -s `+slowBuild+`.log ]
pid=$(systemctl show -P MainPID fleet-agent)
pgrep -P "$pid" -x `+program)
		return err
	}); err != nil {
		return fmt.Errorf("%s does not build: %w", program, err)
	}
	_, err := w.web.Run(ctx, "systemctl", "kill", "--kill-whom=main", "-s", "KILL", "fleet-agent")
	return err
}

func repairKilled(ctx context.Context, w *world) error {
	for times := 1; times <= 2; times++ {
		if err := w.armed(ctx, "", 0); err != nil {
			return err
		}
		if err := w.becomesGood(ctx, release{}); err != nil {
			return err
		}
		file := w.good.toplevel + "/kernel-params"
		// As after a power loss: another boot, whose agent never ended in order.
		if _, err := w.web.Shell(ctx, `systemctl stop fleet-agent
chmod 600 `+file+`; : >`+file+`; chmod 444 `+file+`
echo '{"boot_id":"another"}' >/var/lib/fleet/agent/boot
echo 3 >`+slowBuild+`; : >`+slowBuild+`.log
systemctl start fleet-agent`); err != nil {
			return err
		}
		for n := range times {
			if err := w.killWhile(ctx, "nix-store"); err != nil {
				return fmt.Errorf("after %d kills: %w", n, err)
			}
		}
		if err := wait(ctx, settleTimeout, func() error {
			_, err := w.web.Shell(ctx, "! grep suspect /var/lib/fleet/agent/boot")
			return err
		}); err != nil {
			return fmt.Errorf("killed %d times: what was damaged is still looked at: %w", times, err)
		}
		if _, err := w.web.Run(ctx, "rm", slowBuild); err != nil {
			return err
		}
		if _, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.State == "confirmed" }); err != nil {
			return err
		}
		if err := errors.Join(w.whole(ctx, w.good), w.runs(ctx, w.good), w.activated(ctx, w.good, 1)); err != nil {
			return fmt.Errorf("killed %d times: %w", times, err)
		}
	}
	return nil
}

func refusedKilled(ctx context.Context, w *world) error {
	defer w.restoreSource(ctx)
	if err := w.fleetFile(ctx, pinnedSource, patient); err != nil {
		return err
	}
	before, err := w.facts(ctx)
	if err != nil {
		return err
	}
	if err := w.atEach(ctx, refuseBuild, rootPoints[refuseBuild], func() error {
		d, err := w.deploy(ctx, release{settings: map[string]string{"irreproducible": "yes"}})
		if err != nil {
			return err
		}
		return w.refusedRootless(ctx, d.number, before, "the closure manifest has ", d.toplevel)
	}); err != nil {
		return err
	}
	w.restoreSource(ctx)
	return w.becomesGood(ctx, release{})
}

// refusedRootless is wasRefused, and that nothing keeps what was refused.
func (w *world) refusedRootless(ctx context.Context, number string, before facts, words, path string) error {
	if err := w.wasRefused(ctx, number, before, words); err != nil {
		return err
	}
	if out, err := w.web.Shell(ctx, "! ls -l /nix/var/nix/gcroots/fleet | grep -e '"+path+"' -e ' build-'"); err != nil {
		return fmt.Errorf("a root is left: %w: %s", err, out)
	}
	return nil
}

func pathKilled(ctx context.Context, w *world) error {
	defer w.restoreSource(ctx)
	if err := w.fleetFile(ctx, toolSource(), patient); err != nil {
		return err
	}
	before, err := w.facts(ctx)
	if err != nil {
		return err
	}
	n := 0
	if err := w.atEach(ctx, refusePath, rootPoints[refusePath], func() error {
		n++
		if _, err := w.commit(ctx, release{tool: map[string]string{"deactivate": fmt.Sprintf("#!/bin/sh\n# %d\n", n)}}); err != nil {
			return err
		}
		number, err := w.publish(ctx)
		if err != nil {
			return err
		}
		return w.refusedRootless(ctx, number, before, "has no program activate", "lab-tool")
	}); err != nil {
		return err
	}
	w.restoreSource(ctx)
	return w.becomesGood(ctx, release{})
}
