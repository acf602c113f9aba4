package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// adopt records what runs, of whatever making, as generation 0.
func (w *worker) adopt(ctx context.Context) error {
	built := journal.Built{}
	for _, name := range w.adopters() {
		path, err := w.a.drivers[name].Current(ctx, w.profile)
		if err != nil {
			return fmt.Errorf("adopting what runs: %w", err)
		}
		if path != "" {
			built.Path, built.Driver = path, name
			break
		}
	}
	var err error
	if built.Secrets, err = secrets.Current(w.a.config.secretsRoot(w.profile)); err != nil {
		return fmt.Errorf("adopting what runs: %w", err)
	}
	return w.append(journal.Record{Kind: journal.KindAdopt, Built: &built})
}

// adopters are the drivers by whose turn it is to say what runs: that of the
// newest generation, then the host's own, of NixOS or a Mac, then the others by name.
func (w *worker) adopters() []string {
	var first []string
	if newest := w.a.bound.Load().desired.Newest(w.profile); newest != nil {
		first = append(first, newest.Generation.Doc.Source.Driver)
	}
	first = append(first, fleet.DriverNixOS, fleet.DriverDarwin)
	var names []string
	for _, name := range append(first, slices.Sorted(maps.Keys(w.a.drivers))...) {
		if w.a.drivers[name] != nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// maker is the driver that built what b names.
func (w *worker) maker(b journal.Built) (string, driver.Driver, error) {
	name := b.Driver
	if name == "" {
		// Recorded by an agent that had only the bundle driver.
		name = fleet.DriverBundle
	}
	if d := w.a.drivers[name]; d != nil {
		return name, d, nil
	}
	// A plugin is pinned by the generation that needs it.
	g := fleet.Generation{Source: fleet.Source{Driver: name}}
	if b.Ref.Digest != "" {
		var err error
		if g, err = w.a.bound.Load().desired.LoadAccepted(b.Ref.Digest); err != nil {
			return name, nil, fmt.Errorf("finding driver %s: %w", name, err)
		}
	}
	d, err := w.a.driverOf(&g)
	return name, d, err
}
