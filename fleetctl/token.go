package fleetctl

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

//nolint:gosec // No credential, only the help about one.
const tokenHelp = `Make a join string, with which MACHINE enrols: once, within ten minutes. It is
printed alone on standard output; treat it as a secret until it was used. The
arguments of a process can be read by every user of a machine, so give it to the
agent on standard input or in a file that only root can read:

  fleetctl token MACHINE | ssh root@MACHINE fleet-agent enrol -

The coordinator learns only a hash of its token. The join string itself is kept
in joins/, encrypted, because its secret shows later whether the keys that the
coordinator reports are those that the host made.`

func newTokenCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "token MACHINE",
		Short:             "Make a one-use join string for a machine",
		Long:              tokenHelp,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeMachines(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runToken(cmd.Context(), o, args[0])
		},
	}
}

// tokenResult is the JSON form of token.
type tokenResult struct {
	Machine fleet.MachineName `json:"machine"`
	Join    string            `json:"join"`
	Expires time.Time         `json:"expires"`
}

func runToken(ctx context.Context, o *options, name string) error {
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	m, err := s.machine(name)
	if err != nil {
		return err
	}
	if m.Disabled {
		return ui.WithHint(fmt.Errorf("%s is disabled", name), `take it out of "disabled" in fleet.yaml`)
	}
	join, err := s.newJoin(o, m.Name)
	if err != nil {
		return err
	}
	// The coordinator may not know a machine that was added just now.
	if _, err := s.ApplyInventory(ctx, s.inventory()); err != nil {
		return err
	}
	recipients, err := s.Recipients()
	if err != nil {
		return err
	}
	parsed, err := keyring.ParseRecipients(recipients)
	if err != nil {
		return err
	}
	if err := s.WriteJoin(join, parsed...); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.TokenKept)
	expires, err := s.Token(ctx, m.Name, join.TokenHash(), pki.TokenTTL)
	if err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.TokenMade)
	p := o.printer()
	if p.JSON() {
		return p.Value(tokenResult{Machine: m.Name, Join: join.String(), Expires: expires})
	}
	p.Printf("%s\n", join)
	_, _ = fmt.Fprintf(o.Stderr, "Good once, for %s, until %s. On that machine, on standard input of:\n  fleet-agent enrol -\nCommit joins/.\n",
		m.Name, expires.UTC().Format("15:04:05 UTC"))
	return nil
}

// newJoin makes a join string for a machine.
func (s *session) newJoin(o *options, m fleet.MachineName) (pki.Join, error) {
	_, pin, err := s.Trust()
	if err != nil {
		return pki.Join{}, err
	}
	return pki.NewJoin(pki.Join{
		Fleet: s.fleet.ID(), Machine: m, Addresses: []string{o.address(s.workspace)},
		CA: fleet.DigestOf(s.cas.Serving().Raw), Root: pin, Issued: o.Now().UTC().Truncate(time.Second),
	})
}
