//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/test/lab/booted"
)

const (
	// modulesDir has the tests of the modules under the build tag lab.
	modulesDir = "test/packaging"
	// modulesTest is the program of these tests.
	modulesTest = "packaging.test"
	// modulesRoot is where hosts have what is evaluated of this repository.
	modulesRoot = "/srv/modules"
	// evaluatedFile is what the modules come to, from the root of the repository.
	evaluatedFile = modulesDir + "/testdata/evaluated.json"
)

// moduleTests are the tests and what each shows. A test of this package compares
// them with those that there are.
var moduleTests = []hostTest{
	{"TestNixParses", "Nix's own parser reads flake.nix and every file of packaging/nix"},
	{"TestNixEvaluates", "against a stub of the module system, the modules, flake.nix and the flake-parts module come to what is recorded, which make test compares with the units and the programs"},
	{"TestNixFlake", "Nix takes flake.nix for a flake, here with a stub for nixpkgs: its packages, modules, checks and shells are there"},
	{"TestNixRefuses", "values of a wrong kind are errors that name their option"},
}

func moduleScenarios() (list []scenario) {
	for _, t := range moduleTests {
		list = append(list, scenario{t.name, t.shows, func(ctx context.Context, w *world) error { return w.moduleTest(ctx, t.name) }})
	}
	return append(list, scenario{
		"a host by the module",
		"the units of the NixOS module's services run on booted hosts: a join string of another CA is refused by the host's pins, the right one enrols it by itself; confirmed", hostByModule,
	})
}

func setUpModules(ctx context.Context, w *world) error {
	if err := w.boot(ctx, hosts{}); err != nil {
		return err
	}
	if err := w.compile(ctx, modulesTest, "./"+modulesDir, "test", "-c", "-tags", "lab"); err != nil {
		return err
	}
	for _, dir := range []string{"flake.nix", "packaging/nix", modulesDir + "/testdata"} {
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			return copyFile(path, w.web.Path(filepath.Join(modulesRoot, path)), 0o644)
		}); err != nil {
			return err
		}
	}
	return nil
}

// moduleTest runs one of the tests where the modules are.
func (w *world) moduleTest(ctx context.Context, name string, flags ...string) error {
	argv := append([]string{"env", "-C", filepath.Join(modulesRoot, modulesDir), modulesTest, "-test.v", "-test.run", "^" + name + "$"}, flags...)
	out, err := w.web.Run(ctx, argv...)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return passed(out, name)
}

// writeModules records what the modules come to.
func writeModules(ctx context.Context, o options, log func(string, ...any)) error {
	return inLab(ctx, o, log, func(w *world) error {
		if err := setUpModules(ctx, w); err != nil {
			return err
		}
		if err := w.moduleTest(ctx, "TestNixEvaluates", "-update"); err != nil {
			return err
		}
		log("writing %s", evaluatedFile)
		return copyFile(w.web.Path(filepath.Join(modulesRoot, evaluatedFile)), evaluatedFile, 0o644)
	})
}

// pins of a fleet, as "fleetctl trust show" has them.
type pins struct {
	Pin fleet.Digest `json:"pin"`
	CAs []struct {
		Digest fleet.Digest `json:"digest"`
	} `json:"cas"`
}

// moduleUnit has a host run a service of the module as an administrator's.
func (w *world) moduleUnit(ctx context.Context, name string, services map[string]any) error {
	b, err := json.Marshal(services)
	if err != nil {
		return err
	}
	text, err := w.web.Run(ctx, "nix-instantiate", "--eval", "--raw", "--store", "dummy://", "--argstr", "name", name, "--argstr", "json", string(b),
		"--arg", "root", modulesRoot, filepath.Join(modulesRoot, modulesDir, "testdata/nix/unit.nix"))
	if err != nil {
		return err
	}
	h := w.web
	if name == "fleet-coordinator" {
		h = w.ops
	}
	if err := h.Write("/etc/systemd/system/"+name+".service", text, 0o644); err != nil {
		return err
	}
	_, err = h.Run(ctx, "systemctl", "daemon-reload")
	return err
}

func hostByModule(ctx context.Context, w *world) error {
	w.given = true
	for _, h := range []*booted.Host{w.ops, w.web} {
		if _, err := h.Shell(ctx, "ln -s "+booted.Programs+"/fleet* /usr/local/bin/"); err != nil {
			return err
		}
	}
	if err := w.moduleUnit(ctx, "fleet-coordinator", map[string]any{"coordinator": map[string]any{"enable": true, "meshInterface": "mesh0"}}); err != nil {
		return err
	}
	if err := w.foundEnabled(ctx); err != nil {
		return err
	}
	out, err := w.fleetctl(ctx, "trust", "show", "-o", "json")
	if err != nil {
		return err
	}
	var p pins
	if err := json.Unmarshal([]byte(out), &p); err != nil || len(p.CAs) != 1 {
		return fmt.Errorf("reading trust show: %w: %s", err, out)
	}
	if err := w.moduleUnit(ctx, "fleet-agent", map[string]any{"agent": map[string]any{
		"enable": true, "caPins": []fleet.Digest{p.CAs[0].Digest}, "rootPin": p.Pin, "env": map[string]string{"GREETING": `it's 100% "$HOME"`},
	}}); err != nil {
		return err
	}
	if err := w.foreignJoin(ctx); err != nil {
		return err
	}
	if err := w.enrolEnabled(ctx); err != nil {
		return err
	}
	// The environment of an activation is what was configured, whatever systemd
	// and Nix take for their own in it.
	if err := w.bundle(ctx, "v1", `printf %s "$GREETING" >/run/lab-greeting`); err != nil {
		return err
	}
	number, err := w.publish(ctx)
	if err != nil {
		return err
	}
	if _, err := w.settled(ctx, number, "confirmed"); err != nil {
		return err
	}
	if got, err := w.web.Run(ctx, "cat", "/run/lab-greeting"); err != nil || got != `it's 100% "$HOME"` {
		return fmt.Errorf("the activation's environment has %q: %w", got, err)
	}
	return nil
}

// foreignJoin starts the agent with a join string of another CA, and sees it
// refused for that.
func (w *world) foreignJoin(ctx context.Context) error {
	text, err := w.fleetctl(ctx, "token", webName)
	if err != nil {
		return err
	}
	join, err := pki.ParseJoin(text)
	if err != nil {
		return err
	}
	join.CA = fleet.DigestOf([]byte("another"))
	if err := errors.Join(os.MkdirAll(w.web.Path("/etc/fleet"), 0o755), w.web.Write("/etc/fleet/join", join.String(), 0o600)); err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "systemctl", "enable", "-q", "--now", "fleet-agent"); err != nil {
		return err
	}
	return wait(ctx, settleTimeout, func() error {
		out, err := w.web.Run(ctx, "journalctl", "--no-pager", "-u", "fleet-agent")
		if err == nil && !strings.Contains(out, "is none of the host's") {
			err = errors.New("the join string of another CA was not refused")
		}
		return err
	})
}
