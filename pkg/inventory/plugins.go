package inventory

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// Plugin is an external driver or probe, not pinned yet.
type Plugin struct {
	Name fleet.PluginName `json:"name"`
	Kind fleet.PluginKind `json:"kind"`
	// Files has the executable's absolute path for each system, os/arch.
	Files map[string]string `json:"files"`
}

// plugins reads a map of plugins, and returns them by name.
func (d *settingsDecoder) plugins(n *node) []Plugin {
	if !d.mapping(n, "plugins") {
		return nil
	}
	var plugins []Plugin
	for _, e := range n.entries {
		name, ok := parsed(&d.decoder, e.at, e.key, fleet.ParsePluginName)
		if !ok {
			continue
		}
		if fleet.IsBuiltinDriver(e.key) {
			d.add(e.at, ErrConflict, "plugin "+e.key+" has the name of a built-in driver", "give it another name")
		}
		plugins = append(plugins, d.plugin(name, e))
	}
	slices.SortFunc(plugins, func(a, b Plugin) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return plugins
}

func (d *settingsDecoder) plugin(name fleet.PluginName, e entry) Plugin {
	what := "plugin " + e.key
	p := Plugin{Name: name, Files: map[string]string{}}
	d.fields(e.value, what, map[string]func(*node){
		"kind": func(n *node) {
			p.Kind = enum(&d.decoder, n, "kind of "+what, fleet.PluginDriver, fleet.PluginProbe)
		},
		"file": func(n *node) {
			if !d.mapping(n, what+": file") {
				return
			}
			for _, s := range n.entries {
				if err := fleet.ValidateSystem(s.key); err != nil {
					d.invalid(s.at, "write os/arch by Go's names, such as linux/amd64", "%s: %s is no system", what, quote(s.key))
					continue
				}
				if path := d.path(s.value, what+": file"); path != "" {
					p.Files[s.key] = d.f.resolve(path)
				}
			}
			if len(p.Files) > fleet.MaxPluginSystems {
				d.invalid(n.at, "leave some out", "%s has %d systems, at most %d", what, len(p.Files), fleet.MaxPluginSystems)
			}
		},
	})
	if d.complete && (e.value.kind == kindMap || e.value.kind == kindNull) {
		if e.value.get("kind") == nil {
			d.invalid(e.at, "add kind: driver or probe", "%s has no kind", what)
		}
		if len(p.Files) == 0 {
			d.invalid(e.at, "add file: {linux/amd64: PATH}", "%s has no executable", what)
		}
	}
	return p
}

// config reads a map that is handed to a plugin as JSON.
func (d *settingsDecoder) config(n *node, what string) json.RawMessage {
	if n.kind != kindMap {
		d.invalid(n.at, "write a map of key: value", "%s is %s", what, n.kind)
		return nil
	}
	b, err := json.Marshal(n.plain())
	if err == nil {
		err = strictjson.Unmarshal(b, fleet.MaxPluginConfigBytes, new(map[string]any))
	}
	if err != nil {
		d.invalid(n.at, fmt.Sprintf("at most %d bytes of JSON, and no two keys that differ in case only; put more into files", fleet.MaxPluginConfigBytes),
			"%s cannot be handed over: %s", what, err)
		return nil
	}
	return b
}

// declaredPlugins lists the names of plugins in any scope of the settings, for
// who reads one scope and meets the name of a plugin of another.
func declaredPlugins(settings *node) (names []driverName) {
	var scopes []*node
	for _, e := range settings.entries {
		if e.key == "all" {
			scopes = append(scopes, e.value)
			continue
		}
		for _, scope := range e.value.entries {
			scopes = append(scopes, scope.value)
		}
	}
	for _, n := range scopes {
		for _, e := range overridden(overridden(n).get("plugins")).entries {
			if _, err := fleet.ParsePluginName(e.key); err == nil && !slices.Contains(names, driverName(e.key)) {
				names = append(names, driverName(e.key))
			}
		}
	}
	slices.Sort(names)
	return names
}

// overridden is what an override stands for, else n itself; never nil.
func overridden(n *node) *node {
	if content := n.get("content"); content != nil && n.get("_type") != nil {
		n = content
	}
	if n == nil {
		return &node{kind: kindNull}
	}
	return n
}

// usedPlugins checks that what source and probes name is there, and leaves out
// what neither does: only what is used is shipped.
func (d *settingsDecoder) usedPlugins(n *node, dep *Deployment) {
	if !d.complete {
		return
	}
	byName := map[fleet.PluginName]Plugin{}
	for _, p := range dep.Plugins {
		byName[p.Name] = p
	}
	used := map[fleet.PluginName]Plugin{}
	want := func(at Place, name fleet.PluginName, kind fleet.PluginKind, what string) {
		p, ok := byName[name]
		switch {
		case name == "": // Said already.
		case !ok:
			d.add(at, ErrUnknown, fmt.Sprintf("%s: there is no plugin %s", what, quote(string(name))), suggest(string(name), pluginNames(byName)))
		case p.Kind != kind && p.Kind != "":
			d.invalid(at, "name one of kind "+string(kind), "%s: plugin %s is of kind %s", what, name, p.Kind)
		default:
			used[name] = p
		}
	}
	if s := dep.Source; s.IsExternal() {
		want(n.get("source").get("driver").at, fleet.PluginName(s.Driver), fleet.PluginDriver, "source.driver")
	}
	for _, p := range dep.Probes {
		if p.Kind == fleet.ProbePlugin {
			want(n.get("probes").get(p.Name).at, p.Plugin, fleet.PluginProbe, "probe "+p.Name)
		}
	}
	if len(used) > fleet.MaxPlugins {
		d.invalid(n.get("plugins").at, "put several checks in one plugin", "%d plugins are used, at most %d", len(used), fleet.MaxPlugins)
	}
	dep.Plugins = nil
	for _, name := range slices.Sorted(maps.Keys(used)) {
		dep.Plugins = append(dep.Plugins, used[name])
	}
}

func pluginNames(plugins map[fleet.PluginName]Plugin) []string {
	var names []string
	for name := range plugins {
		names = append(names, string(name))
	}
	return names
}
