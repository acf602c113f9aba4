package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

type banOptions struct {
	Reason string
	Lift   bool
}

func newBanCommand(o *options) *cobra.Command {
	opts := &banOptions{}
	cmd := &cobra.Command{
		Use:   "ban MACHINE [--lift] --reason TEXT",
		Short: "Cut a machine's identity off, at once",
		Long: `Cut MACHINE off: its open connections end at once, and the coordinator takes
nothing from it any longer. The ban is recorded in trust/bans.json too, so that
a coordinator that lost its store knows it from the kit ("fleetctl kit"), or from
the next "fleetctl publish" of an admin. Publishing leaves the machine out.

--lift undoes it, for a reason too. An agent that was refused asks again after a pause:
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
	ban := repo.Ban{Machine: m, Reason: reason, Operator: s.operator, Time: o.Now().UTC()}
	if opts.Lift {
		return s.liftBan(ctx, o, ban)
	}
	before, err := s.Bans()
	if err != nil {
		return err
	}
	// The record comes first: a ban must not depend on the coordinator.
	if err := s.SetBan(ban, false); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.BanKept)
	cut, err := s.Ban(ctx, m, reason, false)
	if errors.Is(err, client.ErrUnreachable) {
		return ui.WithHint(fmt.Errorf("it is recorded in trust/bans.json, but not in force: %w", err),
			"run this again when the coordinator is back, or give it a new kit (fleetctl kit)")
	}
	switch {
	case err == nil:
	case answered(err):
		// It was refused, and so must not come into force by the record.
		return errors.Join(err, s.SetBans(before))
	default:
		return ui.WithHint(fmt.Errorf("it is recorded in trust/bans.json; whether it is in force is not known: %w", err),
			"run this again; fleetctl status tells")
	}
	crashpoint.Hit(crashpoint.BanMade)
	p := o.printer()
	if p.JSON() {
		return p.Value(banResult{Machine: m, Banned: true, Reason: reason, StreamsCut: cut})
	}
	p.Printf("%s is banned; %s cut. Commit trust/bans.json.\n"+
		"Make a new kit too (fleetctl kit): a coordinator that lost its store starts from it.\n", m, plural(cut, "connection"))
	if dep, err := s.fleet.Settings(m); err == nil && dep.Witness != "" {
		p.Printf("Publish too: %s is a witness, and until then other hosts go on asking it, as long as its identity is good.\n", m)
	}
	return nil
}

// answered says whether the coordinator itself said no. What went wrong on the
// way there, or within it, says nothing against a ban.
func answered(err error) bool {
	for _, ours := range []error{pki.ErrUnknownCA, pki.ErrIdentity, pki.ErrExpiredIdentity, pki.ErrNotYetValid} {
		if errors.Is(err, ours) {
			return false
		}
	}
	return errors.Is(err, client.ErrRefused) || errors.Is(err, client.ErrNotFound)
}

// liftBan asks the coordinator first: what it refuses stays recorded.
func (s *session) liftBan(ctx context.Context, o *options, ban repo.Ban) error {
	if _, err := s.Ban(ctx, ban.Machine, ban.Reason, true); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.BanMade)
	if err := s.SetBan(ban, true); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.BanKept)
	p := o.printer()
	if p.JSON() {
		return p.Value(banResult{Machine: ban.Machine, Reason: ban.Reason})
	}
	p.Printf("%s is not banned any longer. Commit trust/bans.json.\n"+
		"Its agent asks again within some minutes, or at once when it is restarted.\n", ban.Machine)
	return nil
}
