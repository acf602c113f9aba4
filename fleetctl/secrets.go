package fleetctl

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

//nolint:gosec // Text, and no password.
const secretsHelp = `Show who reads which secret, and which hosts still run which version of one; take a
reader away, with everything that it knows.

Values are in vars/ and sops/ of the repository: fleetctl vars makes them. Published ones
are what the manifests of machines name, those of settings in fleet.yaml and those that its
generators deploy; versions are counted for each machine.`

func newSecretsCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secrets",
		Short: "Show who reads secrets and which hosts run which, and revoke",
		Long:  secretsHelp,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSecretsListCommand(o), newSecretsStatusCommand(o), newSecretsRevokeCommand(o),
		newSecretsReadersCommand(o, vars.Users), newSecretsReadersCommand(o, vars.Machines), newSecretsGroupsCommand(o))
	explainIn(cmd)
	return cmd
}

func newSecretsListCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List secrets with who reads them and when they changed last",
		Long: `List all secrets: values with the users and machines that their links come to and the
time of their last change, published ones with the machines that they are for and the
generation in which each machine's changed last. No private key and no coordinator is
needed; the times are those that the documents say.

JSON: {"values": [{path, readers, changed}], "published": [{name, machine, profile,
version, digest, release, number, changed, recipients}]}`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runSecretsList(o) },
	}
}

// secretValue is a secret of the trees, in JSON.
type secretValue struct {
	Path    string     `json:"path"`
	Readers []string   `json:"readers"`
	Changed *time.Time `json:"changed"`
}

// publishedSecret is what a machine's newest manifest says of a secret, in JSON.
type publishedSecret struct {
	Name    fleet.SecretName  `json:"name"`
	Machine fleet.MachineName `json:"machine"`
	Profile fleet.ProfileName `json:"profile"`
	Version uint64            `json:"version"`
	Digest  fleet.Digest      `json:"digest"`
	// Release and Number are those of the first generation with this version.
	Release fleet.ReleaseID `json:"release"`
	Number  string          `json:"number"`
	Changed time.Time       `json:"changed"`
	// Recipients are public keys.
	Recipients []string `json:"recipients"`

	units []string
}

// secretsList is the JSON form of secrets list.
type secretsList struct {
	Values    []secretValue     `json:"values"`
	Published []publishedSecret `json:"published"`
}

func runSecretsList(o *options) error {
	v, err := o.declaredHere()
	if err != nil {
		return err
	}
	t, err := v.tree()
	if err != nil {
		return err
	}
	list := secretsList{Values: []secretValue{}}
	for _, e := range t.Entries() {
		if !e.Secret {
			continue
		}
		view, err := valueOfTree(t, e)
		if err != nil {
			return err
		}
		list.Values = append(list.Values, view)
	}
	if list.Published, err = v.published(); err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(list)
	}
	var rows [][]string
	for _, s := range list.Values {
		changed := "-"
		if s.Changed != nil {
			changed = s.Changed.Format(time.DateOnly)
		}
		rows = append(rows, []string{s.Path, strings.Join(s.Readers, ", "), changed})
	}
	for _, s := range list.Published {
		of := string(s.Machine)
		if s.Profile != fleet.System {
			of += " " + string(s.Profile)
		}
		rows = append(rows, []string{
			string(s.Name), "machine " + of,
			fmt.Sprintf("%s, version %d in generation %s (release %s)", s.Changed.Format(time.DateOnly), s.Version, s.Number, s.Release),
		})
	}
	p.Table([]string{"SECRET", "READERS", "CHANGED"}, rows)
	return nil
}

func valueOfTree(t *vars.Tree, e vars.Entry) (secretValue, error) {
	view := secretValue{Path: e.Path, Readers: []string{}}
	readers, err := t.ReadersOf(e)
	if err != nil {
		return view, err //nolint:wrapcheck // It names the entry.
	}
	for _, r := range readers {
		view.Readers = append(view.Readers, r.String())
	}
	d, err := t.Document(e.Path)
	if err != nil {
		return view, err //nolint:wrapcheck // As above.
	}
	view.Changed = timeOrNil(d.Modified())
	return view, nil
}

// manifestOf reads what a generation that this repository published says of its secrets.
func manifestOf(g *repo.Published) ([]fleet.SecretEntry, error) {
	if len(g.Secrets) == 0 {
		return nil, nil
	}
	m, err := repo.Decode[fleet.SecretsManifest](g.Secrets)
	return m.Entries, err
}

// publishedOne is a generation of a release.
type publishedOne struct {
	*repo.Published

	release *repo.Release
	secrets []fleet.SecretEntry
}

// visible are the generations that hosts have, or may have, with their secrets, in the
// order of their numbers.
func (w *workspace) visible() (list []publishedOne, err error) {
	all, err := w.Releases()
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.State == repo.ReleaseStaged || r.State == repo.ReleaseAbandoned {
			continue
		}
		for i := range r.Generations {
			one := publishedOne{Published: &r.Generations[i], release: r}
			if one.secrets, err = manifestOf(one.Published); err != nil {
				return nil, fmt.Errorf("release %s: %w", r.ID, err)
			}
			list = append(list, one)
		}
	}
	slices.SortStableFunc(list, func(a, b publishedOne) int { return a.Number.Compare(b.Number) })
	return list, nil
}

// published are the secrets of each machine's newest generations, by name and machine.
func (w *workspace) published() ([]publishedSecret, error) {
	generations, err := w.visible()
	if err != nil {
		return nil, err
	}
	type profile struct {
		machine fleet.MachineName
		name    fleet.ProfileName
	}
	newest := map[profile]map[fleet.SecretName]publishedSecret{}
	for _, g := range generations {
		at := profile{g.Machine, g.Profile}
		now := map[fleet.SecretName]publishedSecret{}
		for _, e := range g.secrets {
			now[e.Name] = publishedSecret{
				Name: e.Name, Machine: g.Machine, Profile: g.Profile, Version: e.Version, Digest: e.Digest,
				Release: g.release.ID, Number: g.Number.String(), Changed: g.release.Created, Recipients: []string{},
			}
			if before, ok := newest[at][e.Name]; ok && before.Digest == e.Digest {
				now[e.Name] = before
			}
			s := now[e.Name]
			s.units = e.RestartUnits
			now[e.Name] = s
		}
		newest[at] = now
	}
	list := []publishedSecret{}
	for at, of := range newest {
		index, err := w.Secrets(at.machine)
		if err != nil {
			return nil, err
		}
		for name, s := range of {
			if meta, ok := index[name]; ok && meta.Digest == s.Digest {
				s.Recipients = meta.Recipients
			}
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b publishedSecret) int {
		return strings.Compare(fmt.Sprint(a.Name, " ", a.Machine, " ", a.Profile), fmt.Sprint(b.Name, " ", b.Machine, " ", b.Profile))
	})
	return list, nil
}
