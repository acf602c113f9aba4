package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// localTimeout bounds a call to the agent of this host.
const localTimeout = 20 * time.Second

func newStatusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show where this host is and why",
		Long: `Show where this host is and why. Where no agent runs, the journal is read
instead, and the answer says so.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runStatus(cmd.Context(), o) },
	}
}

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
				return c.Pause(ctx, args[0])
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
			return o.ask(cmd.Context(), func(ctx context.Context, c *control.Client) error { return c.Resume(ctx) })
		},
	}
}

func newRollbackCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback [PROFILE]",
		Short: "Return to the last good generation, and refuse the current one",
		Args:  optionalProfile,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.ask(cmd.Context(), func(ctx context.Context, c *control.Client) error {
				ref, err := c.RollBack(ctx, profileArg(args))
				if err != nil {
					return err
				}
				return o.target("rolling back to", ref)
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
	c, err := control.Dial(o.runDir)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	ctx, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	err = call(ctx, c)
	if errors.Is(err, control.ErrNoAgent) {
		err = ui.WithHint(err, "start it, or name its --run-dir; only root and the agent's own user may ask")
	}
	return errors.Join(err, c.Close())
}

// offlineNote is what status says where it read the journal itself.
const offlineNote = "no agent runs; this is what its journal says"

func runStatus(ctx context.Context, o *options) error {
	var st control.Status
	note := ""
	err := o.ask(ctx, func(ctx context.Context, c *control.Client) (err error) {
		st, err = c.Status(ctx)
		return err
	})
	if errors.Is(err, control.ErrNoAgent) {
		note = offlineNote
		if st, err = offlineStatus(o.stateDir); errors.Is(err, os.ErrNotExist) {
			return ui.WithHint(fmt.Errorf("%w, and there is no journal in %s", control.ErrNoAgent, o.stateDir),
				"name the agent's --state-dir and --run-dir")
		}
	}
	if err != nil {
		return err
	}
	if p := o.printer(); p.JSON() {
		return p.Value(statusJSON(st, note)) //nolint:wrapcheck // Of the output.
	}
	showStatus(o, st, note)
	return nil
}

// offlineStatus reads the state directory without an agent.
func offlineStatus(dir string) (control.Status, error) {
	state, err := journal.Read(dir)
	if err != nil {
		return control.Status{}, err //nolint:wrapcheck // It says what failed.
	}
	st := journalStatus(state)
	if b, err := identity.ReadBinding(filepath.Join(dir, identityDir)); err == nil {
		st.Machine = b.Machine
	}
	return st, nil
}

func showStatus(o *options, st control.Status, note string) {
	p := o.printer()
	if note != "" {
		p.Printf("%s\n", p.Paint(ui.ToneWarn, note))
	}
	line := func(name, text string) {
		if text != "" {
			p.Printf("%-12s %s\n", name, text)
		}
	}
	line("machine", string(st.Machine))
	line("mode", string(st.Mode))
	line("paused", st.Paused)
	if note == "" {
		coordinator := "reached"
		if c := st.Coordinator; c.Code != "" {
			coordinator = p.Paint(ui.ToneWarn, string(c.Code)) + ": " + c.Message
			if c.Hint != "" {
				coordinator += " (" + c.Hint + ")"
			}
		}
		line("coordinator", coordinator+", last seen "+ui.Ago(o.now(), st.CoordinatorSeen))
	}
	line("outbox", strconv.FormatUint(st.Outbox, 10)+" transitions")
	if !st.IdentityExpires.IsZero() {
		line("identity", "until "+st.IdentityExpires.Local().Format(time.DateTime))
	}
	line("version", st.AgentVersion)
	var rows [][]string
	for _, q := range st.Profiles {
		rows = append(rows, []string{
			string(q.Profile), p.Paint(toneOf(q.State), string(q.State)), refText(q.Current), refText(q.Desired),
			refText(q.Confirmed), refText(q.LastGood), string(q.Reason.Code),
		})
	}
	p.Printf("\n")
	p.Table([]string{"PROFILE", "STATE", "CURRENT", "DESIRED", "CONFIRMED", "LAST-GOOD", "REASON"}, rows)
	for _, q := range st.Profiles {
		if q.Reason.Message != "" {
			p.Printf("\n%s: %s\n", q.Profile, q.Reason.Message)
		}
		if q.Reason.Hint != "" {
			p.Printf("  hint: %s\n", q.Reason.Hint)
		}
		for _, r := range q.Refused {
			p.Printf("  refused: %s\n", refText(r))
		}
	}
}

func toneOf(s fleet.State) ui.Tone {
	switch s {
	case fleet.StateVerified, fleet.StateConfirmed:
		return ui.ToneGood
	case fleet.StateRolledBack, fleet.StateFailed:
		return ui.ToneBad
	case fleet.StateRollingBack, fleet.StateHeld:
		return ui.ToneWarn
	case fleet.StateFetching, fleet.StateBuilding, fleet.StateStaged, fleet.StateActivating, fleet.StateVerifying:
		return ui.ToneBusy
	case fleet.StateIdle:
	}
	return ui.ToneNone
}

func refText(r fleet.Ref) string {
	if r.IsZero() {
		return "-"
	}
	if r.Digest == "" {
		return r.Number.String()
	}
	return r.Number.String() + " (" + string(r.Release) + ")"
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
		if f, err = openLogs(dir, runsIn(dir, profile), func(id string) string { return filepath.Join(dir, id, "log") }); err == nil {
			_, err = io.Copy(out, f)
			err = errors.Join(err, f.Close())
		}
	}
	return errors.Join(err, c.Close())
}
