package agent

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// localTimeout bounds a call to the agent of this host.
const localTimeout = 20 * time.Second

func newPauseCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "pause REASON",
		Short: "Keep activations from starting, across restarts",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(1)(cmd, args); err != nil {
				return err //nolint:wrapcheck // It says what failed.
			}
			return control.CheckPauseReason(args[0]) //nolint:wrapcheck // It says what failed.
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.ask(cmd.Context(), func(ctx context.Context, c *control.Client) error {
				if err := c.Pause(ctx, args[0]); err != nil {
					return err //nolint:wrapcheck // It says what failed.
				}
				return o.pausedNow(ctx, c)
			})
		},
	}
}

func newResumeCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "resume",
		Short: "Lift a pause",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.ask(cmd.Context(), func(ctx context.Context, c *control.Client) error {
				if err := c.Resume(ctx); err != nil {
					return err //nolint:wrapcheck // It says what failed.
				}
				return o.pausedNow(ctx, c)
			})
		},
	}
}

func newRetryCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "retry [PROFILE]",
		Short: "Try the desired generation again, although it failed or was refused",
		Args:  optionalProfile,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.ask(cmd.Context(), func(ctx context.Context, c *control.Client) error {
				r, err := c.Retry(ctx, profileArg(args))
				if err != nil {
					return err
				}
				return o.retried(r)
			})
		},
	}
}

func newLogsCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "logs [PROFILE]",
		Short: "Show the output of the newest activation, and of its rollback",
		Long: `Show the output of the newest activation, and of its rollback. On a terminal,
control characters are replaced; piped, the output is as the programs wrote it.`,
		Args: optionalProfile,
		PreRunE: func(*cobra.Command, []string) error {
			if ui.Format(o.output) == ui.FormatJSON {
				return errors.New("logs are what programs printed: there is no JSON of it")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLogs(cmd.Context(), o, profileArg(args))
		},
	}
}

// optionalProfile refuses what can be no profile before anything is asked.
func optionalProfile(cmd *cobra.Command, args []string) error {
	if err := cobra.MaximumNArgs(1)(cmd, args); err != nil || len(args) == 0 {
		return err //nolint:wrapcheck // It says what failed.
	}
	_, err := fleet.ParseProfileName(args[0])
	return err //nolint:wrapcheck // It says what failed.
}

func profileArg(args []string) fleet.ProfileName {
	if len(args) == 0 {
		return fleet.System
	}
	return fleet.ProfileName(args[0])
}

// pausedNow says what holds after a pause or its end.
func (o *options) pausedNow(ctx context.Context, c *control.Client) error {
	st, err := c.Status(ctx)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	p := o.printer()
	switch {
	case p.JSON():
		return p.Value(map[string]any{"paused": st.Paused, "mode": st.Mode}) //nolint:wrapcheck // Of the output.
	case st.Paused != "":
		p.Printf("paused (%s): no activation starts until fleet-agent resume\n", st.Paused)
	case st.Mode == fleet.ModeObserve:
		p.Printf("not paused, but this host observes: no activation starts\n")
	default:
		p.Printf("not paused: activations may start\n")
	}
	return nil
}

func (o *options) target(what string, ref fleet.Ref) error {
	p := o.printer()
	if p.JSON() {
		return p.Value(map[string]any{"target": refJSON(ref)}) //nolint:wrapcheck // Of the output.
	}
	if ref.IsZero() {
		p.Printf("%s what was there before the first generation\n", what)
		return nil
	}
	p.Printf("%s %s\n", what, refText(ref))
	return nil
}

func (o *options) retried(r control.Retried) error {
	if r.Waited.Code == "" {
		return o.target("trying again", r.Target)
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(map[string]any{"target": refJSON(r.Target), "waited": r.Waited}) //nolint:wrapcheck // Of the output.
	}
	p.Printf("waits no longer (%s: %s): trying %s now\n", r.Waited.Code, r.Waited.Message, refText(r.Target))
	return nil
}

// ask calls the agent of this host.
func (o *options) ask(ctx context.Context, call func(context.Context, *control.Client) error) error {
	return o.askWithin(ctx, localTimeout, call)
}

func (o *options) askWithin(ctx context.Context, d time.Duration, call func(context.Context, *control.Client) error) error {
	c, err := control.Dial(o.runDir)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	err = call(ctx, c)
	if errors.Is(err, control.ErrNoAgent) {
		err = ui.WithHint(err, "start it, or name its --run-dir; only root and the agent's own user may ask")
	}
	return errors.Join(err, c.Close())
}

func runLogs(ctx context.Context, o *options, profile fleet.ProfileName) error {
	out := o.stdout
	if ui.OnTerminal(out) {
		// A home profile's user wrote some of it, and root reads it.
		out = refusal.PlainWriter(out)
	}
	c, err := control.Dial(o.runDir)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	err = c.Logs(ctx, profile, out)
	if errors.Is(err, control.ErrNoAgent) {
		// What was logged is there without an agent, too.
		dir := filepath.Join(o.stateDir, runsDir)
		var f io.ReadCloser
		if f, err = openLogs(profile, dir, runsIn(dir, profile), func(id string) string { return filepath.Join(dir, id, "log") }); err == nil {
			_, err = io.Copy(out, f)
			err = errors.Join(err, f.Close())
		}
	}
	return errors.Join(err, c.Close())
}
