package fleetctl

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/bootstrap"
	"github.com/cameronraysmith/fleet/fleetctl/internal/identity"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
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
	ca, err := w.FullCA(keys)
	if err != nil {
		return err
	}
	sealed, err := bootstrap.Kit(w.Repository, w.fleet, ca, o.Now())
	if err != nil {
		return err
	}
	if err := w.Write(sealed, "trust", "coordinator-kit.age"); err != nil {
		return err
	}
	if opts.RenewOperator != "" {
		if err := renewOperator(o, w, ca, opts.RenewOperator); err != nil {
			return err
		}
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

// renewOperator makes a new certificate for an operator of the fleet file.
func renewOperator(o *options, w *workspace, ca *pki.CA, name string) error {
	operator, err := fleet.ParseOperatorName(name)
	if err != nil {
		return usageError{err}
	}
	known := false
	for _, op := range w.fleet.Operators() {
		known = known || op.Name == operator
	}
	if !known {
		return ui.WithHint(errors.New("fleet.yaml has no operator "+name), "add it below operators")
	}
	recipients, err := w.Recipients()
	if err != nil {
		return err
	}
	parsed, err := keyring.ParseRecipients(recipients)
	if err != nil {
		return err
	}
	return identity.Issue(o.identityDir(w.fleet.ID()), ca, pki.OperatorIdentity(w.fleet.ID(), operator), o.Now(), parsed...)
}
