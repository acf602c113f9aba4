package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
)

//go:embed fleet/inventory.json
var inventory []byte

const fleetYAML = `fleet: first
coordinator: {machine: cinnabar, address: "127.0.0.1:%s"}
inventory: {file: inventory.json}
operators:
  me: {role: admin}
settings:
  all:
    source: {bundle: ./bundles/%s}
    policy: {mode: manage, verifyDeadline: 15s, activationDeadline: 20s}
    secrets:
      api-token: {file: sealed/api-token.age, path: web/api-token, mode: "0400"}
%s`

// brokenOn sends two machines another bundle; clan's override says that this
// is meant, since it contradicts what is said for all.
const brokenOn = `  machine:
    galena: {source: {_type: override, priority: 50, content: {bundle: ./bundles/v2-crashes}}}
    rosegold: {source: {_type: override, priority: 50, content: {bundle: ./bundles/v2-broken}}}
`

const secretText = "correct horse battery staple"

type demo struct {
	bin, dir, repo string
	port           string
	machines       []string
	coordinator    *process
	agents         map[string]*process
}

func (d *demo) makeFleet(ctx context.Context) error {
	for _, dir := range []string{"logs", "config", "hosts", "coordinator"} {
		if err := os.MkdirAll(filepath.Join(d.dir, dir), 0o700); err != nil {
			return err
		}
	}
	var inv struct {
		Machines map[string]json.RawMessage `json:"machines"`
	}
	if err := json.Unmarshal(inventory, &inv); err != nil {
		return err
	}
	for m := range inv.Machines {
		d.machines = append(d.machines, m)
	}
	slices.Sort(d.machines)
	file := filepath.Join(d.dir, "inventory.json")
	if err := os.WriteFile(file, inventory, 0o600); err != nil {
		return err
	}
	out, err := d.ctlIn(ctx, d.dir, "init", d.repo, "--fleet", "first", "--operator", "me",
		"--coordinator-machine", "cinnabar", "--address", "127.0.0.1:7443", "--inventory", file)
	if err != nil {
		return err
	}
	fmt.Print(out)
	if err := os.Rename(file, filepath.Join(d.repo, "inventory.json")); err != nil {
		return err
	}
	for name, activate := range map[string]string{
		"v1": start, "v2": start, "v2-broken": start, "v3": start,
		"v2-crashes": "#!/bin/sh\necho 'this activation was never tried out' >&2\nexit 3\n",
	} {
		if err := d.makeBundle(name, activate); err != nil {
			return err
		}
	}
	return d.makeSecret()
}

const (
	start = "#!/bin/sh\nexec \"$FLEET_BUNDLE/web\" start\n"
	check = "#!/bin/sh\nexec \"$FLEET_BUNDLE/web\" check\n"
	leave = "#!/bin/sh\nexec \"$FLEET_BUNDLE/web\" stop\n"
)

// makeBundle is what a user would have in a directory: a program, how to
// start it, and how to see that it is well.
func (d *demo) makeBundle(name, activate string) error {
	dir := filepath.Join(d.repo, "bundles", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	web, err := os.ReadFile(filepath.Join(d.bin, "web"))
	if err != nil {
		return err
	}
	for file, content := range map[string][]byte{
		"web": web, "activate": []byte(activate), "check": []byte(check), "deactivate": []byte(leave),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o700); err != nil { //nolint:gosec // Executables.
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "version"), []byte(name), 0o600)
}

// makeSecret encrypts a secret to the operator, whose key init made.
func (d *demo) makeSecret() error {
	keys, err := os.ReadFile(filepath.Join(d.dir, "config", "fleet", "keys.txt"))
	if err != nil {
		return err
	}
	ids, err := age.ParseIdentities(bytes.NewReader(keys))
	if err != nil {
		return err
	}
	id, ok := ids[0].(*age.X25519Identity)
	if !ok {
		return errors.New("the operator's age key is no X25519 key")
	}
	if err := os.MkdirAll(filepath.Join(d.repo, "sealed"), 0o700); err != nil {
		return err
	}
	var buf bytes.Buffer
	w, err := age.Encrypt(&buf, id.Recipient())
	if err == nil {
		_, err = w.Write([]byte(secretText))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.repo, "sealed", "api-token.age"), buf.Bytes(), 0o600)
}

