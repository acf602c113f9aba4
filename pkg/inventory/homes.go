package inventory

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Profile is what a fleet file says about one profile of a machine beside its
// system.
type Profile struct {
	Name   fleet.ProfileName `json:"name"`
	Source Source            `json:"source"`
	// Plugins that its source and probes need, by name.
	Plugins []Plugin `json:"plugins,omitempty"`
	// Probes by name, complete. They run as the profile's user.
	Probes []fleet.Probe `json:"probes,omitempty"`
	// Policy is the machine's, but for what the profile says otherwise.
	Policy Policy `json:"policy"`
}

// SourceOf is the source of a profile; a zero one where the fleet file has none.
func (d Deployment) SourceOf(name fleet.ProfileName) Source {
	if name == fleet.System {
		return d.Source
	}
	for _, p := range d.Profiles {
		if p.Name == name {
			return p.Source
		}
	}
	return Source{}
}

// maxProfiles of a machine, its system included: agents take no more.
const maxProfiles = 64

// platformPattern is what Nix calls a system, such as aarch64-darwin.
const platformPattern = `^[a-z0-9_]+-(linux|darwin)$`

var platformName = regexp.MustCompile(platformPattern)

// platform reads what the machine is for Nix; its class decides where nothing
// says so.
func (d *settingsDecoder) platform(n *node) string {
	if n == nil || n.kind == kindNull {
		if d.machine != nil && d.machine.Class == fleet.ClassDarwin {
			return "aarch64-darwin"
		}
		return "x86_64-linux"
	}
	const hint = "write a system of Nix, such as x86_64-linux or aarch64-darwin"
	s := d.text(n, "platform")
	switch {
	case n.kind != kindString:
	case !platformName.MatchString(s):
		d.invalid(n.at, hint, "platform is %s", quote(s))
	case d.complete && (d.machine.Class == fleet.ClassDarwin) != strings.HasSuffix(s, "-darwin"):
		d.add(n.at, ErrConflict, fmt.Sprintf("platform is %s, and machine %s is of class %s", s, d.machine.Name, d.machine.Class),
			"correct the one or the other")
	}
	return s
}

// profiles reads the profiles beside the system. They start from the machine's
// policy and plugins, which are read before.
func (d *settingsDecoder) profiles(n *node, dep *Deployment) {
	if n == nil || !d.mapping(n, "profiles") {
		return
	}
	if len(n.entries) >= maxProfiles {
		d.invalid(n.at, "leave some out", "%d profiles beside the system, at most %d", len(n.entries), maxProfiles-1)
		return
	}
	for _, e := range n.entries {
		if e.key == string(fleet.System) {
			d.invalid(e.at, "write its source where the machine's settings are", "profiles has %s, which every machine has", e.key)
			continue
		}
		name, ok := parsed(&d.decoder, e.at, e.key, fleet.ParseProfileName)
		if !ok {
			continue
		}
		dep.Profiles = append(dep.Profiles, d.profile(name, e.value, dep))
	}
	slices.SortFunc(dep.Profiles, func(a, b Profile) int { return strings.Compare(string(a.Name), string(b.Name)) })
}

func (d *settingsDecoder) profile(name fleet.ProfileName, n *node, dep *Deployment) Profile {
	own := *d
	own.user, own.problems = name.User(), nil
	p := Profile{Name: name, Policy: dep.Policy}
	own.fields(n, "profile "+string(name), map[string]func(*node){
		"source": func(n *node) { p.Source = own.source(n) },
		"probes": func(n *node) { p.Probes = own.probes(n) },
		"policy": func(n *node) { own.homePolicy(n, name, &p.Policy) },
	})
	if d.complete && p.Source.IsZero() && len(own.problems) == 0 {
		// Declared is enough: it is in the fleet's own flake, under its name.
		own.completeSource(&node{at: n.at, kind: kindMap}, &p.Source)
	}
	used := Deployment{Source: p.Source, Probes: p.Probes, Plugins: dep.Plugins}
	own.usedPlugins(n, &used)
	p.Plugins = used.Plugins
	d.problems = append(d.problems, own.problems...)
	return p
}
