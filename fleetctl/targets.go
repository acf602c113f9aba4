package fleetctl

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/publisher"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// errNotSelectable is a named machine that can't be published to.
var errNotSelectable = errors.New("nothing can be published to it")

// selectTargets turns names, or none for all, into targets. Of all machines
// the disabled ones and those without a source are left out; skipped names the
// latter. A named one of these is an error.
func selectTargets(w *workspace, names []string) (targets []publisher.Target, skipped []string, err error) {
	var machines []inventory.Machine
	for _, name := range names {
		m, err := w.machine(name)
		if err != nil {
			return nil, nil, err
		}
		if m.Disabled {
			return nil, nil, ui.WithHint(fmt.Errorf("%s is disabled: %w", name, errNotSelectable), `take it out of "disabled" in fleet.yaml`)
		}
		if !slices.ContainsFunc(machines, func(o inventory.Machine) bool { return o.Name == m.Name }) {
			machines = append(machines, m)
		}
	}
	if len(names) == 0 {
		machines = slices.DeleteFunc(w.fleet.Machines(), func(m inventory.Machine) bool { return m.Disabled })
	}
	slices.SortFunc(machines, func(a, b inventory.Machine) int { return strings.Compare(string(a.Name), string(b.Name)) })
	for _, m := range machines {
		dep, err := w.fleet.Settings(m.Name)
		if err != nil {
			return nil, nil, err
		}
		if dep.Source.IsZero() {
			if len(names) > 0 {
				return nil, nil, ui.WithHint(fmt.Errorf("%s has no source: %w", m.Name, errNotSelectable),
					fmt.Sprintf("set source: {bundle: DIR} for it in fleet.yaml, below settings.machine.%s, say", m.Name))
			}
			skipped = append(skipped, string(m.Name))
			continue
		}
		t, err := target(w, m, dep)
		if err != nil {
			return nil, nil, err
		}
		targets = append(targets, t)
	}
	if len(targets) == 0 {
		return nil, nil, ui.WithHint(errors.New("no machine has anything to publish"), "set source: {bundle: DIR} below settings in fleet.yaml")
	}
	return targets, skipped, nil
}

func target(w *workspace, m inventory.Machine, dep inventory.Deployment) (publisher.Target, error) {
	t := publisher.Target{
		Machine: m.Name, Profile: fleet.System, Bundle: dep.Source.Bundle,
		Probes: dep.Probes, Policy: dep.Policy.Policy, Expiry: time.Duration(dep.Policy.Expiry), Age: dep.Age,
	}
	for _, name := range slices.Sorted(maps.Keys(dep.Secrets)) {
		s := dep.Secrets[name]
		t.Secrets = append(t.Secrets, publisher.Secret{
			Name: name, File: s.File, Path: s.Path, Owner: s.Owner, Group: s.Group, Mode: s.Mode,
		})
	}
	if t.Age == "" && len(t.Secrets) > 0 {
		key, err := inventory.MachineKey(w.fleet.Dir(), m.Name)
		if err != nil && !errors.Is(err, inventory.ErrNoKey) {
			return t, err
		}
		t.Age = key
	}
	return t, nil
}

// inventoryOf is what the coordinator is told of the fleet.
func inventoryOf(f *inventory.Fleet) ([]client.Machine, []client.Operator) {
	var machines []client.Machine
	for _, m := range f.Machines() {
		machines = append(machines, client.Machine{Name: m.Name, Class: m.Class, Tags: m.Tags, Disabled: m.Disabled})
	}
	var operators []client.Operator
	for _, op := range f.Operators() {
		operators = append(operators, client.Operator{Name: op.Name, Role: op.Role})
	}
	return machines, operators
}
