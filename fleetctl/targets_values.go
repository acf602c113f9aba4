package fleetctl

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/cameronraysmith/fleet/fleetctl/internal/generate"
	"github.com/cameronraysmith/fleet/fleetctl/internal/publisher"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// errNotDeployable is a value that no machine may be sent.
var errNotDeployable = errors.New("values that can't be deployed")

// deployedValues are the values that machines get by being published to.
type deployedValues struct {
	*values

	// tree is nil where the fleet file declares no generator.
	tree *vars.Tree
	// looked has what was found of each generator: machines may share it.
	looked map[*generate.Generator]deployable
}

// deployable is what a generator deploys, or what is wrong with it.
type deployable struct {
	secrets []publisher.Secret
	wrong   []string
	readers bool // Some of it is about who reads.
}

// deployed reads the trees of values, where the fleet file declares any. Those that a
// flake declares the system closures bring, as clan has it.
func (w *workspace) deployed() (*deployedValues, error) {
	v, err := w.values(nil)
	if err != nil {
		return nil, err
	}
	d := &deployedValues{values: v, looked: map[*generate.Generator]deployable{}}
	if len(v.set.All()) > 0 {
		d.tree, err = v.tree()
	}
	return d, err
}

// of returns the secrets that generators deploy to a machine, as the tree has them:
// encrypted, for just those who are meant to read them. What is missing, of another
// declaration, or can be read by others is an error that names all of it, because whoever
// can write the tree would otherwise choose who reads what is published.
func (d *deployedValues) of(m fleet.MachineName) (secrets []publisher.Secret, err error) {
	var wrong []string
	readers := false
	for _, g := range d.set.Of(string(m)) {
		found, ok := d.looked[g]
		if !ok {
			if found, err = d.lookAt(g); err != nil {
				return nil, err
			}
			d.looked[g] = found
		}
		secrets = append(secrets, found.secrets...)
		wrong = append(wrong, found.wrong...)
		readers = readers || found.readers
	}
	if len(wrong) == 0 {
		return secrets, nil
	}
	hint := "fleetctl vars generate makes what is missing or stale"
	if readers {
		hint = "find out who changed it; fleetctl vars fix encrypts to just those who are meant"
	}
	return nil, ui.WithHint(fmt.Errorf("%s has %w:\n%s", m, errNotDeployable, strings.Join(wrong, "\n")), hint)
}

// lookAt checks the values of a generator, and returns those that it deploys where nothing
// is wrong with any.
func (d *deployedValues) lookAt(g *generate.Generator) (found deployable, err error) {
	for _, f := range d.set.Check(d.tree, []*generate.Generator{g}) {
		if file, ok := g.File(f.File); ok && f.Kind == generate.Missing && !deploys(file) {
			continue // People's business: the machine gets none of it.
		}
		found.wrong = append(found.wrong, strings.TrimSuffix(g.ID(f.File).Path(), "/")+": "+f.Err.Error())
		found.readers = found.readers || f.Kind == generate.Readers
	}
	if len(found.wrong) > 0 {
		return found, nil
	}
	for _, f := range g.Files {
		if !deploys(f) {
			continue
		}
		s, err := d.secret(g, f)
		if err != nil {
			return found, err
		}
		found.secrets = append(found.secrets, s)
	}
	return found, nil
}

// deploys says whether machines get a file as a secret. What is needed while a disk is
// partitioned is an installer's.
func deploys(f generator.File) bool {
	return f.Secret && f.Deploy && f.NeededFor != generator.ForPartitioning
}

// alsoAt are the other paths at which configurations look for a value: clan's before its
// vars had placements, those of its other backends, and those of its first layouts.
func alsoAt(id vars.ID, styles []inventory.HostPath) (paths []string) {
	for _, s := range styles {
		switch s {
		case inventory.HostPathShort:
			paths = append(paths, path.Join("vars", id.Generator, id.File))
		case inventory.HostPathPlain:
			paths = append(paths, id.String())
		case inventory.HostPathDotted:
			paths = append(paths, id.Generator+"."+id.File)
		}
	}
	return paths
}

func (d *deployedValues) secret(g *generate.Generator, f generator.File) (publisher.Secret, error) {
	id := g.ID(f.Name)
	doc, err := d.tree.Document(id.Path())
	if err != nil {
		return publisher.Secret{}, fmt.Errorf("reading %s: %w", id.Path(), err)
	}
	name, err := fleet.ParseSecretName(g.Name + "." + f.Name)
	if err != nil {
		return publisher.Secret{}, fmt.Errorf("%s: %w", id.Path(), err)
	}
	s := publisher.Secret{
		Name: name, Document: doc,
		// As clan has it below /run/secrets: vars/per-machine/MACHINE/GENERATOR/FILE.
		Path: "vars/" + id.String(), Also: alsoAt(id, d.fleet.Vars().HostPaths),
		Owner: f.Owner, Group: f.Group, Mode: uint32(f.Mode.Perm()), RestartUnits: f.RestartUnits,
	}
	if s.Owner == "root" {
		s.Owner = "" // The agent's own: root's where there is a root.
	}
	switch f.NeededFor {
	case generator.ForUsers:
		// Root's, whatever was declared: nobody else is there yet.
		s.NeededFor, s.Owner, s.Group = fleet.NeededForUsers, "", ""
	case generator.ForActivation:
		// As clan has it below /var/lib/sops-nix/activation; root's alone, as there.
		s.NeededFor, s.Owner, s.Group, s.Mode = fleet.NeededForActivation, "", "", 0o400
		s.Path, s.Also = id.String(), nil
	case generator.ForServices, generator.ForPartitioning:
	}
	return s, nil
}
