package fleetctl

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/identity"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

type operatorRemoveOptions struct {
	Reason string
}

func newOperatorRemoveCommand(o *options) *cobra.Command {
	opts := &operatorRemoveOptions{}
	cmd := &cobra.Command{
		Use:   "remove NAME --reason TEXT",
		Short: "Remove an operator, at once",
		Long: `Remove operator NAME: open connections end at once, and certificates in that name
count no longer. It is recorded in trust/operators/NAME.json, so that a
coordinator that lost its store knows it from the kit ("fleetctl kit"), or from
the next "fleetctl publish" of an admin. Who removes somebody stays admin, so
that the last admin is never removed.

Keys of the trust root that they hold are another matter: fleetctl trust rotate.

JSON: {name, removed, reason, connections_cut}`,
		Example:           "  fleetctl operator remove ada --reason 'left the company'",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeOperators,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runOperatorRemove(cmd.Context(), o, opts, args[0])
		},
	}
	cmd.Flags().StringVar(&opts.Reason, "reason", "", "`why`, for people (required)")
	_ = cmd.MarkFlagRequired("reason") // Fails only for a flag that isn't there.
	return cmd
}

// completeOperators offers operators to the shell.
func (o *options) completeOperators(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	w, err := o.open()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, r := range w.operators {
		if !r.Removed {
			names = append(names, string(r.Name))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// operatorRemoveResult is the JSON form of operator remove.
type operatorRemoveResult struct {
	Name           fleet.OperatorName `json:"name"`
	Removed        bool               `json:"removed"`
	Reason         string             `json:"reason"`
	ConnectionsCut int                `json:"connections_cut"`
}

func runOperatorRemove(ctx context.Context, o *options, opts *operatorRemoveOptions, arg string) error {
	name, err := fleet.ParseOperatorName(arg)
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
	if s.operator == string(name) {
		return ui.WithHint(errors.New("nobody removes themselves: the last admin could be the one"), "have another admin do it")
	}
	unlock, err := s.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	before, err := s.Operator(name)
	if err != nil {
		return err
	}
	// The record comes first: a removal must not depend on the coordinator.
	rec := &repo.OperatorRecord{Name: name, Role: fleet.RoleViewer}
	for _, r := range s.operators {
		if r.Name == name {
			rec = &r
		}
	}
	rec.Removed, rec.Reason, rec.Changed, rec.By, rec.Certificate = true, reason, o.Now().UTC(), "operator/"+s.operator, ""
	if err := s.WriteOperator(rec); err != nil {
		return err
	}
	got, cut, err := s.RemoveOperator(ctx, name, reason)
	switch {
	case errors.Is(err, client.ErrUnreachable):
		return ui.WithHint(fmt.Errorf("it is recorded in trust/operators/%s.json, but not in force: %w", name, err),
			"run this again when the coordinator is back, or give it a new kit (fleetctl kit)")
	case err != nil && answered(err):
		// It was refused, and so must not come into force by the record.
		return errors.Join(err, restoreOperator(s.workspace, name, before))
	case err != nil:
		return ui.WithHint(fmt.Errorf("it is recorded in trust/operators/%s.json; whether it is in force is not known: %w", name, err),
			"run this again; fleetctl operator list tells")
	}
	done, err := o.recordOf(got, name, s.operator)
	if err != nil {
		return err
	}
	if err := s.WriteOperator(done); err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(operatorRemoveResult{Name: name, Removed: true, Reason: reason, ConnectionsCut: cut})
	}
	p.Printf("%s is no operator any longer; %s cut. Commit trust/operators/%s.json.\n"+
		"Make a new kit too (fleetctl kit): a coordinator that lost its store starts from it.\n", name, plural(cut, "connection"), name)
	return nil
}

func restoreOperator(w *workspace, name fleet.OperatorName, before *repo.OperatorRecord) error {
	if before == nil {
		return w.ForgetOperator(name)
	}
	return w.WriteOperator(before)
}

func newOperatorRenewCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "renew",
		Short: "Renew your own certificate",
		Long: `Have your next certificate issued, over the same key. Every command does that when
half of its life is over, so that this is seldom needed. One that has ended is
renewed by an admin: "fleetctl operator request", then "fleetctl operator add".`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runOperatorRenew(cmd.Context(), o) },
	}
}

func runOperatorRenew(ctx context.Context, o *options) error {
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	// Connecting has renewed it where that was due.
	if o.renewalDue(s) {
		if err := o.renew(ctx, s); err != nil {
			return err
		}
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(struct {
			Name    string    `json:"name"`
			Expires time.Time `json:"expires"`
		}{s.operator, s.cert.Leaf.NotAfter.UTC()})
	}
	p.Printf("The certificate of %s is good until %s.\n", s.operator, s.cert.Leaf.NotAfter.UTC().Format(time.DateOnly))
	return nil
}

// renewalDue says whether half of the certificate's life is over, or its CA was
// replaced.
func (o *options) renewalDue(s *session) bool {
	leaf := s.cert.Leaf
	if s.cas.Before != nil && leaf.CheckSignatureFrom(s.cas.Now) != nil {
		return true
	}
	return leaf.NotAfter.Sub(o.Now()) < leaf.NotAfter.Sub(leaf.NotBefore)/2
}

// renewTimeout bounds a renewal on the way to something else.
const renewTimeout = 5 * time.Second

// renewIfDue renews the certificate on the way to something else. Where that
// fails there is time for it later; it is told when that runs out.
func (o *options) renewIfDue(s *session) {
	if !o.renewalDue(s) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), renewTimeout)
	defer cancel()
	if err := o.renew(ctx, s); err != nil && s.cert.Leaf.NotAfter.Sub(o.Now()) < 30*24*time.Hour {
		_, _ = fmt.Fprintf(o.Stderr, "warning: your operator certificate ends on %s: %v\n", s.cert.Leaf.NotAfter.UTC().Format(time.DateOnly), err)
	}
}

func (o *options) renew(ctx context.Context, s *session) error {
	key, ok := s.cert.PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("renewing the certificate: its key cannot sign")
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		return err
	}
	leaf, err := s.RenewOperator(ctx, csr)
	if err != nil {
		return err
	}
	_, pub, err := identity.ParseRequest(identity.EncodeRequest(csr))
	if err != nil {
		return err
	}
	if err := checkIssued(s.workspace, &request{name: fleet.OperatorName(s.operator), pub: pub}, leaf); err != nil {
		return err
	}
	s.cert.Leaf, s.cert.Certificate = leaf, [][]byte{leaf.Raw}
	return identity.SaveCert(o.identityDir(s.fleet.ID()), leaf.Raw)
}
