package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Inventory is what clan's evaluated inventory says, or an inline one of a
// fleet file: machines, and services (instances) with their roles.
type Inventory struct {
	meta      Meta
	machines  map[fleet.MachineName]*Machine
	instances map[string]*instance
	tags      map[string]bool
	warnings  Problems
}

// Meta describes the inventory as a whole.
type Meta struct {
	Name        string `json:"name,omitempty"`
	Description string `json:"description,omitempty"`
	Domain      string `json:"domain,omitempty"`
}

// Machine is a host of a fleet.
type Machine struct {
	Name        fleet.MachineName `json:"name"`
	Class       fleet.Class       `json:"class"`
	Tags        []string          `json:"tags"`
	Description string            `json:"description,omitempty"`
	// Disabled says that the machine isn't meant to run now.
	Disabled bool   `json:"disabled"`
	Deploy   Deploy `json:"deploy"`
	// InstalledAt is when clan installed the machine; zero where it did not.
	InstalledAt time.Time `json:"installed_at,omitzero"`
	// Place is where the machine is defined.
	Place Place `json:"place"`
}

// HasTag says whether the machine carries a tag.
func (m Machine) HasTag(tag string) bool { return slices.Contains(m.Tags, tag) }

func (m *Machine) clone() Machine {
	c := *m
	c.Tags = slices.Clone(m.Tags)
	if m.Deploy.ForwardAgent != nil {
		forward := *m.Deploy.ForwardAgent
		c.Deploy.ForwardAgent = &forward
	}
	return c
}

// Deploy is how clan reaches a machine to push to it.
type Deploy struct {
	// TargetHost is [user@]host[:port][?SshOption=value…], or empty.
	TargetHost string `json:"target_host,omitempty"`
	// BuildHost is empty where the target builds for itself.
	BuildHost string `json:"build_host,omitempty"`
	// ForwardAgent is nil where ssh's own configuration decides.
	ForwardAgent *bool `json:"forward_agent,omitempty"`
}

// Instance is one service on a set of machines.
type Instance struct {
	Name   string `json:"name"`
	Module Module `json:"module"`
	// Roles by name.
	Roles []Role `json:"roles"`
}

// Module names the service that an instance is of.
type Module struct {
	Name string `json:"name"`
	// Input is the flake input that has the module: "self" for the fleet's own
	// flake, empty for clan's own modules.
	Input string `json:"input,omitempty"`
}

// Role is a part that machines play in an instance.
type Role struct {
	Name string `json:"name"`
	// Members by name: those listed, and those that carry one of the tags.
	Members []fleet.MachineName `json:"members"`
	Tags    []string            `json:"tags"`
}

// instance and role are the same with the settings.
type instance struct {
	name   string
	module Module
	roles  map[string]*role
}

type role struct {
	name     string
	at       Place
	settings *node
	// machines and tags that are listed, by name.
	machines, tags []member
	members        []fleet.MachineName
}

// member is a machine or tag that a role lists.
type member struct {
	name     string
	at       Place
	settings *node
}

func (m member) compare(name string) int { return cmp.Compare(m.name, name) }

// Meta returns what describes the inventory as a whole.
func (inv *Inventory) Meta() Meta { return inv.meta }

// Machines returns all machines by name.
func (inv *Inventory) Machines() []Machine { return machineList(inv.machines) }

// Machine returns one machine, and whether there is one of that name.
func (inv *Inventory) Machine(name fleet.MachineName) (Machine, bool) {
	if m := inv.machines[name]; m != nil {
		return m.clone(), true
	}
	return Machine{}, false
}

func machineList(machines map[fleet.MachineName]*Machine) []Machine {
	list := make([]Machine, 0, len(machines))
	for _, name := range slices.Sorted(maps.Keys(machines)) {
		list = append(list, machines[name].clone())
	}
	return list
}

// Instances returns all instances by name.
func (inv *Inventory) Instances() []Instance {
	list := make([]Instance, 0, len(inv.instances))
	for _, name := range slices.Sorted(maps.Keys(inv.instances)) {
		in := inv.instances[name]
		out := Instance{Name: in.name, Module: in.module, Roles: make([]Role, 0, len(in.roles))}
		for _, name := range slices.Sorted(maps.Keys(in.roles)) {
			r := in.roles[name]
			tags := make([]string, len(r.tags))
			for i, t := range r.tags {
				tags[i] = t.name
			}
			out.Roles = append(out.Roles, Role{Name: r.name, Members: slices.Clone(r.members), Tags: tags})
		}
		list = append(list, out)
	}
	return list
}

