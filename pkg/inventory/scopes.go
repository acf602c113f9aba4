package inventory

import (
	"maps"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// scopes are the settings of a fleet file as they were read.
type scopes struct {
	all                 definition
	class, tag, machine map[string]definition
}

// settings reads the four scopes. Each scope is decoded on its own here, for
// its types; what belongs together is looked at when scopes are merged.
func (d *fileDecoder) settings(n *node) {
	s := &d.f.settings
	s.class, s.tag, s.machine = map[string]definition{}, map[string]definition{}, map[string]definition{}
	d.f.plugins = declaredPlugins(n)
	each := func(what string, to map[string]definition, check func(entry) bool) func(*node) {
		return func(n *node) {
			if !d.mapping(n, "settings."+what) {
				return
			}
			for _, e := range n.entries {
				if check(e) && e.value.kind != kindNull {
					to[e.key] = d.scope(what+" "+e.key, e.value)
				}
			}
		}
	}
	d.fields(n, "settings", map[string]func(*node){
		"all":     func(n *node) { s.all = d.scope("all", n) },
		"class":   each("class", s.class, d.checkClass),
		"tag":     each("tag", s.tag, d.checkTag("settings.tag")),
		"machine": each("machine", s.machine, func(e entry) bool { return d.machineNamed(e.at, "settings.machine", e.key) != nil }),
	})
}

func (d *fileDecoder) checkClass(e entry) bool {
	if _, err := fleet.ParseClass(e.key); err == nil {
		return true
	}
	classes := []string{string(fleet.ClassNixOS), string(fleet.ClassDarwin), string(fleet.ClassLinux)}
	d.add(e.at, ErrUnknown, "settings.class: unknown class "+quote(e.key), suggest(e.key, classes))
	return false
}

// checkTag returns what checks that there is a tag, and says where it is named.
func (d *fileDecoder) checkTag(what string) func(entry) bool {
	known := maps.Clone(d.f.inventory.tags)
	if known == nil {
		known = map[string]bool{}
	}
	for _, tag := range []fleet.Class{"all", fleet.ClassNixOS, fleet.ClassDarwin, fleet.ClassLinux} {
		known[string(tag)] = true
	}
	for _, m := range d.f.machines {
		for _, tag := range m.Tags {
			known[tag] = true
		}
	}
	return func(e entry) bool {
		if !known[e.key] {
			d.add(e.at, ErrUnknown, what+": no machine has the tag "+quote(e.key), suggest(e.key, slices.Collect(maps.Keys(known))))
		}
		return known[e.key]
	}
}

// scope checks one scope's settings for themselves.
func (d *fileDecoder) scope(name string, n *node) definition {
	def := definition{name, n}
	merged := merge("", []definition{def}, &d.collector)
	if merged.kind != kindNull {
		sd := &settingsDecoder{f: d.f}
		sd.deployment(merged)
		d.problems = append(d.problems, sd.problems...)
	}
	if age := merged.get("age"); age != nil && !strings.HasPrefix(name, "machine ") {
		d.invalid(age.at, "put it below settings.machine.<name>", "age is one machine's own key, and this is for %s", name)
	}
	return def
}
