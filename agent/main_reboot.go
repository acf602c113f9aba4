package agent

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/control"
)

func newRebootCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "reboot [PROFILE]",
		Short: "Boot the generation that waits for this host to be rebooted",
		Long: `Boot the generation that waits for this host to be rebooted, as one does whose
policy says "reboot: ask" and that has another kernel, say. It is booted once, and
becomes what boots when it was verified; otherwise the next boot is of what boots now.
The host goes down as soon as that is ready.`,
		Args: optionalProfile,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.ask(cmd.Context(), func(ctx context.Context, c *control.Client) error {
				target, err := c.Boot(ctx, profileArg(args))
				if err != nil {
					return err //nolint:wrapcheck // It says what failed.
				}
				return o.target("rebooting into", target)
			})
		},
	}
}
