//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
)

const (
	// forks is what a user of the host runs against it.
	forks = "/var/lib/lab/forks"
	// forksScript begins processes in sessions of their own, each of which begins the next
	// and ends: nobody who kills them one by one is done. And it takes memory. There are
	// never many, because the kernel may have given the lab no controllers of its own.
	forksScript = `trap '' TERM HUP
if [ $# = 0 ]; then
	for n in 1 2 3 4; do setsid sh "$0" again & done
	memory=$(head -c 32000000 /dev/zero | tr '\0' x)
	sleep 3600
fi
sleep 0.1
setsid sh "$0" again &
`
	forksProbe = `, probes: {forks: {kind: exec, argv: [/bin/sh, ` + forks + `], timeout: 8s}}`
	// soon is for what is to end at its deadline.
	soon = "{verifyDeadline: 25s, activationDeadline: 25s}"
)

// atWork is a script that fails while nothing of the user's forks, or anything of it is
// elsewhere than in units with that name and the bounds of such.
func atWork(name string) string {
	return `
uid=$(id -u ` + homeUser + `)
pids=$(pgrep -u ` + homeUser + ` -f ` + forks + `)
[ "$(echo "$pids" | wc -l)" -ge 3 ]
for pid in $(pgrep -u ` + homeUser + `); do
	# One that has begun the next is gone, or nearly.
	case $(sed -n 's/^0:://p' /proc/$pid/cgroup 2>/dev/null || true) in
	"" | "/user.slice/user-$uid.slice/fleet-user-` + name + `-"*.scope) ;;
	*) cat /proc/$pid/cgroup >&2; exit 1 ;;
	esac
done
unit=$(systemctl list-units --plain --no-legend 'fleet-user-` + name + `-*.scope' | head -1 | cut -d' ' -f1)
[ "$(systemctl show -p KillMode -p TasksMax --value "$unit" | sort | tr '\n' ' ')" = "4096 control-group " ]
systemctl show -p MemoryMax --value "$unit" | grep -q '^[0-9]'
`
}

// nothingLeft fails while anything of the user's runs.
const nothingLeft = `! pgrep -au ` + homeUser + ` >&2
[ -z "$(systemctl list-units --plain --no-legend --all 'fleet-user-*')" ]`

func probeForks(ctx context.Context, w *world) error {
	return w.homeForks(ctx, forksProbe, nil, "probe", "no answer within 8s")
}

func activationForks(ctx context.Context, w *world) error {
	return w.homeForks(ctx, "", map[string]string{"runs": forks}, homeUnit, "wasn't done after 25s")
}

// homeUnit begins the name of the unit of an activation of the home.
const homeUnit = "home-" + homeUser

// homeForks deploys a home that forks without end, in its probe or its activation, and
// beside it a system.
func (w *world) homeForks(ctx context.Context, probes string, settings map[string]string, unit, why string) error {
	before, runs, err := w.homeNow(ctx)
	if err != nil {
		return err
	}
	if _, err := w.web.Input(ctx, forksScript, "sh", "-euc", "mkdir -p /var/lib/lab; cat >"+forks); err != nil {
		return err
	}
	if err := w.homesFileOf(ctx, nixosSource, soon, homeSource(probes)); err != nil {
		return err
	}
	const whose = "systemctl show -p MainPID --value fleet-agent"
	agent, err := w.web.Shell(ctx, whose)
	if err != nil {
		return err
	}
	w.versions++
	numbers, s, err := w.deployHome(ctx, "forks", settings, release{version: fmt.Sprintf("beside-forks-%d", w.versions)})
	if err != nil {
		return err
	}
	if err := wait(ctx, settleTimeout, func() error {
		_, err := w.web.Shell(ctx, atWork(unit))
		return err
	}); err != nil {
		return fmt.Errorf("looking for what forks: %w", err)
	}
	// Which of the two had the first turn is no matter.
	p, err := w.homeSettled(ctx, homeName, numbers[homeName], "rolled-back")
	if err != nil {
		return err
	}
	if err := w.isGood(ctx, deployed{s, numbers[systemProfile]}, 1); err != nil {
		return err
	}
	if err := says(p.Reason.Message, why); err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, nothingLeft); err != nil {
		return fmt.Errorf("something is left: %w", err)
	}
	if now, err := w.web.Shell(ctx, whose); err != nil || strings.TrimSpace(now) != strings.TrimSpace(agent) {
		return fmt.Errorf("the agent was process %s and is %s: %w", agent, now, err)
	}
	if err := w.homeIs(ctx, homeUser, before, runs+1); err != nil {
		return err
	}
	if err := w.homesFile(ctx, nixosSource, homeSource("")); err != nil {
		return err
	}
	w.versions++
	return w.homeBecomesGood(ctx, fmt.Sprintf("peace-%d", w.versions), nil)
}
