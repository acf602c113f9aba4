//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// stagedAndSigned publishes as a CI would that holds no release key, and signs.
func stagedAndSigned(ctx context.Context, w *world) error {
	before := w.good
	s, err := w.commit(ctx, release{})
	if err != nil {
		return err
	}
	out, err := w.fleetctl(ctx, "publish", webName, "--stage", "-o", "json")
	if err != nil {
		return err
	}
	var staged struct {
		Release string `json:"release"`
	}
	if err := json.Unmarshal([]byte(out), &staged); err != nil || staged.Release == "" {
		return fmt.Errorf("reading what was staged: %w: %s", err, out)
	}
	rev, err := w.rev(ctx)
	if err == nil {
		err = says(out, rev[:12])
	}
	if err != nil {
		return err
	}
	waiting, err := w.fleetctl(ctx, "releases", "--waiting")
	if err == nil {
		err = says(waiting, staged.Release)
	}
	if err == nil {
		err = w.runs(ctx, before)
	}
	if err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "sign", "--yes", staged.Release); err != nil {
		return err
	}
	p, err := w.until(ctx, settleTimeout, func(p profileStatus) bool {
		return p.State == "confirmed" && p.Current.Number == p.Desired.Number
	})
	if err != nil {
		return err
	}
	return w.isGood(ctx, deployed{s, p.Current.Number}, 1)
}

// imported is a repository of its own, for what is imported.
const imported = "/root/imported"

// inventoryImported evaluates the flake's inventory with the operator's nix, twice.
func inventoryImported(ctx context.Context, w *world) error {
	if _, err := w.commit(ctx, release{}); err != nil {
		return err
	}
	text := fmt.Sprintf("fleet: imported\ncoordinator: {machine: %s, address: %q}\ninventory: {file: inventory.json}\n", opsName, w.address())
	if _, err := w.ops.Input(ctx, text, "sh", "-euc", "rm -rf "+imported+"; mkdir "+imported+"; cat >"+imported+"/fleet.yaml"); err != nil {
		return err
	}
	imports := func() (added, machines []string, err error) {
		out, err := w.ops.Run(ctx, "fleetctl", "--dir", imported, "inventory", "import", "git+file://"+flakeDir, "-o", "json")
		if err != nil {
			return nil, nil, err
		}
		var r struct {
			Added []string `json:"added"`
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			return nil, nil, fmt.Errorf("reading what was imported: %w: %s", err, out)
		}
		shown, err := w.ops.Run(ctx, "fleetctl", "--dir", imported, "inventory", "show")
		return r.Added, strings.Fields(shown), err
	}
	added, shown, err := imports()
	if err != nil {
		return err
	}
	if len(added) != 2 || !strings.Contains(strings.Join(shown, " "), webName) {
		return fmt.Errorf("added %v; it shows %v", added, shown)
	}
	if added, _, err = imports(); err == nil && len(added) > 0 {
		err = errors.New("importing the same adds " + strings.Join(added, ", "))
	}
	return err
}
