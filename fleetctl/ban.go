package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

type banOptions struct {
	Reason string
	Lift   bool
}

func newBanCommand(o *options) *cobra.Command {
	opts := &banOptions{}
	cmd := &cobra.Command{
		Use:   "ban MACHINE --reason TEXT",
		Short: "Cut a machine's identity off, at once",
		Long: `Cut MACHINE off: its open connections end at once, and the coordinator takes
nothing from it any longer. The ban is recorded in trust/bans.json too, so that
a coordinator that lost its store knows it from the kit ("fleetctl kit").

--lift undoes it. An agent that was refused asks again after a pause:
it can take some minutes until it is back, unless the agent is restarted.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeMachines(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return runBan(cmd.Context(), o, opts, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&opts.Reason, "reason", "", "`why`, for people (required)")
	f.BoolVar(&opts.Lift, "lift", false, "lift the ban instead")
	_ = cmd.MarkFlagRequired("reason") // Fails only for a flag that isn't there.
	return cmd
}

// banResult is the JSON form of ban.
type banResult struct {
	Machine    fleet.MachineName `json:"machine"`
	Banned     bool              `json:"banned"`
	Reason     string            `json:"reason"`
	StreamsCut int               `json:"streams_cut"`
}

func runBan(ctx context.Context, o *options, opts *banOptions, name string) error {
	// A stray machine can be banned too, so the inventory is not asked.
	m, err := fleet.ParseMachineName(name)
	if err != nil {
		return usageError{err}
	}
	reason := strings.TrimSpace(opts.Reason)
	if reason == "" || len(reason) > fleet.MaxReasonBytes {
		return usageError{ui.WithHint(errors.New("the reason is empty or too long"), "say in a sentence why: --reason TEXT")}
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	unlock, err := s.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	// The record comes first: a ban must not depend on the coordinator.
	if err := s.SetBan(repo.Ban{Machine: m, Reason: reason, Operator: s.operator, Time: o.Now().UTC()}, opts.Lift); err != nil {
		return err
	}
	cut, err := s.Ban(ctx, m, reason, opts.Lift)
	if errors.Is(err, client.ErrUnreachable) {
		return ui.WithHint(fmt.Errorf("it is recorded in trust/bans.json, but not in force: %w", err),
			"run this again when the coordinator is back, or give it a new kit (fleetctl kit)")
	}
	if err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(banResult{Machine: m, Banned: !opts.Lift, Reason: reason, StreamsCut: cut})
	}
	if opts.Lift {
		p.Printf("%s is no longer banned. Commit trust/bans.json.\n", m)
		return nil
	}
	p.Printf("%s is banned; %s cut. Commit trust/bans.json.\n", m, plural(cut, "connection"))
	return nil
}
