package fleet

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// Limits on plugins.
const (
	MaxPlugins = 16
	// MaxPluginSystems bounds the executables of one plugin.
	MaxPluginSystems = 8
	// MaxPluginBytes bounds one executable.
	MaxPluginBytes = 256 << 20
	// MaxPluginConfigBytes bounds the configuration of one source or probe.
	MaxPluginConfigBytes = 16 << 10
)

// CriticalPlugins is what a generation with plugins lists as critical, so that
// an agent from before plugins holds.
const CriticalPlugins = "plugins"

// PluginKind is what a plugin serves.
type PluginKind string

// The kinds of plugins.
const (
	PluginDriver PluginKind = "driver"
	PluginProbe  PluginKind = "probe"
)

// ParsePluginKind checks a kind.
func ParsePluginKind(s string) (PluginKind, error) {
	switch k := PluginKind(s); k {
	case PluginDriver, PluginProbe:
		return k, nil
	}
	return "", invalid("plugin kind %q: use driver or probe", clip(s))
}

// Plugin pins an external driver or probe. Its executable is a blob: a host
// runs exactly these bytes and needs nothing installed.
type Plugin struct {
	Name PluginName `json:"name"`
	Kind PluginKind `json:"kind"`
	// Executables has one for each system that the plugin runs on, by system.
	Executables []PluginExecutable `json:"executables"`
}

// PluginExecutable is a plugin's program for one system.
type PluginExecutable struct {
	// System is Go's os/arch, such as linux/amd64.
	System string `json:"system"`
	Digest Digest `json:"digest"`
	Size   uint64 `json:"size"` // bytes
}

// On returns the executable for a system; ok is false where there is none.
func (p Plugin) On(system string) (ref BlobRef, ok bool) {
	for _, e := range p.Executables {
		if e.System == system {
			return BlobRef{Digest: e.Digest, Size: e.Size}, true
		}
	}
	return BlobRef{}, false
}

// Plugin returns a pinned plugin by its name and kind.
func (g *Generation) Plugin(name PluginName, kind PluginKind) (p Plugin, ok bool) {
	for _, p := range g.Plugins {
		if p.Name == name && p.Kind == kind {
			return p, true
		}
	}
	return Plugin{}, false
}

// PluginBlobs lists the executables of all plugins and systems.
func (g *Generation) PluginBlobs() []BlobRef {
	var refs []BlobRef
	for _, p := range g.Plugins {
		for _, e := range p.Executables {
			refs = append(refs, BlobRef{Digest: e.Digest, Size: e.Size})
		}
	}
	return refs
}

// ExternalSource is what a driver plugin builds from.
type ExternalSource struct {
	// Config is a JSON object of at most MaxPluginConfigBytes, the driver's own;
	// empty for none.
	Config json.RawMessage `json:"config,omitempty"`
	// Files is a directory as a canonical tar, as a bundle's but with no program
	// that must be in it; nil for none.
	Files *BundleSource `json:"files,omitempty"`
}

// IsBuiltinDriver says whether a driver is part of agents.
func IsBuiltinDriver(name string) bool {
	switch name {
	case DriverBundle, DriverNixOS, DriverDarwin, DriverNix, DriverHome:
		return true
	}
	return false
}

func (s Source) validateExternal() error {
	if IsBuiltinDriver(s.Driver) {
		return invalid("source of driver %s has external content, which is for plugins", s.Driver)
	}
	if _, err := ParsePluginName(s.Driver); err != nil {
		return err
	}
	if err := validateConfig(s.External.Config); err != nil {
		return err
	}
	if s.External.Files != nil {
		return s.External.Files.validate()
	}
	return nil
}

// validateConfig wants a bounded JSON object, or nothing.
func validateConfig(c json.RawMessage) error {
	switch {
	case len(c) == 0:
		return nil
	case len(c) > MaxPluginConfigBytes:
		return invalid("config of %d bytes, at most %d", len(c), MaxPluginConfigBytes)
	case !json.Valid(c) || bytes.TrimLeft(c, " \t\r\n")[0] != '{':
		return invalid("config is no JSON object")
	}
	return nil
}

// validatePlugins checks the pins, and that what source and probes name is
// pinned.
func (g *Generation) validatePlugins() error {
	if len(g.Plugins) > MaxPlugins {
		return invalid("%d plugins, at most %d", len(g.Plugins), MaxPlugins)
	}
	if len(g.Plugins) > 0 && !slices.Contains(g.Critical, CriticalPlugins) {
		return invalid("it has plugins and does not list %q as critical", CriticalPlugins)
	}
	seen := map[PluginName]bool{}
	for _, p := range g.Plugins {
		if err := p.validate(); err != nil {
			return err
		}
		if seen[p.Name] {
			return invalid("two plugins are called %q", p.Name)
		}
		seen[p.Name] = true
	}
	if d := g.Source.Driver; !IsBuiltinDriver(d) {
		if _, ok := g.Plugin(PluginName(d), PluginDriver); !ok {
			return invalid("driver %q is not built in and no plugin of kind driver is pinned under that name", clip(d))
		}
	}
	for _, p := range g.Probes {
		if p.Kind != ProbePlugin {
			continue
		}
		if _, ok := g.Plugin(p.Plugin, PluginProbe); !ok {
			return invalid("probe %q: no plugin of kind probe is pinned as %q", p.Name, clip(string(p.Plugin)))
		}
	}
	return nil
}

func (p Plugin) validate() error {
	if _, err := ParsePluginName(string(p.Name)); err != nil {
		return err
	}
	if IsBuiltinDriver(string(p.Name)) {
		return invalid("plugin %q has the name of a built-in driver", p.Name)
	}
	if _, err := ParsePluginKind(string(p.Kind)); err != nil {
		return err
	}
	if len(p.Executables) == 0 || len(p.Executables) > MaxPluginSystems {
		return invalid("plugin %q has %d executables: want 1 to %d", p.Name, len(p.Executables), MaxPluginSystems)
	}
	for i, e := range p.Executables {
		if err := ValidateSystem(e.System); err != nil {
			return err
		}
		if i > 0 && e.System <= p.Executables[i-1].System {
			return invalid("plugin %q: system %s is out of order or there twice", p.Name, e.System)
		}
		if _, err := ParseDigest(string(e.Digest)); err != nil {
			return err
		}
		if e.Size == 0 || e.Size > MaxPluginBytes {
			return invalid("plugin %q: executable of %d bytes: want 1 to %d", p.Name, e.Size, MaxPluginBytes)
		}
	}
	return nil
}

// ValidateSystem wants os/arch by Go's names.
func ValidateSystem(s string) error {
	os, arch, ok := strings.Cut(s, "/")
	if !ok || !isLabel(os) || !isLabel(arch) {
		return invalid("system %q: want os/arch, such as linux/amd64", clip(s))
	}
	return nil
}
