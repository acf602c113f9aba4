package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/console"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// tellCommand is the hidden command that shows a message in the session of the user that
// it runs as; it is for the agent itself.
const tellCommand = "tell-person"

func runTell(title, body string, stderr io.Writer) int {
	if err := console.Show(context.Background(), console.Message{Title: title, Body: body}); err != nil {
		_, _ = fmt.Fprintf(stderr, "fleet-agent: %v\n", err)
		return exitError
	}
	return exitOK
}

func newPostponeCommand(o *options) *cobra.Command {
	var ask time.Duration
	c := &cobra.Command{
		Use:   "postpone",
		Short: "Put off what is about to begin, as the person at the console",
		Long: `Put off the activation that is about to begin on this machine, and the reboot that
may come of it. No root is needed: whoever is logged in at the machine's own screen may,
as often as the signed policy of the generation lets them (policy.console in
fleet.yaml), and so may root. What is under way is not put off, nor is a way back.`,
		Args: cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("for") && ask <= 0 {
				return fmt.Errorf("--for %s: want more than nothing", ask)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return runPostpone(cmd.Context(), o, ask) },
	}
	c.Flags().DurationVar(&ask, "for", 0, "for how `long`, such as 2h (default: as long as the policy lets)")
	return c
}

func runPostpone(ctx context.Context, o *options, ask time.Duration) error {
	done, err := control.NewPersonClient(o.runDir).Postpone(ctx, ask)
	if errors.Is(err, control.ErrNoAgent) && !errors.Is(err, os.ErrPermission) {
		err = ui.WithHint(err, "start the agent, or name its --run-dir; it listens there once a generation came that has policy.console")
	}
	if err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(map[string]any{"postponed": done}) //nolint:wrapcheck // Of the output.
	}
	for _, d := range done {
		p.Printf("%s: %s is put off until %s, and may be %d more times\n", d.Profile, refText(d.Target), d.Until.Local().Format("2006-01-02 15:04"), d.Left)
	}
	return nil
}
