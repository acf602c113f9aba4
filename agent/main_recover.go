package agent

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func newRecoverCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "recover",
		Short: "Give a damaged journal up, and start anew from what runs",
		Long: `Give up a journal that the disk has damaged, with the agent stopped: the damaged
file is kept beside, and the agent starts from what runs, as after enrolment.
Nothing is activated by this. No number sinks: what can be read of the journal,
and the signed documents that are here, say which generations, trust roots and
signed times the host has seen.

Lost are generations to go back to, and pauses and refusals in the damaged part.
The recovery is reported, and is an alarm at the coordinator.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runRecover(o) },
	}
}

func runRecover(o *options) error {
	got, err := journal.Recover(o.stateDir, journal.Options{Now: o.now}, func() (map[fleet.ProfileName]journal.Proven, error) {
		running, err := execute.Running(filepath.Join(o.stateDir, runsDir))
		if err == nil && len(running) > 0 {
			err = control.NotPossible("wait until it has ended, or end it; what it does is on no record otherwise", "run %s goes on", running[0])
		}
		if err != nil {
			return nil, err
		}
		return provenBy(o.stateDir)
	})
	if errors.Is(err, journal.ErrWhole) {
		return control.NotPossible("nothing is to be done", "%s", err.Error())
	}
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	p := o.printer()
	if p.JSON() {
		highest := map[fleet.ProfileName]any{}
		for name, ref := range got.Highest {
			highest[name] = refJSON(ref)
		}
		return p.Value(map[string]any{ //nolint:wrapcheck // Of the output.
			"damage": got.Damage.Error(), "kept": got.Kept, "unreadable_bytes": got.Unreadable, "highest": highest,
		})
	}
	p.Printf("%s\nthe damaged file is %s (%d bytes of it are unreadable)\n", got.Damage, got.Kept, got.Unreadable)
	for _, name := range slices.Sorted(maps.Keys(got.Highest)) {
		p.Printf("%s: nothing below %s is taken\n", name, refText(got.Highest[name]))
	}
	p.Printf("start the agent: it adopts what runs, and reports this; make pauses and refusals again\n")
	return nil
}

// provenBy reads what the signed documents of a host prove.
func provenBy(stateDir string) (map[fleet.ProfileName]journal.Proven, error) {
	id, err := identity.ReadBinding(filepath.Join(stateDir, identityDir))
	if errors.Is(err, identity.ErrNotEnrolled) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading who this host is: %w", err)
	}
	store, err := desired.Open(filepath.Join(stateDir, desiredDir), id.Root, 0)
	if err != nil {
		return nil, err //nolint:wrapcheck // It says what failed.
	}
	highest, err := store.Highest(id.Machine)
	if err != nil {
		return nil, err //nolint:wrapcheck // It says what failed.
	}
	proven := map[fleet.ProfileName]journal.Proven{}
	for name, o := range highest {
		proven[name] = journal.Proven{Highest: o.Ref(), RevertTo: o.Generation.Doc.RevertTo}
	}
	return proven, nil
}
