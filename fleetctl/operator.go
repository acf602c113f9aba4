package fleetctl

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/identity"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const operatorHelp = `Operators are people and programs that may call the coordinator. Roles:
  viewer         sees everything
  deployer       viewer; publishes, proposes, rolls back, hands over what is signed
  approver       what a viewer may: nothing asks for an approval yet
  secrets-admin  what a viewer may: new secrets are a publish, which a deployer does
  admin          all of it; makes tokens, bans machines, says who is an operator

A private key never moves. The newcomer, with a checkout of the fleet's
repository, makes a key and sends what this prints to an admin:

  fleetctl operator request >request

The admin has the certificate issued, and commits trust/operators:

  fleetctl operator add ada --role deployer --request request

After a pull the newcomer's fleetctl finds the certificate there. It renews itself.`

func newOperatorCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "operator",
		Short: "Show and change who may act on the fleet",
		Long:  operatorHelp,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newOperatorListCommand(o), newOperatorRequestCommand(o), newOperatorAddCommand(o), newOperatorRemoveCommand(o), newOperatorRenewCommand(o))
	return cmd
}

func newOperatorRequestCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "request",
		Short: "Make your key, and print the request for a certificate",
		Long: `Make the key of your operator identity, encrypted to your age identity (which is
made where you have none), and print the request for its certificate: public text
for an admin. Run again, it prints the same.

With --key ssh-agent:FINGERPRINT a plain ed25519 key in your ssh-agent is used
instead; no file has a private key then.`,
		Example: "  fleetctl operator request | ssh admin.example tee ada.request",
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return runOperatorRequest(o) },
	}
}

// operatorRequestResult is the JSON form of operator request.
type operatorRequestResult struct {
	Request string `json:"request"`
	// Key is the fingerprint by which an admin can check it.
	Key string `json:"key"`
}

func runOperatorRequest(o *options) error {
	w, err := o.open()
	if err != nil {
		return err
	}
	keys, _, err := ownIdentity(o)
	if err != nil {
		return err
	}
	recipients, err := keyring.ParseRecipients(keys.Recipients())
	if err != nil {
		return err
	}
	if len(recipients) == 0 && o.Key == "" {
		return ui.WithHint(errors.New("your age identity does not tell its recipient"), "use a native age identity (--identity), or a key in your ssh-agent (--key)")
	}
	text, err := identity.Request(o.identityDir(w.fleet.ID()), keys, o.Key, recipients...)
	if err != nil {
		return err
	}
	_, pub, err := identity.ParseRequest(text)
	if err != nil {
		return err
	}
	fingerprint, err := pki.KeyFingerprint(pub)
	if err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(operatorRequestResult{Request: string(text), Key: fingerprint})
	}
	p.Printf("%s", text)
	_, _ = fmt.Fprintf(o.Stderr, "Send this to an admin; it is no secret. The key's fingerprint is %.12s.\n"+
		"They run: fleetctl operator add NAME --role ROLE --request FILE\n", fingerprint)
	return nil
}

type operatorAddOptions struct {
	Role, Request string
	Offline       bool
}

