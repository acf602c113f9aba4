package inventory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// ParseInventory reads clan's evaluated inventory, as
//
//	nix eval --json .#clanInternals.inventoryClass.inventorySerialization
//
// prints it or with the settings unwrapped. The name is for errors. Keys that
// are not known are ignored, because clan adds some. An error is a [Problem]
// or [Problems].
func ParseInventory(name string, data []byte) (*Inventory, error) {
	n, err := readJSON(name, data)
	if err != nil {
		return nil, err
	}
	d := &clanDecoder{decoder: decoder{lenient: true}}
	inv := d.inventory(n)
	inv.link(&d.collector, false)
	if err := d.err(); err != nil {
		return nil, err
	}
	return inv, nil
}

// clanDecoder reads the shape of clan's inventory.
type clanDecoder struct {
	decoder
	// inline is set for an inventory inside a fleet file: nothing was computed
	// there, so classes have a default and the computed tags are added.
	inline bool
}

func (d *clanDecoder) inventory(n *node) *Inventory {
	inv := &Inventory{
		machines:  map[fleet.MachineName]*Machine{},
		instances: map[string]*instance{},
		tags:      map[string]bool{},
	}
	known := map[string]func(*node){
		"machines":  func(n *node) { d.machines(n, inv) },
		"instances": func(n *node) { d.instances(n, inv) },
		"meta": func(n *node) {
			d.fields(n, "meta", map[string]func(*node){
				"name":        func(n *node) { inv.meta.Name = d.text(n, "meta.name") },
				"description": func(n *node) { inv.meta.Description = d.text(n, "meta.description") },
				"domain":      func(n *node) { inv.meta.Domain = d.text(n, "meta.domain") },
			})
		},
	}
	if !d.inline {
		if n.kind != kindMap || n.get("machines") == nil {
			d.invalid(n.at, evaluateHint, "this is no inventory: it has no machines")
			return inv
		}
		// Only the names: who carries a tag is read from the machines.
		known["tags"] = func(n *node) {
			if d.mapping(n, "tags") {
				for _, e := range n.entries {
					inv.tags[e.key] = true
				}
			}
		}
	}
	d.fields(n, "inventory", known)
	return inv
}

const evaluateHint = "use what nix eval --json .#clanInternals.inventoryClass.inventorySerialization prints"

func (d *clanDecoder) machines(n *node, inv *Inventory) {
	if !d.mapping(n, "machines") {
		return
	}
	for _, e := range n.entries {
		name, ok := parsed(&d.decoder, e.at, e.key, fleet.ParseMachineName)
		if !ok {
			continue
		}
		m := &Machine{Name: name, Place: e.at}
		known := d.machineFields(m)
		known["name"] = func(n *node) {
			if s := d.text(n, "name"); s != e.key {
				d.invalid(n.at, "remove it or make them equal", "machine %s has the name %s", e.key, quote(s))
			}
		}
		known["machineClass"] = known["class"]
		known["icon"] = func(*node) {}
		known["installedAt"] = func(n *node) {
			if seconds := d.whole(n, "installedAt", 0, 1<<40); seconds > 0 {
				m.InstalledAt = time.Unix(seconds, 0).UTC()
			}
		}
		if !d.inline {
			delete(known, "class")
		}
		d.fields(e.value, "machine "+e.key, known)
		switch {
		case d.inline:
			if e.value.get("class") != nil && e.value.get("machineClass") != nil {
				d.invalid(e.at, "keep one of them", "machine %s has class and machineClass", e.key)
			}
			m.complete()
		case m.Class == "" && e.value.get("machineClass") == nil:
			d.invalid(e.at, "this looks like clan's source inventory; "+evaluateHint, "machine %s has no machineClass", e.key)
		}
		inv.machines[name] = m
	}
}

// machineFields are the keys that a machine has in an inventory and in a fleet
// file alike.
func (d *decoder) machineFields(m *Machine) map[string]func(*node) {
	return map[string]func(*node){
		"class": func(n *node) {
			m.Class = enum(d, n, "class of machine "+string(m.Name), fleet.ClassNixOS, fleet.ClassDarwin, fleet.ClassLinux)
		},
		"description": func(n *node) { m.Description = d.text(n, "description") },
		"tags":        func(n *node) { m.Tags = d.tags(n) },
		"deploy": func(n *node) {
			d.fields(n, "deploy", map[string]func(*node){
				"targetHost": func(n *node) { m.Deploy.TargetHost = d.text(n, "deploy.targetHost") },
				"buildHost":  func(n *node) { m.Deploy.BuildHost = d.text(n, "deploy.buildHost") },
				"forwardAgent": func(n *node) {
					forward := d.boolean(n, "deploy.forwardAgent")
					m.Deploy.ForwardAgent = &forward
				},
			})
		},
	}
}

// complete gives a machine that Nix did not evaluate the default class and the
// computed tags.
func (m *Machine) complete() {
	m.Class = cmp.Or(m.Class, fleet.ClassLinux)
	for _, tag := range []string{string(m.Class), "all"} {
		if !m.HasTag(tag) {
			m.Tags = append(m.Tags, tag)
		}
	}
}

