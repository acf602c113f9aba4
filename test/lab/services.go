//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

func serviceScenarios() []scenario {
	return []scenario{
		{"installed again", "agent and coordinator: nothing is done and the same process goes on; with another flag the unit is replaced and restarted", installedAgain},
		{"uninstalled and installed again", "unit and program are gone, what the system runs goes on, the state stays; installed again without a join string it is the same host, and the next release is confirmed", uninstalled},
		{"doctor", "of a host that lacks nothing: exit code 0; without the unit of after a boot, and without an agent: 3, naming it and what to do", doctored},
		{"a stuck agent", "stopped by a signal, it gives no word of progress: systemd ends it and starts another, which connects", agentStuck},
		{"a stuck coordinator", "the same; hosts connect again", coordinatorStuck},
		{"a long build and a long activation", "each longer than the watchdog's time by far: the same process goes on; confirmed, activated once", longWork},
		{"not where units can't be written", "a read-only /etc/systemd/system, and NixOS: refused with exit code 3, naming the module, and nothing is changed", notInstalled},
	}
}

func installKilledScenarios() []scenario {
	return []scenario{
		{"install is killed", "at each point of writing program, unit and join string: what is there is whole, and the same command finishes", installKilled},
	}
}

// again installs the agent once more, with more flags.
func (w *world) again(ctx context.Context, flags ...string) (string, error) {
	return w.web.Run(ctx, append([]string{"fleet-agent", "install", "--force"}, flags...)...)
}

// agentPID is the agent's process.
func (w *world) agentPID(ctx context.Context) (string, error) {
	out, err := w.web.Run(ctx, "systemctl", "show", "-P", "MainPID", "fleet-agent")
	pid := strings.TrimSpace(out)
	if err == nil && (pid == "" || pid == "0") {
		err = errors.New("the agent does not run")
	}
	return pid, err
}

// says checks that a text has all of these.
func says(text string, all ...string) error {
	for _, want := range all {
		if !strings.Contains(text, want) {
			return fmt.Errorf("%q is not said in:\n%s", want, text)
		}
	}
	return nil
}

func installedAgain(ctx context.Context, w *world) error {
	before, err := w.agentPID(ctx)
	if err != nil {
		return err
	}
	out, err := w.again(ctx)
	if err == nil {
		err = says(out, "is as it should be", "nothing was to be done")
	}
	if err != nil {
		return err
	}
	after, err := w.agentPID(ctx)
	if err == nil && after != before {
		err = fmt.Errorf("process %s is now %s", before, after)
	}
	if err != nil {
		return err
	}
	out, err = w.ops.Run(ctx, "fleet-coordinator", "install", "--force")
	if err == nil {
		err = says(out, "is as it should be", "nothing was to be done")
	}
	if err != nil {
		return err
	}
	for _, flags := range [][]string{{"--log-level", "debug"}, nil} {
		out, err := w.again(ctx, flags...)
		if err == nil {
			err = says(out, "replaced /etc/systemd/system/fleet-agent.service", "restarted")
		}
		if err == nil {
			err = w.connected(ctx)
		}
		if err != nil {
			return fmt.Errorf("with %q: %w", flags, err)
		}
	}
	next, err := w.agentPID(ctx)
	if err == nil && next == after {
		err = errors.New("the agent with another flag is the same process")
	}
	return err
}

func doctored(ctx context.Context, w *world) error {
	out, err := w.web.Run(ctx, "fleet-agent", "doctor")
	if err == nil {
		err = says(out, "it answers, as ", "the agent reaches it", "fleet-dead-man starts with the host", "version 257", "free at /var/lib/fleet/agent")
	}
	if err != nil {
		return err
	}
	for breaks, mends := range map[[2]string]string{
		{"systemctl disable fleet-dead-man", "missing  dead-man at boot"}:    "systemctl enable fleet-dead-man",
		{"systemctl stop fleet-agent", "the service fleet-agent is stopped"}: "systemctl start fleet-agent",
	} {
		out, err := w.web.Shell(ctx, breaks[0]+" 2>&1; fleet-agent doctor && exit 1 || [ $? = 3 ]; "+mends+" 2>&1; fleet-agent doctor -o json | head -c 100000")
		if err == nil {
			err = says(out, breaks[1], "hint: ", `"lacks":`)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", breaks[0], err)
		}
	}
	return w.connected(ctx)
}

func uninstalled(ctx context.Context, w *world) error {
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	const identity = "sha256sum /var/lib/fleet/agent/identity/*"
	before, err := w.web.Shell(ctx, identity)
	if err != nil {
		return err
	}
	out, err := w.web.Run(ctx, "fleet-agent", "uninstall", "--force")
	if err == nil {
		err = says(out, "removed the copy of the program", "kept /var/lib/fleet/agent")
	}
	if err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, `
[ ! -e /etc/systemd/system/fleet-agent.service ]
[ ! -e /etc/systemd/system/multi-user.target.wants/fleet-agent.service ]
[ ! -e /usr/local/bin/fleet-agent ]
[ "$(systemctl show -P LoadState fleet-agent)" = not-found ]
fleet-agent status | grep -F "fleet-agent is not installed as a service: fleet-agent install"
rm -f /etc/fleet/join`); err != nil {
		return fmt.Errorf("after uninstalling: %w", err)
	}
	if err := w.runs(ctx, w.good); err != nil {
		return err
	}
	if out, err = w.again(ctx); err == nil {
		err = errors.Join(says(out, "installed /etc/systemd/system/fleet-agent.service", "copied this program", "started fleet-agent"), w.connected(ctx))
	}
	if err != nil {
		return err
	}
	after, err := w.web.Shell(ctx, identity)
	if err == nil && after != before {
		err = fmt.Errorf("it is another host: %s, was %s", after, before)
	}
	if err != nil {
		return err
	}
	return w.becomesGood(ctx, release{})
}

