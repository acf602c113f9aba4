package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func newSecretsStatusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status NAME",
		Short: "Show which hosts run which version of a published secret",
		Long: `Show which version of the published secret NAME each host has: the version that the
signed manifest of its current generation names, and that of the one which it confirmed
last, to which it would go back. Exit with 1 while a host has an older one than its newest,
or it is not known which: only then revoke the old one at its provider.

Which generation a host is at is what the coordinator says. Hosts' signed reports are
compared with releases/ as status does. A rollback brings an older version back, unless
fleetctl secrets revoke NAME was published since.

NAME is that of settings, or GENERATOR/FILE of what generators of fleet.yaml deploy. Those
of a flake are no part of a manifest: hosts have the ones of the system that they run.

JSON: {"name", "done", "hosts": [{machine, profile, newest, current, confirmed, done,
last_seen, connected}]}; a version is a number, "none" or "unknown"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSecretsStatus(cmd.Context(), o, args[0])
		},
	}
}

// hostSecret is which version of a secret a host has, in JSON.
type hostSecret struct {
	Machine   string     `json:"machine"`
	Profile   string     `json:"profile"`
	Newest    string     `json:"newest"`
	Current   string     `json:"current"`
	Confirmed string     `json:"confirmed"`
	Done      bool       `json:"done"`
	LastSeen  *time.Time `json:"last_seen"`
	Connected bool       `json:"connected"`
}

// secretStatus is the JSON form of secrets status.
type secretStatus struct {
	Name  string       `json:"name"`
	Done  bool         `json:"done"`
	Hosts []hostSecret `json:"hosts"`
}

// What is said instead of a version.
const (
	versionNone    = "none"
	versionUnknown = "unknown"
)

// secretHistory is what this repository knows of a secret's versions.
type secretHistory struct {
	// byDigest are the versions, by the digests of generations.
	byDigest map[string]string
	// newest are those of the newest generation that has any, by machine and profile.
	newest map[[2]string]string
}

// history reads the versions of a secret in all releases.
func (w *workspace) history(name fleet.SecretName) (*secretHistory, error) {
	generations, err := w.visible()
	if err != nil {
		return nil, err
	}
	h := &secretHistory{map[string]string{}, map[[2]string]string{}}
	for _, g := range generations {
		at := [2]string{string(g.Machine), string(g.Profile)}
		version := versionNone
		for _, e := range g.secrets {
			if e.Name == name {
				version = strconv.FormatUint(e.Version, 10)
			}
		}
		h.byDigest[string(g.Digest)] = version
		if _, ever := h.newest[at]; ever || version != versionNone {
			h.newest[at] = version
		}
	}
	return h, nil
}

// of is the version in a generation.
func (h *secretHistory) of(r client.Ref) string {
	if r.Digest == "" {
		return versionNone // The host has none yet.
	}
	if v, ok := h.byDigest[r.Digest]; ok {
		return v
	}
	return versionUnknown
}

func runSecretsStatus(ctx context.Context, o *options, text string) error {
	// Manifests call GENERATOR/FILE so.
	name, err := fleet.ParseSecretName(strings.Replace(text, "/", ".", 1))
	if err != nil {
		return usageError{err}
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	h, err := s.history(name)
	if err != nil {
		return err
	}
	if len(h.newest) == 0 {
		return ui.WithHint(fmt.Errorf("no release of this repository has a secret %s", name), "fleetctl secrets list has the names; git pull where somebody else published")
	}
	wire, err := newTripwire(s.workspace)
	if err != nil {
		return err
	}
	hosts, err := s.HostsReported(ctx, "", wire.check)
	if err != nil {
		return err
	}
	result := secretStatus{Name: text, Done: true, Hosts: []hostSecret{}}
	for _, m := range combine(s.fleet.Machines(), hosts) {
		for _, q := range m.Profiles {
			newest, ok := h.newest[[2]string{m.Machine, q.Profile}]
			if !ok {
				continue
			}
			host := hostSecret{
				Machine: m.Machine, Profile: q.Profile, Newest: newest, Current: h.of(q.Current), Confirmed: h.of(q.Confirmed),
				LastSeen: m.LastSeen, Connected: m.Connected,
			}
			host.Done = host.Current == newest && host.Confirmed == newest
			result.Done = result.Done && host.Done
			result.Hosts = append(result.Hosts, host)
			delete(h.newest, [2]string{m.Machine, q.Profile})
		}
	}
	for at, newest := range h.newest {
		// A machine of a release of which the coordinator says nothing.
		result.Done = false
		result.Hosts = append(result.Hosts, hostSecret{Machine: at[0], Profile: at[1], Newest: newest, Current: versionUnknown, Confirmed: versionUnknown})
	}
	return errors.Join(result.show(o), wire.verdict())
}

var errOlder = errors.New("not every host has the newest version, and no other")

// show prints it, and returns errOlder where it is too early to revoke.
func (r *secretStatus) show(o *options) error {
	p := o.printer()
	if p.JSON() {
		if err := p.Value(r); err != nil {
			return err
		}
	} else {
		var rows [][]string
		for _, h := range r.Hosts {
			seen := "never"
			switch {
			case h.Connected:
				seen = "connected"
			case h.LastSeen != nil:
				seen = ui.Ago(o.Now(), *h.LastSeen)
			}
			rows = append(rows, []string{h.Machine, h.Profile, h.Newest, h.Current, h.Confirmed, seen})
		}
		p.Table([]string{"MACHINE", "PROFILE", "NEWEST", "CURRENT", "CONFIRMED", "SEEN"}, rows)
	}
	if !r.Done {
		return ui.WithHint(errOlder, "wait for the others, or take them out of the fleet, before the old one is revoked at its provider")
	}
	if !p.JSON() {
		p.Printf("Every host has the newest version: older ones can be revoked at their provider.\n")
	}
	return nil
}
