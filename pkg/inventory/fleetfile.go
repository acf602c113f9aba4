package inventory

import (
	"fmt"
	"maps"
	"path/filepath"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Parse reads a fleet file. The name is for errors, dir is where relative
// paths start, and read reads the inventory's file. See [Load].
func Parse(name string, data []byte, dir string, read func(path string) ([]byte, error)) (*Fleet, error) {
	n, err := readYAML(name, data)
	if err != nil {
		return nil, err
	}
	d := &fileDecoder{
		read: read, root: n,
		f: &Fleet{
			file: name, dir: dir, inventory: &Inventory{},
			machines:  map[fleet.MachineName]*Machine{},
			operators: map[fleet.OperatorName]Operator{},
		},
	}
	if err := d.file(n); err != nil {
		return nil, err
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return d.f, nil
}

// fileDecoder reads a fleet file. What refers to machines is looked at after
// all machines are known, whatever the order of the file.
type fileDecoder struct {
	decoder
	f    *Fleet
	root *node
	read func(path string) ([]byte, error)
}

func (d *fileDecoder) file(n *node) error {
	var inventory, machines, disabled, coordinator, settings, generated *node
	keep := func(to **node) func(*node) { return func(n *node) { *to = n } }
	d.fields(n, "the fleet file", map[string]func(*node){
		"fleet": func(n *node) {
			s := d.text(n, "fleet")
			if n.kind == kindString {
				d.f.id, _ = parsed(&d.decoder, n.at, s, fleet.ParseFleetID)
			}
		},
		"coordinator": keep(&coordinator),
		"inventory":   keep(&inventory),
		"machines":    keep(&machines),
		"disabled":    keep(&disabled),
		"operators":   d.operators,
		"settings":    keep(&settings),
		"vars":        keep(&generated),
	})
	if id := n.get("fleet"); (n.kind == kindMap || n.kind == kindNull) && (id == nil || id.kind == kindNull) {
		d.invalid(n.at, `add "fleet: <id>"`, "the fleet file has no fleet id")
	}
	link := func() {}
	if inventory != nil {
		var err error
		if link, err = d.inventory(inventory); err != nil {
			return err
		}
	}
	if machines != nil {
		d.machines(machines)
	}
	link()
	if disabled != nil {
		d.disabled(disabled)
	}
	if coordinator != nil {
		d.coordinator(coordinator)
	}
	if settings != nil {
		d.settings(settings)
	}
	if generated != nil {
		d.vars(generated)
	}
	return nil
}

// inventory reads the inventory and returns what resolves its roles once the
// fleet file's own machines are known. Roles of an inventory file reach only
// its own machines, as clan computed them; those of an inline one reach all.
func (d *fileDecoder) inventory(n *node) (link func(), err error) {
	link = func() {}
	file := n.get("file")
	if file == nil {
		cd := &clanDecoder{inline: true}
		inv := cd.inventory(n)
		d.problems = append(d.problems, cd.problems...)
		d.f.inventory = inv
		maps.Copy(d.f.machines, inv.machines)
		return func() {
			inv.machines = d.f.machines
			inv.link(&d.collector, true)
		}, nil
	}
	if len(n.entries) > 1 {
		d.invalid(n.at, "keep the file, or write the machines and instances here", "inventory has a file and something else")
		return link, nil
	}
	path := d.path(file, "inventory.file")
	if path == "" {
		return link, nil
	}
	data, err := d.read(d.f.resolve(path))
	if err != nil {
		d.add(file.at, err, "inventory.file cannot be read: "+err.Error(), "write the inventory there, or correct the path")
		return link, nil
	}
	// Errors name the file as a person would from where the fleet file is.
	name := path
	if !filepath.IsAbs(path) {
		name = filepath.Join(filepath.Dir(d.f.file), path)
	}
	inv, err := ParseInventory(name, data)
	if err != nil {
		d.problems = append(d.problems, ProblemsOf(err)...)
		// Without the machines all else would only look wrong.
		return link, d.err()
	}
	d.f.inventory = inv
	maps.Copy(d.f.machines, inv.machines)
	return link, nil
}

// resolve makes a path of the fleet file one of this machine.
func (f *Fleet) resolve(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(f.dir, path)
}

func (d *fileDecoder) machines(n *node) {
	if !d.mapping(n, "machines") {
		return
	}
	for _, e := range n.entries {
		name, ok := parsed(&d.decoder, e.at, e.key, fleet.ParseMachineName)
		if !ok {
			continue
		}
		if other := d.f.machines[name]; other != nil {
			d.add(e.at, ErrConflict, fmt.Sprintf("machine %s is defined here and at %s", name, other.Place),
				"the inventory has it already; what is about its deployment goes below settings.machine."+string(name))
			continue
		}
		m := &Machine{Name: name, Place: e.at}
		d.fields(e.value, "machine "+e.key, d.machineFields(m))
		m.complete()
		d.f.machines[name] = m
	}
}

func (d *fileDecoder) disabled(n *node) {
	for _, item := range d.list(n, "disabled") {
		if m := d.known(item, "disabled"); m != nil {
			m.Disabled = true
		}
	}
}

// known returns the machine that n names.
func (d *fileDecoder) known(n *node, what string) *Machine {
	s := d.text(n, what)
	if n.kind != kindString {
		return nil
	}
	return d.machineNamed(n.at, what, s)
}

func (d *fileDecoder) machineNamed(at Place, what, s string) *Machine {
	name, ok := parsed(&d.decoder, at, s, fleet.ParseMachineName)
	if !ok {
		return nil
	}
	m := d.f.machines[name]
	if m == nil {
		d.add(at, ErrUnknown, fmt.Sprintf("%s: unknown machine %s", what, quote(s)), suggest(s, d.f.machineNames()))
	}
	return m
}

func (d *fileDecoder) coordinator(n *node) {
	d.fields(n, "coordinator", map[string]func(*node){
		"machine": func(n *node) {
			m := d.known(n, "coordinator.machine")
			if m != nil && m.Disabled {
				d.invalid(n.at, "enable it, or name another one", "coordinator.machine %s is disabled", m.Name)
			} else if m != nil {
				d.f.coordinator.Machine = m.Name
			}
		},
		"address": func(n *node) {
			s := d.text(n, "coordinator.address")
			if n.kind == kindString && !fleet.IsHostPort(s) {
				d.invalid(n.at, `write host:port, such as "cinnabar.zt:7443"`, "coordinator.address is %s", quote(s))
			}
			d.f.coordinator.Address = s
		},
	})
	if n.kind == kindMap && n.get("address") == nil {
		d.invalid(n.at, `add "address: host:port"`, "coordinator has no address")
	}
}

func (d *fileDecoder) operators(n *node) {
	if !d.mapping(n, "operators") {
		return
	}
	for _, e := range n.entries {
		name, ok := parsed(&d.decoder, e.at, e.key, fleet.ParseOperatorName)
		if !ok {
			continue
		}
		op := Operator{Name: name}
		d.fields(e.value, "operator "+e.key, map[string]func(*node){
			"role": func(n *node) {
				op.Role = enum(&d.decoder, n, "role of operator "+e.key,
					fleet.RoleViewer, fleet.RoleDeployer, fleet.RoleApprover, fleet.RoleSecretsAdmin, fleet.RoleAdmin)
			},
		})
		if e.value.get("role") == nil && (e.value.kind == kindMap || e.value.kind == kindNull) {
			d.invalid(e.at, "add role: viewer, deployer, approver, secrets-admin or admin", "operator %s has no role", e.key)
		}
		d.f.operators[name] = op
	}
}