// impatient has systemd wait for word of progress for seconds only, so that the
// scenario need not take minutes; relax undoes it.
const (
	impatient = `mkdir -p /run/systemd/system/$1.service.d
printf '[Service]\nWatchdogSec=9s\n' >/run/systemd/system/$1.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart $1
[ "$(systemctl show -P WatchdogUSec $1)" = 9s ]`
	relax = `rm /run/systemd/system/$1.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart $1`
)

// stuck stops the main process of a service for ever, and waits until systemd's
// watchdog has it replaced.
const stuck = `pid=$(systemctl show -P MainPID $1)
kill -STOP $pid
for i in $(seq 60); do
	now=$(systemctl show -P MainPID $1)
	if [ "$now" != 0 ] && [ "$now" != $pid ] && systemctl is-active -q $1; then
		journalctl -u $1 | grep -F "Watchdog timeout"
		exit 0
	fi
	sleep 1
done
echo "process $pid is still there" >&2
exit 1`

func agentStuck(ctx context.Context, w *world) error {
	for _, script := range []string{impatient, stuck} {
		if _, err := w.web.Run(ctx, "sh", "-euc", script, "sh", "fleet-agent"); err != nil {
			return err
		}
	}
	if err := w.connected(ctx); err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "sh", "-euc", relax, "sh", "fleet-agent"); err != nil {
		return err
	}
	return w.connected(ctx)
}

func coordinatorStuck(ctx context.Context, w *world) error {
	for _, script := range []string{impatient, stuck, relax} {
		if _, err := w.ops.Run(ctx, "sh", "-euc", script, "sh", "fleet-coordinator"); err != nil {
			return err
		}
	}
	return wait(ctx, settleTimeout, func() error { return w.connected(ctx) })
}

func longWork(ctx context.Context, w *world) error {
	if _, err := w.web.Run(ctx, "sh", "-euc", impatient, "sh", "fleet-agent"); err != nil {
		return err
	}
	before, err := w.agentPID(ctx)
	if err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, "mkdir -p /var/lib/lab; echo 25 >"+slowBuild); err != nil {
		return err
	}
	d, err := w.deploy(ctx, release{settings: map[string]string{"slow": "25"}})
	if err == nil {
		err = w.isGood(ctx, d, 1)
	}
	if _, rerr := w.web.Shell(ctx, "rm "+slowBuild); err != nil || rerr != nil {
		return errors.Join(err, rerr)
	}
	after, err := w.agentPID(ctx)
	if err == nil && after != before {
		err = fmt.Errorf("process %s is now %s", before, after)
	}
	if err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "sh", "-euc", relax, "sh", "fleet-agent"); err != nil {
		return err
	}
	return w.connected(ctx)
}

func notInstalled(ctx context.Context, w *world) error {
	before, err := w.agentPID(ctx)
	if err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, `
sum() { sha256sum /etc/systemd/system/fleet-agent.service /usr/local/bin/fleet-agent; }
was=$(sum)
refused() {
	rc=0
	said=$("$@" 2>&1) || rc=$?
	[ "$rc" = 3 ] && echo "$said" | grep -F services.fleet.agent.enable || { echo "exit code $rc: $said" >&2; exit 1; }
}
refused fleet-agent install --log-level debug
mount --bind -o ro /etc/systemd/system /etc/systemd/system
trap 'umount /etc/systemd/system' EXIT
mount -o remount,bind,ro /etc/systemd/system
refused fleet-agent install --force --log-level debug
refused fleet-agent uninstall --force
[ "$(sum)" = "$was" ]`); err != nil {
		return err
	}
	after, err := w.agentPID(ctx)
	if err == nil && after != before {
		err = fmt.Errorf("process %s is now %s", before, after)
	}
	return err
}

// installPoints are the points of a file that is written, and installFiles the
// functions that write one when the agent is installed.
var (
	installPoints = []string{"file.begin", "file.written", "file.synced", "file.renamed", "file.done"}
	installFiles  = []string{"service.Host.placeProgram", "service.Host.write", "agent.keepJoin"}
)

func installKilled(ctx context.Context, w *world) error {
	join, err := w.web.Shell(ctx, "cat /etc/fleet/join")
	if err != nil {
		return err
	}
	for _, function := range installFiles {
		for _, point := range installPoints {
			if _, err := w.web.Input(ctx, join, "sh", "-euc", `
fleet-agent uninstall --force >/dev/null
rm /etc/fleet/join
cat >/run/join
rc=0
FLEET_CRASHPOINT=agent/$1=kill fleet-agent install --force --join-file - </run/join || rc=$?
[ "$rc" = 137 ] || { echo "it was not killed: exit code $rc" >&2; exit 1; }
for file in /usr/local/bin/fleet-agent /opt/fleet/fleet-agent; do
	[ ! -e $file ] || cmp $file /opt/fleet/fleet-agent
done
unit=/etc/systemd/system/fleet-agent.service
[ ! -e $unit ] || [ "$(tail -n 1 $unit)" = WantedBy=multi-user.target ]
[ ! -e /etc/fleet/join ] || cmp /etc/fleet/join /run/join
fleet-agent install --force --join-file - </run/join
systemctl is-active -q fleet-agent
systemctl is-enabled -q fleet-agent
cmp /usr/local/bin/fleet-agent /opt/fleet/fleet-agent
cmp /etc/fleet/join /run/join`, "sh", point+"@"+function); err != nil {
				return fmt.Errorf("killed at %s of %s: %w", point, function, err)
			}
		}
	}
	return w.connected(ctx)
}
