//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/test/lab/booted"
)

func consoleScenarios() []scenario {
	return []scenario{
		{"nobody is at the console", "with notice, power and idle asked for: nobody is told, and it begins at once", consoleNobody},
		{"told, and it begins", "somebody at seat0 by logind's word: shown on their own session's bus, held with console-notice, confirmed when the notice is over", consoleTold},
		{"postponed", "by that user without root; another user is refused; an agent started anew and a host booted anew remember; once too often is refused; then it begins", consolePostponed},
		{"on battery", "held with on-battery while the kernel's power supplies say so, and begins once they no longer do", consoleBattery},
		{"a screen in use", "held with in-use until the session says that it is idle", consoleInUse},
		{"a session without a desktop", "no notification can be shown: they have the same time, and it begins", consoleUntold},
	}
}

const (
	alice, bob = 1000, 1001
	// sitter is the unit in which somebody sits at the screen, and their desktop.
	sitter = "lab-sits"
	shower = "lab-shows"
	shown  = "/run/lab-shown"
	// supplies is where the host's power supplies are said to be.
	supplies   = "/var/tmp/lab-power"
	labProgram = booted.Programs + "/lab"
)

func setUpConsole(ctx context.Context, w *world) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := copyFile(self, filepath.Join(w.lab.Dir(), "bin", "lab"), 0o755); err != nil {
		return err
	}
	if err := setUpBundles(ctx, w); err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, `useradd -u 1000 -m alice; useradd -u 1001 -m bob`); err != nil {
		return err
	}
	return w.bundleRuns(ctx, "v0")
}

// sits has somebody sit down at the screen; desktop says whether they have one that shows
// notifications.
func (w *world) sits(ctx context.Context, desktop bool) error {
	script := fmt.Sprintf(`rm -f %[1]s
systemd-run -q --unit=%[2]s --collect %[3]s -sit %[4]d
until loginctl --no-legend list-sessions | grep -q "alice *seat0"; do sleep 0.1; done
`, shown, sitter, labProgram, alice)
	if desktop {
		script += fmt.Sprintf(`
install -d -m 0700 -o alice /run/user/%[1]d
touch %[4]s; chown alice %[4]s
systemd-run -q --unit=%[2]s --collect -p User=alice -p StandardOutput=append:%[4]s sh -c '
	export DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/%[1]d/bus
	rm -f /run/user/%[1]d/bus
	dbus-daemon --session --nofork --address="$DBUS_SESSION_BUS_ADDRESS" &
	until [ -S /run/user/%[1]d/bus ]; do sleep 0.1; done
	exec %[3]s -shows'
until [ -S /run/user/%[1]d/bus ]; do sleep 0.1; done
sleep 0.5
`, alice, shower, labProgram, shown)
	}
	_, err := w.web.Shell(ctx, script)
	return err
}

// leaves has nobody be at the screen any more.
func (w *world) leaves(ctx context.Context) error {
	_, err := w.web.Shell(ctx, fmt.Sprintf(`systemctl stop %s %s 2>/dev/null || true
n=0; while loginctl --no-legend list-sessions | grep -q seat0 && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done`, shower, sitter))
	return err
}

// owed publishes a new version, of a policy that owes the person at the console that.
func (w *world) owed(ctx context.Context, console, version string) (string, error) {
	if err := w.fleetFile(ctx, bundleSource, "{verifyDeadline: 60s, activationDeadline: 60s, console: "+console+"}"); err != nil {
		return "", err
	}
	if err := w.bundle(ctx, version, ""); err != nil {
		return "", err
	}
	return w.publish(ctx)
}

// waitsFor waits until a generation is held for that reason.
func (w *world) waitsFor(ctx context.Context, number, code string) (profileStatus, error) {
	return w.until(ctx, settleTimeout, func(p profileStatus) bool {
		return p.Desired.Number == number && p.State == "held" && p.Reason.Code == code
	})
}

// begins waits until it is confirmed.
func (w *world) begins(ctx context.Context, number, version string) error {
	if _, err := w.settled(ctx, number, "confirmed"); err != nil {
		return err
	}
	return w.bundleIs(ctx, version)
}

// as runs the agent's program in the host as a user.
func (w *world) as(ctx context.Context, uid int, args ...string) (string, error) {
	return w.web.Run(ctx, append([]string{"setpriv", fmt.Sprintf("--reuid=%d", uid), fmt.Sprintf("--regid=%d", uid), "--clear-groups", "fleet-agent"}, args...)...)
}

func consoleNobody(ctx context.Context, w *world) error {
	began := time.Now()
	number, err := w.owed(ctx, "{notice: 10m, postpone: 3, power: ac, idle: 15m}", "v1")
	if err != nil {
		return err
	}
	if err := w.begins(ctx, number, "v1"); err != nil {
		return err
	}
	if took := time.Since(began); took > time.Minute {
		return fmt.Errorf("it took %s", took)
	}
	return nil
}

func consoleTold(ctx context.Context, w *world) (err error) {
	if err := w.sits(ctx, true); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.leaves(ctx)) }()
	number, err := w.owed(ctx, "{notice: 8s, postpone: 3}", "v2")
	if err != nil {
		return err
	}
	if _, err := w.waitsFor(ctx, number, "console-notice"); err != nil {
		return err
	}
	if err := w.bundleIs(ctx, "v1"); err != nil {
		return fmt.Errorf("before the notice was over: %w", err)
	}
	if err := w.begins(ctx, number, "v2"); err != nil {
		return err
	}
	return w.wasShown(ctx, 1, "An update of this computer (generation "+number)
}

