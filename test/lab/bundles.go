//go:build linux

package main

import (
	"context"
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
	if err := wait(ctx, settleTimeout, func() error {
		_, err := w.web.Run(ctx, "test", "-e", "/var/tmp/midway")
		return err
	}); err != nil {
		return err
	}
	if err := w.web.Kill(); err != nil {
		return err
	}
	if err := w.web.Boot(ctx); err != nil {
		return err
	}
	if _, err := w.settled(ctx, number, "confirmed"); err != nil {
		return err
	}
	return w.bundleIs(ctx, "v2")
}
