package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func newRetryCommand(o *options) *cobra.Command {
	opts := &profileOptions{}
	cmd := &cobra.Command{
		Use:   "retry MACHINE",
		Short: "Let a machine try its newest generation again",
		Long: `Let MACHINE forget that its newest generation failed or was refused there, so
that it tries it again. Because the host then refuses less, this is a document
signed with the release key; it is good for an hour, and once.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeMachines(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return runRetry(cmd.Context(), o, opts, args[0]) },
	}
	opts.add(cmd)
	return cmd
}

// retryResult is the JSON form of retry.
type retryResult struct {
	Machine fleet.MachineName `json:"machine"`
	Profile fleet.ProfileName `json:"profile"`
	Number  string            `json:"number"`
	Digest  fleet.Digest      `json:"digest"`
	Expires time.Time         `json:"expires"`
}

func runRetry(ctx context.Context, o *options, opts *profileOptions, name string) error {
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
	if err := s.anythingRefused(ctx, m.Name, profile); err != nil {
		return err
	}
	rep := &reporter{progress: o.progress()}
	doc, number, err := s.publisher(o, rep).Retry(ctx, m.Name, profile)
	rep.progress.Done()
	if err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.RetryMade)
	p := o.printer()
	if p.JSON() {
		return p.Value(retryResult{Machine: m.Name, Profile: profile, Number: number.String(), Digest: doc.Digest, Expires: doc.Expires})
	}
	p.Printf("%s may try generation %s again, until %s.\n", m.Name, number, doc.Expires.UTC().Format("15:04:05 UTC"))
	return nil
}

// errNothingRefused is a retry of what did not fail.
var errNothingRefused = errors.New("nothing is refused there")

// anythingRefused is an error where the host reported no refusal: a loosening
// is not signed for nothing. What was never published is left to the publisher
// to say.
func (s *session) anythingRefused(ctx context.Context, m fleet.MachineName, profile fleet.ProfileName) error {
	hosts, err := s.Hosts(ctx, m)
	if err != nil && !errors.Is(err, client.ErrNotFound) {
		return err
	}
	for _, h := range hosts {
		for _, q := range h.Profiles {
			if h.Machine == string(m) && q.Name == string(profile) && q.Desired.Number != "" && len(q.Refused) == 0 {
				return ui.WithHint(fmt.Errorf("retrying %s: %w", m, errNothingRefused), "see \"fleetctl status "+string(m)+"\"")
			}
		}
	}
	return nil
}
