package fleetctl

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// profileOptions name a profile of a machine.
type profileOptions struct {
	Profile string
}

func (opts *profileOptions) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&opts.Profile, "profile", string(fleet.System), "`profile` of the machine: system, or home/USER")
}

func newRollbackCommand(o *options) *cobra.Command {
	opts := &profileOptions{}
	cmd := &cobra.Command{
		Use:   "rollback MACHINE",
		Short: "Send a machine back to its last confirmed generation",
		Long: `Send MACHINE back to the newest generation that the signed one now desired lists
in revert_to and that was confirmed on it. The one desired now counts as refused
there until a new publish or a retry.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeMachines(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return runRollback(cmd.Context(), o, opts, args[0]) },
	}
	opts.add(cmd)
	return cmd
}

// rollbackResult is the JSON form of rollback.
type rollbackResult struct {
	Machine fleet.MachineName `json:"machine"`
	Profile fleet.ProfileName `json:"profile"`
	Target  client.Ref        `json:"target"`
}

func runRollback(ctx context.Context, o *options, opts *profileOptions, name string) error {
	profile, err := fleet.ParseProfileName(opts.Profile)
	if err != nil {
		return usageError{err}
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	m, err := s.machine(name)
	if err != nil {
		return err
	}
	target, err := s.RollBack(ctx, m.Name, profile)
	if err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.RollbackMade)
	p := o.printer()
	if p.JSON() {
		return p.Value(rollbackResult{Machine: m.Name, Profile: profile, Target: target})
	}
	p.Printf("%s goes back to generation %s of release %s.\n", m.Name, target.Number, target.Release)
	return nil
}
