//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

func outPathScenarios() []scenario {
	return []scenario{
		{"publish to confirmed", "what its activate installed is there, its path is a root; confirmed, activated once", func(ctx context.Context, w *world) error {
			return w.toolRuns(ctx, "t1")
		}},
		{"an activate that fails", "taken back by the activate of the path before; refused, and not tried again", toolFails},
		{"garbage collection", "nix-collect-garbage -d takes neither what runs nor what is gone back to", toolGarbage},
		{"from a bundle, and back", "each driver leaves what it entered: deactivate ran, the bundle's service runs again; confirmed", toolAndBundle},
		{"from a bundle to one that fails", "the bundle's service runs again, by the driver that made it", toolFailsAfterBundle},
	}
}

const (
	toolLog  = "/var/log/lab-tool"
	toolLink = "/run/lab-tool"
)

// commitTool makes a commit with another version of the package.
func (w *world) commitTool(ctx context.Context, version, more string) error {
	// What a program of an out path is given, and no more.
	activate := `#!/bin/sh
set -eu
echo "activate ` + version + ` ${FLEET_PREVIOUS:-nothing}" >>` + toolLog + `
[ "$PWD" = "$FLEET_OUT" ]
` + more + `
ln -sfn "$FLEET_OUT" ` + toolLink + `
`
	deactivate := "#!/bin/sh\nset -eu\necho deactivate " + version + " >>" + toolLog + "\nrm -f " + toolLink + "\n"
	_, err := w.commit(ctx, release{tool: map[string]string{"activate": activate, "deactivate": deactivate, "version": version + "\n"}})
	return err
}

// toolSource is the package as a source.
func toolSource() string {
	return `{flake: "git+file://` + flakeDir + `", attr: packages.` + nixSystem() + `.tool, driver: nix}`
}

// publishTool publishes a version of the package.
func (w *world) publishTool(ctx context.Context, version, more string) (number string, err error) {
	if err := w.commitTool(ctx, version, more); err != nil {
		return "", err
	}
	if err := w.fleetFile(ctx, toolSource(), patient); err != nil {
		return "", err
	}
	return w.publish(ctx)
}

func (w *world) toolRuns(ctx context.Context, version string) error {
	number, err := w.publishTool(ctx, version, "")
	if err != nil {
		return err
	}
	if _, err := w.settled(ctx, number, "confirmed"); err != nil {
		return err
	}
	return w.toolIs(ctx, version, 1)
}

// toolIs checks that a version is installed, is a root, and was activated so many
// times.
func (w *world) toolIs(ctx context.Context, version string, activations int) error {
	out, err := w.web.Shell(ctx, `cat `+toolLink+`/version
nix-store --gc --print-roots | grep -c "^/nix/var/nix/gcroots/fleet/.* $(readlink -f `+toolLink+`)$"
grep -c '^activate `+version+` ' `+toolLog)
	if err != nil {
		return err
	}
	f := strings.Fields(out)
	if len(f) != 3 || f[0] != version || f[1] == "0" || f[2] != fmt.Sprint(activations) {
		return fmt.Errorf("version, roots and activations are %q, want %s and %d", f, version, activations)
	}
	return nil
}

func toolFails(ctx context.Context, w *world) error {
	if err := w.toolRuns(ctx, "t2"); err != nil {
		return err
	}
	number, err := w.publishTool(ctx, "t3", "echo no; exit 3")
	if err != nil {
		return err
	}
	p, err := w.settled(ctx, number, "rolled-back")
	if err != nil {
		return err
	}
	if p.Reason.Code != "activation-failed" || !strings.Contains(p.Reason.Message, "exit code 3") {
		return fmt.Errorf("the reason is %s", p)
	}
	if _, err := w.web.Shell(ctx, "[ $(grep -c '^activate t3 ' "+toolLog+") = 1 ]"); err != nil {
		return err
	}
	return w.toolIs(ctx, "t2", 2) // there, and back
}

func toolGarbage(ctx context.Context, w *world) error {
	if err := w.toolRuns(ctx, "t4"); err != nil {
		return err
	}
	before, err := w.web.Run(ctx, "readlink", "-f", toolLink)
	if err != nil {
		return err
	}
	if err := w.toolRuns(ctx, "t5"); err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, "nix-collect-garbage -d; [ -e "+toolLink+"/activate ]; [ -e "+strings.TrimSpace(before)+"/activate ]"); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "rollback", webName); err != nil {
		return err
	}
	return wait(ctx, settleTimeout, func() error { return w.toolIs(ctx, "t4", 2) })
}

// toBundle publishes the bundle of bundles.go again.
func (w *world) toBundle(ctx context.Context, version string) error {
	if err := w.fleetFile(ctx, bundleSource, patient); err != nil {
		return err
	}
	return w.bundleRuns(ctx, version)
}

func toolAndBundle(ctx context.Context, w *world) error {
	if err := w.toBundle(ctx, "b1"); err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, "[ ! -e "+toolLink+" ]; [ $(tail -n 1 "+toolLog+" | cut -d' ' -f1) = deactivate ]"); err != nil {
		return fmt.Errorf("what the driver nix made was not left: %w", err)
	}
	if err := w.toolRuns(ctx, "t6"); err != nil {
		return err
	}
	return w.toBundle(ctx, "b2")
}

func toolFailsAfterBundle(ctx context.Context, w *world) error {
	if err := w.toBundle(ctx, "b3"); err != nil {
		return err
	}
	number, err := w.publishTool(ctx, "t7", "systemctl stop lab-bundle; exit 3")
	if err != nil {
		return err
	}
	if _, err := w.settled(ctx, number, "rolled-back"); err != nil {
		return err
	}
	if err := w.bundleIs(ctx, "b3"); err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "test", "!", "-e", toolLink); err != nil {
		return errors.New("what failed is still there")
	}
	return nil
}