func (d *decoder) tags(n *node) []string {
	var tags []string
	for _, item := range d.list(n, "tags") {
		tag := d.text(item, "tag")
		if tag == item.text && d.name(item.at, "tag", tag) && !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	return tags
}

// name checks a name that clan leaves free (tag, instance, role): fit to be
// shown on one line and to be one element of a path. Upper case is refused in
// fleet files, where nothing of clan's has to be repeated.
func (d *decoder) name(at Place, what, s string) bool {
	odd := func(r rune) bool {
		return r == '/' || unicode.IsControl(r) || unicode.IsSpace(r) || !d.lenient && unicode.IsUpper(r)
	}
	if s != "" && len(s) <= 127 && !strings.Contains(s, "..") && s[0] != '.' && !strings.ContainsFunc(s, odd) {
		return true
	}
	hint := "use lower-case letters, digits, dashes and underscores"
	if d.lenient {
		hint = "use letters, digits, dashes and underscores"
	}
	d.add(at, fleet.ErrName, fmt.Sprintf("malformed name: %s %s", what, quote(s)), hint)
	return false
}

func (d *clanDecoder) instances(n *node, inv *Inventory) {
	if !d.mapping(n, "instances") {
		return
	}
	for _, e := range n.entries {
		if !d.name(e.at, "instance", e.key) {
			continue
		}
		in := &instance{name: e.key, module: Module{Name: e.key}, roles: map[string]*role{}}
		d.fields(e.value, "instance "+e.key, map[string]func(*node){
			"module": func(n *node) {
				d.fields(n, "module of instance "+e.key, map[string]func(*node){
					"name":  func(n *node) { in.module.Name = d.text(n, "module.name") },
					"input": func(n *node) { in.module.Input = d.text(n, "module.input") },
				})
			},
			"roles": func(n *node) { d.roles(n, in) },
		})
		inv.instances[e.key] = in
	}
}

func (d *clanDecoder) roles(n *node, in *instance) {
	if !d.mapping(n, "roles of instance "+in.name) {
		return
	}
	for _, e := range n.entries {
		if !d.name(e.at, "role", e.key) {
			continue
		}
		what := fmt.Sprintf("role %s of instance %s", e.key, in.name)
		r := &role{name: e.key, at: e.at, settings: &node{at: e.at, kind: kindMap}}
		d.fields(e.value, what, map[string]func(*node){
			"settings": func(n *node) { r.settings = d.settings(n, what) },
			"machines": func(n *node) { r.machines = d.members(n, what+", machine") },
			"tags": func(n *node) {
				if n.kind == kindList {
					for _, tag := range d.tags(n) {
						r.tags = append(r.tags, member{name: tag, at: n.at, settings: &node{at: n.at, kind: kindMap}})
					}
					sortMembers(r.tags)
					return
				}
				r.tags = d.members(n, what+", tag")
			},
		})
		in.roles[e.key] = r
	}
}

// members reads a map of name: {settings}, sorted by name.
func (d *clanDecoder) members(n *node, what string) []member {
	if !d.mapping(n, what+"s") {
		return nil
	}
	list := make([]member, 0, len(n.entries))
	for _, e := range n.entries {
		m := member{name: e.key, at: e.at, settings: &node{at: e.at, kind: kindMap}}
		what := what + " " + clip(e.key)
		d.fields(e.value, what, map[string]func(*node){
			"settings": func(n *node) { m.settings = d.settings(n, what) },
		})
		list = append(list, m)
	}
	sortMembers(list)
	return list
}

func sortMembers(list []member) {
	slices.SortFunc(list, func(a, b member) int { return a.compare(b.name) })
}

// settings opens the wrapper that Nix prints around the settings of roles, of
// machines in roles and of tags in roles, which is exactly
//
//	{"imports": [{"_file": "…, via option …", "imports": [SETTINGS]}]}
func (d *clanDecoder) settings(n *node, what string) *node {
	empty := &node{at: n.at, kind: kindMap}
	if n.get("imports") == nil {
		if !d.mapping(n, "settings of "+what) {
			return empty
		}
		return n
	}
	inner := single(n, "imports")
	if inner != nil && len(inner.entries) == 2 && inner.get("_file") != nil && inner.get("_file").kind == kindString {
		if content := single(&node{kind: kindMap, entries: without(inner.entries, "_file")}, "imports"); content != nil {
			if content.kind == kindMap && content.get("imports") == nil {
				return content
			}
		}
	}
	d.invalid(n.at, "each settings may be defined in one place only, and as plain data", "settings of %s have imports that are not Nix's wrapper", what)
	return empty
}

// single returns the only item of the list that is the only entry of n.
func single(n *node, key string) *node {
	if n.kind == kindMap && len(n.entries) == 1 && n.entries[0].key == key {
		if list := n.entries[0].value; list.kind == kindList && len(list.list) == 1 {
			return list.list[0]
		}
	}
	return nil
}

func without(entries []entry, key string) []entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e entry) bool { return e.key == key })
}
