//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

func setUpBundles(ctx context.Context, w *world) error {
	if err := w.boot(ctx, hosts{}); err != nil {
		return err
	}
	if err := w.found(ctx); err != nil {
		return err
	}
	return w.enrol(ctx)
}

func bundleScenarios() []scenario {
	return []scenario{
		{"publish to confirmed", "the service that the bundle installed runs; confirmed", func(ctx context.Context, w *world) error {
			return w.bundleRuns(ctx, "v1")
		}},
		{"the host dies midway", "SIGKILL of the whole host while its bundle activates: booted again, it goes back and tries once more; confirmed", bundleHostDies},
		{"the host dies midway, and boots without an agent", "its bundle disabled the agent: the unit of the dead-man switches goes back at the deadline, and starts the agent; it tries once more; confirmed", bundleAgentAway},
	}
}

// bundle writes a bundle that installs a service.
func (w *world) bundle(ctx context.Context, version, more string) error {
	activate := `#!/bin/sh
set -eu
` + more + `
cat >/etc/systemd/system/lab-bundle.service <<END
[Service]
ExecStart=/bin/sh -c 'echo ` + version + ` >/run/lab-bundle; exec sleep infinity'
END
systemctl daemon-reload
systemctl restart lab-bundle
`
	check := "#!/bin/sh\nsystemctl is-active -q lab-bundle && [ \"$(cat /run/lab-bundle)\" = " + version + " ]\n"
	for name, text := range map[string]string{"activate": activate, "check": check} {
		if _, err := w.ops.Input(ctx, text, "sh", "-euc", "mkdir -p "+repo+"/bundle; cat >"+repo+"/bundle/"+name+"; chmod 0755 "+repo+"/bundle/"+name); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) bundleRuns(ctx context.Context, version string) error {
	if err := w.bundle(ctx, version, ""); err != nil {
		return err
	}
	number, err := w.publish(ctx)
	if err != nil {
		return err
	}
	if _, err := w.settled(ctx, number, "confirmed"); err != nil {
		return err
	}
	return w.bundleIs(ctx, version)
}

func (w *world) bundleIs(ctx context.Context, version string) error {
	out, err := w.web.Shell(ctx, "systemctl is-active -q lab-bundle; cat /run/lab-bundle")
	if err == nil && strings.TrimSpace(out) != version {
		err = fmt.Errorf("the service says %q, want %q", out, version)
	}
	return err
}

func bundleHostDies(ctx context.Context, w *world) error {
	if err := w.bundleRuns(ctx, "v1"); err != nil {
		return err
	}
	if err := w.bundle(ctx, "v2", "[ -e /var/tmp/midway ] || { touch /var/tmp/midway; sleep 3600; }"); err != nil {
		return err
	}
	number, err := w.publish(ctx)
	if err != nil {
		return err
	}
	if err := w.rebootMidway(ctx, "/var/tmp/midway"); err != nil {
		return err
	}
	if _, err := w.settled(ctx, number, "confirmed"); err != nil {
		return err
	}
	return w.bundleIs(ctx, "v2")
}

// rebootMidway kills the host once its activation has left a file, and boots it.
func (w *world) rebootMidway(ctx context.Context, left string) error {
	if err := wait(ctx, settleTimeout, func() error {
		_, err := w.web.Run(ctx, "test", "-e", left)
		return err
	}); err != nil {
		return err
	}
	if err := w.web.Kill(); err != nil {
		return err
	}
	return w.web.Boot(ctx)
}

func bundleAgentAway(ctx context.Context, w *world) error {
	if err := w.bundleRuns(ctx, "v1"); err != nil {
		return err
	}
	if err := w.shortMargin(ctx); err != nil {
		return err
	}
	if err := w.fleetFile(ctx, bundleSource, hasty); err != nil {
		return err
	}
	// Which is no part of what it puts back.
	if err := w.bundle(ctx, "v2", "[ -e /var/tmp/away ] || { systemctl disable -q fleet-agent; touch /var/tmp/away; sleep 3600; }"); err != nil {
		return err
	}
	number, err := w.publish(ctx)
	if err != nil {
		return err
	}
	if err := w.rebootMidway(ctx, "/var/tmp/away"); err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, "! systemctl is-active fleet-agent && systemctl is-active fleet-dead-man"); err != nil {
		return fmt.Errorf("after the boot: %w", err)
	}
	// Not by the switch's own record, which the next attempt replaces at once.
	if err := wait(ctx, switchTimeout, func() error {
		_, err := w.web.Shell(ctx, `journalctl -u fleet-dead-man | grep "back: true"`)
		return err
	}); err != nil {
		return err
	}
	if _, err := w.settled(ctx, number, "confirmed"); err != nil {
		return err
	}
	if err := w.bundleIs(ctx, "v2"); err != nil {
		return err
	}
	_, err = w.web.Run(ctx, "systemctl", "enable", "-q", "fleet-agent")
	return errors.Join(err, w.fleetFile(ctx, bundleSource, patient))
}
