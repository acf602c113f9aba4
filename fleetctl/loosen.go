package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// maxLoosening bounds how long a host may refuse less.
const maxLoosening = 7 * 24 * time.Hour

type loosenOptions struct {
	profileOptions

	For    time.Duration
	Reason string
}

func newLoosenCommand(o *options) *cobra.Command {
	opts := &loosenOptions{}
	cmd := &cobra.Command{
		Use:   "loosen MACHINE --reason TEXT",
		Short: "Let a machine activate without a fresh statement of what is the newest",
		Long: `Let activations on MACHINE start for a while although it has no fresh statement
of what is the newest, which its policy (freshness) asks for: for when the agent
that states it is out of order. Because the host then refuses less, this is a
document signed with the release key; it is good once, until it expires, and the
reason goes into the event log.

JSON: {machine, profile, action, expires}`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeMachines(1),
		PreRunE: func(*cobra.Command, []string) error {
			switch n := len(strings.TrimSpace(opts.Reason)); {
			case opts.For <= 0 || opts.For > maxLoosening:
				return fmt.Errorf("--for %s: want more than nothing and at most %s", opts.For, maxLoosening)
			case n == 0:
				return errors.New("--reason is missing: say why, for whoever reads the event log")
			case n > fleet.MaxLooseningReason:
				return fmt.Errorf("--reason has %d bytes, at most %d", n, fleet.MaxLooseningReason)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runLoosen(cmd.Context(), o, opts, args[0]) },
	}
	opts.add(cmd)
	f := cmd.Flags()
	f.DurationVar(&opts.For, "for", 4*time.Hour, "how long")
	f.StringVar(&opts.Reason, "reason", "", "`why`, for the event log")
	return cmd
}

func runLoosen(ctx context.Context, o *options, opts *loosenOptions, name string) error {
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
	rep := &reporter{progress: o.progress()}
	doc, err := s.publisher(o, rep).LoosenFreshness(ctx, m.Name, profile, opts.For, strings.TrimSpace(opts.Reason))
	rep.progress.Done()
	if err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(map[string]any{"machine": m.Name, "profile": profile, "action": doc.Action, "expires": doc.Expires})
	}
	p.Printf("%s may activate without a fresh statement until %s.\n", m.Name, doc.Expires.UTC().Format(time.DateTime+" UTC"))
	return nil
}