func (d *demo) writeFleetFile(bundle, more string) error {
	text := fmt.Sprintf(fleetYAML, d.port, bundle, more)
	return os.WriteFile(filepath.Join(d.repo, "fleet.yaml"), []byte(text), 0o600)
}

func (d *demo) startAll(ctx context.Context) error {
	if err := d.startCoordinator(ctx, "127.0.0.1:0"); err != nil {
		return err
	}
	if err := d.writeFleetFile("v1", ""); err != nil {
		return err
	}
	for _, m := range d.machines {
		out, err := d.ctl(ctx, "token", m)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(d.host(m), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(d.host(m), "join"), []byte(out), 0o600); err != nil {
			return err
		}
		if err := d.startAgent(m); err != nil {
			return err
		}
	}
	if err := wait(ctx, 20*time.Second, func() error {
		return d.all(ctx, func(h host) error {
			if !h.Connected {
				return fmt.Errorf("%s is not connected", h.Machine)
			}
			return nil
		})
	}); err != nil {
		return err
	}
	return d.show(ctx)
}

// startCoordinator starts it on address and learns the port.
func (d *demo) startCoordinator(ctx context.Context, address string) error {
	file := filepath.Join(d.dir, "coordinator", "address")
	_ = os.Remove(file)
	p, err := d.start("coordinator", "fleet-coordinator", nil, "run",
		"--kit", filepath.Join(d.repo, "trust", "coordinator-kit.age"),
		"--kit-key", filepath.Join(d.repo, "trust", "coordinator.agekey"),
		"--state-dir", filepath.Join(d.dir, "coordinator", "state"),
		"--listen", address, "--address-file", file)
	if err != nil {
		return err
	}
	d.coordinator = p
	return wait(ctx, 10*time.Second, func() error {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		_, d.port, _ = strings.Cut(strings.TrimSpace(string(b)), ":")
		return nil
	})
}

func (d *demo) host(m string) string { return filepath.Join(d.dir, "hosts", m) }

func (d *demo) startAgent(m string) error {
	h := d.host(m)
	p, err := d.start("agent-"+m, "fleet-agent", nil, "run",
		"--state-dir", filepath.Join(h, "state"), "--run-dir", filepath.Join(h, "run"),
		"--secrets-dir", filepath.Join(h, "secrets"), "--join-file", filepath.Join(h, "join"))
	if err != nil {
		return err
	}
	d.agents[m] = p
	return nil
}

func (d *demo) publish(ctx context.Context, bundle, more string) error {
	if err := d.writeFleetFile(bundle, more); err != nil {
		return err
	}
	out, err := d.ctl(ctx, "publish")
	fmt.Print(out)
	return err
}

func (d *demo) publishGood(ctx context.Context) error {
	if err := d.publish(ctx, "v1", ""); err != nil {
		return err
	}
	if err := d.settle(ctx, func(string) (string, string) { return "v1", "confirmed" }); err != nil {
		return err
	}
	if err := d.checkSecrets(); err != nil {
		return err
	}
	return d.show(ctx)
}

func (d *demo) publishBroken(ctx context.Context) error {
	if err := d.publish(ctx, "v2", brokenOn); err != nil {
		return err
	}
	fmt.Println("killing the coordinator and magnetite's agent (SIGKILL), and starting them again")
	d.agents["magnetite"].kill()
	d.coordinator.kill()
	if err := d.startCoordinator(ctx, "127.0.0.1:"+d.port); err != nil {
		return err
	}
	if err := d.startAgent("magnetite"); err != nil {
		return err
	}
	if err := d.settle(ctx, func(m string) (string, string) {
		if m == "galena" || m == "rosegold" {
			return "v1", "rolled-back"
		}
		return "v2", "confirmed"
	}); err != nil {
		return err
	}
	return d.show(ctx)
}

func (d *demo) publishMended(ctx context.Context) error {
	if err := d.publish(ctx, "v3", ""); err != nil {
		return err
	}
	if err := d.settle(ctx, func(string) (string, string) { return "v3", "confirmed" }); err != nil {
		return err
	}
	return d.show(ctx)
}