// wasShown checks how many notifications were shown, and what they say.
func (w *world) wasShown(ctx context.Context, want int, words string) error {
	out, err := w.web.Run(ctx, "cat", shown)
	if err != nil {
		return err
	}
	if n := strings.Count(out, "An update of this computer:"); n != want || !strings.Contains(out, words) || !strings.Contains(out, "fleet-agent postpone") {
		return fmt.Errorf("shown %d times, want %d: %q", n, want, out)
	}
	return nil
}

func consolePostponed(ctx context.Context, w *world) (err error) {
	if err := w.sits(ctx, true); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.leaves(ctx)) }()
	number, err := w.owed(ctx, "{notice: 30s, postpone: 2, postponeFor: 25s}", "v3")
	if err != nil {
		return err
	}
	if _, err := w.waitsFor(ctx, number, "console-notice"); err != nil {
		return err
	}
	if _, err := w.as(ctx, bob, "postpone"); err == nil || !strings.Contains(err.Error(), "only root and whoever is at this machine's screen may ask") {
		return fmt.Errorf("another user postponed: %w", err)
	}
	if out, err := w.as(ctx, alice, "status"); err != nil || !strings.Contains(out, "console-notice") {
		return fmt.Errorf("what they see: %w: %s", err, out)
	}
	if out, err := w.as(ctx, alice, "retry"); err == nil {
		return fmt.Errorf("they did what is for root: %s", out)
	}
	out, err := w.as(ctx, alice, "postpone")
	if err != nil {
		return err
	}
	if err := says(out, "may be 1 more times"); err != nil {
		return err
	}
	p, err := w.waitsFor(ctx, number, "postponed")
	if err != nil {
		return err
	}
	if err := says(p.Reason.Message, "local/uid-1000"); err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "systemctl", "restart", "fleet-agent"); err != nil {
		return err
	}
	if _, err := w.waitsFor(ctx, number, "postponed"); err != nil {
		return fmt.Errorf("after a restart: %w", err)
	}
	// Before it begins they are told again, and put it off for the last time.
	if _, err := w.waitsFor(ctx, number, "console-notice"); err != nil {
		return err
	}
	if err := w.wasShown(ctx, 2, number); err != nil {
		return err
	}
	if _, err := w.as(ctx, alice, "postpone", "--for", "25s"); err != nil {
		return err
	}
	if _, err := w.as(ctx, alice, "postpone"); err == nil || !strings.Contains(err.Error(), "allows no more") {
		return fmt.Errorf("postponed once too often: %w", err)
	}
	// Through a boot, after which nobody is there and what was put off is put off still.
	if err := errors.Join(w.web.Kill(), w.web.Boot(ctx)); err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, `grep -q '"postponed":2' /var/lib/fleet/agent/console/*`); err != nil {
		return fmt.Errorf("after a boot: %w", err)
	}
	return w.begins(ctx, number, "v3")
}

func consoleBattery(ctx context.Context, w *world) (err error) {
	if _, err := w.web.Shell(ctx, `mkdir -p `+supplies+`/AC `+supplies+`/BAT0
cd `+supplies+`; echo Mains >AC/type; echo 0 >AC/online; echo Battery >BAT0/type; echo Discharging >BAT0/status
mount --bind `+supplies+` /sys/class/power_supply`); err != nil {
		return err
	}
	defer func() {
		_, uerr := w.web.Run(ctx, "umount", "/sys/class/power_supply")
		err = errors.Join(err, uerr)
	}()
	number, err := w.owed(ctx, "{power: ac}", "v4")
	if err != nil {
		return err
	}
	if _, err := w.waitsFor(ctx, number, "on-battery"); err != nil {
		return err
	}
	if err := w.bundleIs(ctx, "v3"); err != nil {
		return err
	}
	// It looks once a minute, and when it is asked.
	if _, err := w.web.Shell(ctx, "echo 1 >"+supplies+"/AC/online; echo Charging >"+supplies+"/BAT0/status; fleet-agent status"); err != nil {
		return err
	}
	return w.begins(ctx, number, "v4")
}

func consoleInUse(ctx context.Context, w *world) (err error) {
	if err := w.sits(ctx, false); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.leaves(ctx)) }()
	number, err := w.owed(ctx, "{idle: 3s}", "v5")
	if err != nil {
		return err
	}
	if _, err := w.waitsFor(ctx, number, "in-use"); err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, `busctl call org.freedesktop.login1 "/org/freedesktop/login1/session/$(loginctl --no-legend list-sessions | awk '/seat0/ {print $1}')" org.freedesktop.login1.Session SetIdleHint b true`); err != nil {
		return err
	}
	return w.begins(ctx, number, "v5")
}

func consoleUntold(ctx context.Context, w *world) (err error) {
	if err := w.sits(ctx, false); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.leaves(ctx)) }()
	number, err := w.owed(ctx, "{notice: 5s}", "v6")
	if err != nil {
		return err
	}
	if err := w.begins(ctx, number, "v6"); err != nil {
		return err
	}
	_, err = w.web.Shell(ctx, `journalctl -u fleet-agent | grep -F "the person at the console could not be told"`)
	return err
}
