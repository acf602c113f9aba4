package agent

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func newRollbackCommand(o *options) *cobra.Command {
	var leaving string
	cmd := &cobra.Command{
		Use:   "rollback [PROFILE]",
		Short: "Return to the last good generation, and refuse the current one",
		Long: `Return to the last good generation, and refuse the current one until a retry.

With --leaving it goes back only from the generation of that number: a script
that got no answer can ask again, and does not go back twice.`,
		Args: optionalProfile,
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := parseLeaving(leaving)
			if err != nil {
				return err
			}
			return o.ask(cmd.Context(), func(ctx context.Context, c *control.Client) error {
				return o.rollBack(ctx, c, profileArg(args), number)
			})
		},
	}
	cmd.Flags().StringVar(&leaving, "leaving", "", "`number` of the generation to leave, as status shows it (default: what runs now)")
	return cmd
}

func parseLeaving(text string) (fleet.Number, error) {
	if text == "" {
		return fleet.Number{}, nil
	}
	n, err := fleet.ParseNumber(text)
	if err == nil && n.IsZero() {
		err = ui.WithHint(errors.New("--leaving 0: that is no generation of this fleet"), "fleet-agent status tells what runs")
	}
	return n, err //nolint:wrapcheck // It says what failed.
}

func (o *options) rollBack(ctx context.Context, c *control.Client, profile fleet.ProfileName, leaving fleet.Number) error {
	if leaving.IsZero() {
		// What the host shows now is what this person wants to leave, and not what
		// may have come by the time that the agent gets to it.
		st, err := c.Status(ctx)
		if err != nil {
			return err //nolint:wrapcheck // It says what failed.
		}
		for _, p := range st.Profiles {
			if p.Profile == profile {
				leaving = p.Current.Number
			}
		}
	}
	b, err := c.RollBack(ctx, profile, leaving)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	p := o.printer()
	switch {
	case p.JSON():
		return p.Value(map[string]any{"target": refJSON(b.Target), "already": b.Already}) //nolint:wrapcheck // Of the output.
	case b.Already:
		return o.target(leaving.String()+" was left already, for", b.Target)
	default:
		return o.target("rolling back to", b.Target)
	}
}