// Warnings are what is odd but no error, such as a tag of a role that no
// machine carries.
func (inv *Inventory) Warnings() Problems { return slices.Clone(inv.warnings) }

// EffectiveSettings merges the settings of an instance for one member of a
// role by clan's rule: the role's, the machine's own, and those of each of the
// role's tags that the machine carries, all with equal priority. Clan's
// modules may know better how an option of theirs merges; ask Nix where that
// matters. The result is the caller's own: maps, slices, strings, bools, nil,
// int64 and float64.
func (inv *Inventory) EffectiveSettings(instance, roleName string, machine fleet.MachineName) (map[string]any, error) {
	in := inv.instances[instance]
	if in == nil {
		return nil, fmt.Errorf("%w instance %s: %s", ErrUnknown, quote(instance), suggest(instance, slices.Collect(maps.Keys(inv.instances))))
	}
	r := in.roles[roleName]
	if r == nil {
		return nil, fmt.Errorf("%w role %s of instance %s: %s", ErrUnknown, quote(roleName), instance, suggest(roleName, slices.Collect(maps.Keys(in.roles))))
	}
	if _, ok := slices.BinarySearch(r.members, machine); !ok {
		return nil, fmt.Errorf("%w member %s of role %s of instance %s: %s", ErrUnknown, quote(string(machine)), roleName, instance, suggest(string(machine), names(r.members)))
	}
	var c collector
	merged := inv.merge(in, r, machine, &c)
	if err := c.err(); err != nil {
		return nil, err
	}
	return merged.plainMap(), nil
}

func (inv *Inventory) merge(in *instance, r *role, machine fleet.MachineName, c *collector) *node {
	var defs []definition
	for _, t := range r.tags {
		if inv.machines[machine].HasTag(t.name) {
			defs = append(defs, definition{"tag " + t.name, t.settings})
		}
	}
	if i, ok := slices.BinarySearchFunc(r.machines, string(machine), member.compare); ok {
		defs = append(defs, definition{"machine " + string(machine), r.machines[i].settings})
	}
	defs = append(defs, definition{"role " + r.name, r.settings})
	return merge("instances."+in.name+".roles."+r.name+".settings", defs, c)
}

// link resolves the roles' members and refuses machines that nobody defines. A
// tag that no machine carries is a warning, or an error where strict.
func (inv *Inventory) link(c *collector, strict bool) {
	machines := slices.Sorted(maps.Keys(inv.machines))
	carriers := map[string][]fleet.MachineName{}
	for _, name := range machines {
		for _, tag := range inv.machines[name].Tags {
			carriers[tag] = append(carriers[tag], name)
			inv.tags[tag] = true
		}
	}
	var warnings collector
	for _, name := range slices.Sorted(maps.Keys(inv.instances)) {
		in := inv.instances[name]
		for _, name := range slices.Sorted(maps.Keys(in.roles)) {
			r := in.roles[name]
			members := map[fleet.MachineName]bool{}
			what := fmt.Sprintf("role %s of instance %s", r.name, in.name)
			for _, m := range r.machines {
				if inv.machines[fleet.MachineName(m.name)] == nil {
					c.add(m.at, ErrUnknown, fmt.Sprintf("%s: unknown machine %s", what, quote(m.name)), suggest(m.name, names(machines)))
					continue
				}
				members[fleet.MachineName(m.name)] = true
			}
			for _, t := range r.tags {
				if len(carriers[t.name]) == 0 && !inv.tags[t.name] {
					to := &warnings
					if strict {
						to = c
					}
					to.add(t.at, ErrUnknown, fmt.Sprintf("%s: no machine has the tag %s", what, quote(t.name)), suggest(t.name, slices.Collect(maps.Keys(carriers))))
				}
				for _, m := range carriers[t.name] {
					members[m] = true
				}
			}
			r.members = slices.Sorted(maps.Keys(members))
		}
	}
	inv.warnings = sorted(warnings.problems)
}

// check looks for conflicts in the settings of every member.
func (inv *Inventory) check(c *collector) {
	for _, name := range slices.Sorted(maps.Keys(inv.instances)) {
		in := inv.instances[name]
		for _, role := range slices.Sorted(maps.Keys(in.roles)) {
			for _, m := range in.roles[role].members {
				inv.merge(in, in.roles[role], m, c)
				// Members share problems: keep each once.
				c.problems = sorted(c.problems)
			}
		}
	}
}

// Check returns every conflict in the settings of instances, or nil.
func (inv *Inventory) Check() error {
	var c collector
	inv.check(&c)
	return c.err()
}

func names[T ~string](list []T) []string {
	s := make([]string, len(list))
	for i, v := range list {
		s[i] = string(v)
	}
	return s
}
