package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func newStatusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show where this host is and why",
		Long: `Show where this host is and why. Where no agent runs, the journal is read
instead, and the answer says so, with what the service manager knows.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runStatus(cmd.Context(), o) },
	}
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
	if errors.Is(err, control.ErrNoAgent) || errors.Is(err, control.ErrNotAllowed) {
		// The person at the console, too, may ask for a part of it.
		if st, err = control.NewPersonClient(o.runDir).Status(ctx); err != nil && !errors.Is(err, control.ErrNoAgent) {
			return err //nolint:wrapcheck // It says what failed.
		}
	}
	if errors.Is(err, control.ErrNoAgent) {
		text, advice := o.askManager(ctx)
		note = offlineNote
		if text != "" {
			note += "; " + text
			if advice != "" {
				note += ": " + advice
			}
		}
		if st, err = offlineStatus(o.stateDir); errors.Is(err, os.ErrNotExist) {
			absent := fmt.Errorf("%w, and there is no journal in %s", control.ErrNoAgent, o.stateDir)
			if text != "" {
				absent = fmt.Errorf("%w; %s", absent, text)
			}
			return ui.WithHint(absent, fallback(advice, "name the agent's --state-dir and --run-dir"))
		}
		if errors.Is(err, os.ErrPermission) {
			return ui.WithHint(err, "ask as root; the person at the console may ask where a generation has policy.console")
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

// askManager says what the service manager knows of an agent that does not
// answer, and what to do; nothing where it would be of another agent, or can't be
// asked.
func (o *options) askManager(ctx context.Context) (text, advice string) {
	if o.runDir != defaultRunDir {
		return "", ""
	}
	h, err := o.host()
	if err != nil {
		return "", ""
	}
	st, err := h.Manager.State(ctx, serviceName)
	if err != nil {
		return "", ""
	}
	return st.Advice(serviceName)
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
