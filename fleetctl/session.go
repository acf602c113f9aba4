package fleetctl

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/identity"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// workspace is a fleet's repository with its fleet file.
type workspace struct {
	*repo.Repository
	fleet *inventory.Fleet
	// banned are the bans that the repository has.
	banned map[fleet.MachineName]repo.Ban
	// operators are those who are recorded, and those whom the fleet file lists.
	operators []repo.OperatorRecord
}

// open finds and reads the repository.
func (o *options) open() (*workspace, error) {
	r, err := repo.Open(o.Dir)
	if err != nil {
		return nil, err
	}
	f, err := inventory.Load(r.Path(repo.FleetFile))
	if err != nil {
		return nil, err
	}
	bans, err := r.Bans()
	if err != nil {
		return nil, err
	}
	operators, err := r.AllOperators(f.Operators())
	if err != nil {
		return nil, err
	}
	w := &workspace{Repository: r, fleet: f, banned: map[fleet.MachineName]repo.Ban{}, operators: operators}
	for _, b := range bans {
		w.banned[b.Machine] = b
	}
	return w, nil
}

// machine checks that the inventory has a machine.
func (w *workspace) machine(name string) (inventory.Machine, error) {
	m, err := fleet.ParseMachineName(name)
	if err != nil {
		return inventory.Machine{}, usageError{err}
	}
	return w.fleet.Machine(m)
}

// keys loads the operator's age identities.
func (o *options) keys() (*keyring.Keyring, error) {
	k, err := keyring.Load(keyring.Places{
		Explicit: o.Identity, Getenv: o.Getenv,
		Notify: func(text string) { _, _ = fmt.Fprintln(o.Stderr, text) },
	})
	if err != nil {
		return nil, err
	}
	if o.Key != "" && !strings.HasPrefix(o.Key, keyring.AgentPrefix) {
		if _, err := os.Stat(o.Key); err != nil {
			return nil, usageError{ui.WithHint(fmt.Errorf("--key: %w", err), "name a file of trust/keys, or "+keyring.AgentPrefix+"FINGERPRINT as ssh-add -l prints it")}
		}
	}
	k.Only(o.Key)
	return k, nil
}

// session is a workspace with a connection to its coordinator.
type session struct {
	*workspace
	*client.Client
	keys     *keyring.Keyring
	operator string
	cert     tls.Certificate
	cas      repo.Authorities
}

// connect opens the repository and the operator's identity and prepares the
// connection. The caller closes the client.
func (o *options) connect() (*session, error) {
	w, err := o.open()
	if err != nil {
		return nil, err
	}
	return o.connectFrom(w)
}

// connectFrom is connect with a repository that is open.
func (o *options) connectFrom(w *workspace) (*session, error) {
	keys, err := o.keys()
	if err != nil {
		return nil, err
	}
	cas, err := w.Authorities()
	if err != nil {
		return nil, err
	}
	dir := o.identityDir(w.fleet.ID())
	if err := identity.Adopt(dir, w.operators); err != nil {
		return nil, err
	}
	cert, id, err := identity.Load(dir, w.fleet.ID(), keys, o.Now())
	if err != nil {
		return nil, err
	}
	address := o.address(w)
	if address == "" {
		return nil, ui.WithHint(errors.New("the coordinator's address is not known"), "set coordinator.address in fleet.yaml, or use --coordinator")
	}
	c, err := client.New(client.Config{
		Address: address, Fleet: w.fleet.ID(), CAs: cas.All(), Identity: cert, Now: o.Now, CallTimeout: o.CallTimeout,
	})
	if err != nil {
		return nil, err
	}
	s := &session{workspace: w, Client: c, keys: keys, operator: id.Name, cert: cert, cas: cas}
	o.renewIfDue(s)
	return s, nil
}

func (o *options) address(w *workspace) string {
	if o.Address != "" {
		return o.Address
	}
	return w.fleet.Coordinator().Address
}

// identityDir is where this user's identity for a fleet is kept.
func (o *options) identityDir(f fleet.FleetID) string {
	return identity.Dir(keyring.ConfigDir(o.Getenv), f)
}