func newOperatorAddCommand(o *options) *cobra.Command {
	opts := &operatorAddOptions{}
	cmd := &cobra.Command{
		Use:   "add NAME --role ROLE [--request FILE|-]",
		Short: "Add an operator, or change their role or key",
		Long: `Have the certificate of operator NAME issued over the key of their request, and
record both in trust/operators/NAME.json. It counts at once. The certificates of
an earlier key count no longer, and its connections are cut. Without --request
the role of one who is there changes.

--offline issues it with the CA's key of the repository: it counts once an admin
publishes, or once the coordinator has a new kit.

JSON: {name, role, key, expires, offline}`,
		Example: `  fleetctl operator add ada --role deployer --request ada.request
  fleetctl operator add ada --role admin`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runOperatorAdd(cmd.Context(), o, opts, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Role, "role", "", "`role`: viewer, deployer, approver, secrets-admin or admin (required)")
	f.StringVar(&opts.Request, "request", "", "`file` with what operator request printed; - for standard input")
	f.BoolVar(&opts.Offline, "offline", false, "issue it with the repository's CA, without the coordinator")
	_ = cmd.MarkFlagRequired("role") // Fails only for a flag that isn't there.
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roleNames(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func roleNames() []string {
	var out []string
	for _, r := range []fleet.Role{fleet.RoleViewer, fleet.RoleDeployer, fleet.RoleApprover, fleet.RoleSecretsAdmin, fleet.RoleAdmin} {
		out = append(out, string(r))
	}
	return out
}

// operatorAddResult is the JSON form of operator add.
type operatorAddResult struct {
	Name    fleet.OperatorName `json:"name"`
	Role    fleet.Role         `json:"role"`
	Key     string             `json:"key"`
	Expires *time.Time         `json:"expires"`
	Offline bool               `json:"offline"`
}

// request is what operator add was given.
type request struct {
	name fleet.OperatorName
	role fleet.Role
	csr  []byte // empty for none
	pub  ed25519.PublicKey
}

func (opts *operatorAddOptions) parse(o *options, name string) (*request, error) {
	r := &request{}
	var err error
	if r.name, err = fleet.ParseOperatorName(name); err != nil {
		return nil, usageError{err}
	}
	if r.role, err = fleet.ParseRole(opts.Role); err != nil {
		return nil, usageError{err}
	}
	var text []byte
	switch opts.Request {
	case "":
		return r, nil
	case "-":
		text, err = io.ReadAll(io.LimitReader(o.Stdin, maxSmall))
	default:
		text, err = readSmall(opts.Request)
	}
	if err != nil {
		return nil, err
	}
	r.csr, r.pub, err = identity.ParseRequest(text)
	return r, err
}

func runOperatorAdd(ctx context.Context, o *options, opts *operatorAddOptions, name string) error {
	r, err := opts.parse(o, name)
	if err != nil {
		return err
	}
	w, err := o.open()
	if err != nil {
		return err
	}
	unlock, err := w.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	old, err := w.Operator(r.name)
	if err != nil {
		return err
	}
	add := o.addOnline
	if opts.Offline {
		add = o.addOffline
	}
	rec, leaf, err := add(ctx, w, r, old)
	if err != nil {
		return err
	}
	if leaf != nil {
		if err := checkIssued(w, r, leaf); err != nil {
			return err
		}
		rec.Certificate = string(repo.EncodeCert(leaf.Raw))
	} else if old != nil {
		rec.Certificate = old.Certificate
	}
	if err := w.WriteOperator(rec); err != nil {
		return err
	}
	res := operatorAddResult{Name: rec.Name, Role: rec.Role, Key: rec.Key, Offline: opts.Offline}
	if leaf := rec.Leaf(); leaf != nil {
		res.Expires = timeOrNil(leaf.NotAfter)
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(res)
	}
	p.Printf("%s is %s, with key %.12s. Commit trust/operators/%s.json: after a pull their fleetctl finds the certificate.\n", rec.Name, rec.Role, rec.Key, rec.Name)
	if opts.Offline {
		p.Printf("It counts once an admin publishes, or once the coordinator has a new kit (fleetctl kit).\n")
	}
	return nil
}

// clockSlack is how far the coordinator's clock may be from this one for its
// records to be taken: a far future would outlast every later change.
const clockSlack = time.Hour

func (o *options) addOnline(ctx context.Context, _ *workspace, r *request, _ *repo.OperatorRecord) (*repo.OperatorRecord, *x509.Certificate, error) {
	s, err := o.connect()
	if err != nil {
		return nil, nil, err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	got, leaf, err := s.AddOperator(ctx, r.name, r.role, r.csr)
	if err != nil {
		return nil, nil, err
	}
	rec, err := o.recordOf(got, r.name, s.operator)
	if err != nil {
		return nil, nil, err
	}
	if rec.Role != r.role || rec.Removed || r.pub != nil && rec.Key != fingerprintOf(r.pub) {
		return nil, nil, ui.WithHint(fmt.Errorf("%w: the coordinator recorded something else than was asked for", client.ErrRefused),
			"find out what has become of the coordinator, and do not trust it meanwhile")
	}
	return rec, leaf, nil
}

// recordOf is what the coordinator recorded, where it can be.
func (o *options) recordOf(got client.Operator, name fleet.OperatorName, by string) (*repo.OperatorRecord, error) {
	if off := got.Changed.Sub(o.Now()); got.Name != name || off > clockSlack || off < -10*365*24*time.Hour {
		return nil, ui.WithHint(fmt.Errorf("%w: the coordinator's record of %s is of %s, and of operator %q", client.ErrRefused, name, got.Changed.UTC().Format(time.RFC3339), got.Name),
			"check the clocks of both sides")
	}
	return &repo.OperatorRecord{
		Name: got.Name, Role: got.Role, Key: got.Key, Changed: got.Changed.UTC(), By: "operator/" + by, Removed: got.Removed, Reason: got.Reason,
	}, nil
}

func (o *options) addOffline(_ context.Context, w *workspace, r *request, old *repo.OperatorRecord) (*repo.OperatorRecord, *x509.Certificate, error) {
	rec := &repo.OperatorRecord{Name: r.name, Role: r.role, Changed: o.Now().UTC(), By: "operator/" + o.whoAmI(w)}
	if r.csr == nil {
		if old == nil || old.Removed {
			return nil, nil, ui.WithHint(fmt.Errorf("operator %s has no certificate yet", r.name), "name their request: --request FILE")
		}
		rec.Key = old.Key
		return rec, nil, nil
	}
	keys, err := o.keys()
	if err != nil {
		return nil, nil, err
	}
	ca, err := w.FullCA(keys)
	if err != nil {
		return nil, nil, err
	}
	der, err := ca.Issue(pki.OperatorIdentity(w.fleet.ID(), r.name), r.pub, o.Now(), pki.OperatorTTL)
	if err != nil {
		return nil, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	rec.Key = fingerprintOf(r.pub)
	return rec, leaf, nil
}

// checkIssued says whether a certificate is the one that was asked for.
func checkIssued(w *workspace, r *request, leaf *x509.Certificate) error {
	cas, err := w.Authorities()
	if err != nil {
		return err
	}
	id, err := pki.IdentityOf(leaf)
	pub, ok := leaf.PublicKey.(ed25519.PublicKey)
	if err == nil && (id != pki.OperatorIdentity(w.fleet.ID(), r.name) || !ok || !pub.Equal(r.pub)) {
		err = fmt.Errorf("it is of %s", id)
	}
	if err == nil && !slices.ContainsFunc(cas.All(), func(ca *x509.Certificate) bool { return leaf.CheckSignatureFrom(ca) == nil }) {
		err = errors.New("it is of none of the fleet's CAs")
	}
	if err != nil {
		return ui.WithHint(fmt.Errorf("%w: the certificate is not the one that was asked for: %w", client.ErrRefused, err),
			"find out what has become of the coordinator; --offline does without it")
	}
	return nil
}

func fingerprintOf(pub ed25519.PublicKey) string {
	f, err := pki.KeyFingerprint(pub)
	if err != nil {
		return "" // Not for ed25519.
	}
	return f
}
