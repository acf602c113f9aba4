package fleetctl

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/bootstrap"
	"github.com/cameronraysmith/fleet/fleetctl/internal/identity"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

type kitOptions struct {
	Print         bool
	RenewOperator string
}

func newKitCommand(o *options) *cobra.Command {
	opts := &kitOptions{}
	cmd := &cobra.Command{
		Use:   "kit",
		Short: "Make the coordinator's start-up kit anew",
		Long: `Make trust/coordinator-kit.age anew, with today's machines, operators, bans and
trust roots and a fresh coordinator certificate, and print its path. It is
sealed to the coordinator's age key (trust/coordinator.recipient) and to the
repository's recipients. The coordinator reads it when it starts; with it, one
that lost its store comes back and no machine has to enrol again.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runKit(o, opts) },
	}
	f := cmd.Flags()
	f.BoolVar(&opts.Print, "print", false, "print the sealed kit itself")
	f.StringVar(&opts.RenewOperator, "renew-operator", "", "also make a new certificate for yourself, the operator `name`")
	return cmd
}

// kitResult is the JSON form of kit.
type kitResult struct {
	Kit  string `json:"kit"`
	Path string `json:"path"`
}

func runKit(o *options, opts *kitOptions) error {
	w, err := o.open()
	if err != nil {
		return err
	}
	keys, err := o.keys()
	if err != nil {
		return err
	}
	cas, err := bootstrap.OpenCAs(w.Repository, keys)
	if err != nil {
		return err
	}
	// First, so that the kit knows of a new key.
	if opts.RenewOperator != "" {
		if err := renewOperator(o, w, keys, cas.Issuing, opts.RenewOperator); err != nil {
			return err
		}
	}
	sealed, err := bootstrap.Kit(w.Repository, w.fleet, cas, o.Now())
	if err != nil {
		return err
	}
	if err := w.Write(sealed, "trust", "coordinator-kit.age"); err != nil {
		return err
	}
	path := w.Path("trust", "coordinator-kit.age")
	p := o.printer()
	switch {
	case p.JSON():
		return p.Value(kitResult{Kit: string(sealed), Path: path})
	case opts.Print:
		p.Printf("%s", sealed)
	default:
		p.Printf("%s\n", path)
	}
	return nil
}

// renewOperator makes a new certificate for an operator of the fleet, over the
// key that is here where it can be used. Another key is recorded: it counts once
// the coordinator has the kit, or an admin's publish.
func renewOperator(o *options, w *workspace, keys *keyring.Keyring, ca *pki.CA, name string) error {
	operator, err := fleet.ParseOperatorName(name)
	if err != nil {
		return usageError{err}
	}
	i := slices.IndexFunc(w.operators, func(r repo.OperatorRecord) bool { return r.Name == operator && !r.Removed })
	if i < 0 {
		return ui.WithHint(fmt.Errorf("the fleet has no operator %s", name), "see trust/operators and operators in fleet.yaml for the names")
	}
	recipients, err := w.Recipients()
	if err != nil {
		return err
	}
	parsed, err := keyring.ParseRecipients(recipients)
	if err != nil {
		return err
	}
	leaf, err := identity.Renewed(o.identityDir(w.fleet.ID()), ca, pki.OperatorIdentity(w.fleet.ID(), operator), keys, o.Now(), parsed...)
	if err != nil {
		return err
	}
	rec := w.operators[i]
	if rec.Changed.IsZero() {
		return nil // Only listed in the fleet file: any key counts.
	}
	fingerprint, err := pki.KeyFingerprint(leaf.PublicKey)
	if err != nil {
		return err
	}
	if fingerprint != rec.Key {
		rec.Key, rec.Changed, rec.By = fingerprint, o.Now().UTC(), "operator/"+name
	}
	rec.Certificate = string(repo.EncodeCert(leaf.Raw))
	return w.WriteOperator(&rec)
}
