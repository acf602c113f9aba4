package inventory

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Vars is what a fleet file says about generated values.
type Vars struct {
	// Groups read every secret that generators make.
	Groups []string
	// Generators by name.
	Generators []Generator
	// Flake declares more of them; nil for none.
	Flake *VarsFlake
	// HostPaths are those at which hosts have values besides vars/PLACEMENT/GENERATOR/FILE,
	// each once.
	HostPaths []HostPath
}

// HostPath is a style of paths of values below a host's secrets.
type HostPath string

// Styles of paths.
const (
	// HostPathShort is vars/GENERATOR/FILE.
	HostPathShort HostPath = "short"
	// HostPathPlain is PLACEMENT/GENERATOR/FILE.
	HostPathPlain HostPath = "plain"
	// HostPathDotted is GENERATOR.FILE.
	HostPathDotted HostPath = "dotted"
)

var hostPaths = []HostPath{HostPathShort, HostPathPlain, HostPathDotted}

// VarsFlake is a flake of clan whose machines declare generators.
type VarsFlake struct {
	Place
	// URL of the flake, or an absolute path.
	URL string
	// RerunOnChange says that another script, or another value that it reads, makes its own
	// values stale.
	RerunOnChange bool
}

// Generator is the declaration of a generator. Which kinds there are, and what their
// settings mean, is for who runs them.
type Generator struct {
	Place
	// Name may have [MachineWord] in it: then each machine has one under its own name.
	Name string
	// Kind is empty where there is a Script.
	Kind string
	// Script is the text that bash runs; what follows it here is of scripts only.
	Script string
	// Dependencies are the names of the generators that it reads, in which MachineWord stands
	// for the machine.
	Dependencies []string
	Prompts      []GeneratorPrompt
	// Validation is a JSON object of which clan's hash is kept; nil for none.
	Validation json.RawMessage
	// RerunOnChange says that another script, or another value that it reads, makes its own
	// values stale.
	RerunOnChange bool
	// Settings is a JSON object, in whose text MachineWord stands for the machine; nil for
	// none.
	Settings json.RawMessage
	// Share says that the machines have it in common.
	Share bool
	// Machines that have it, sorted.
	Machines []fleet.MachineName
	// Files are what differs from the kind's own, by name.
	Files map[string]GeneratedFile
}

// GeneratorPrompt is what a script wants to be asked.
type GeneratorPrompt struct {
	// Type is one of clan's; Description is Name where nothing else is said.
	Name, Type, Description string
	// Persist says that the answer is a secret file of that name.
	Persist bool
}

// GeneratedFile is what a declaration says of a file. Zero values leave what the kind says.
type GeneratedFile struct {
	Place
	Deploy *bool
	// Secret is of scripts only; what is not said is secret.
	Secret       *bool
	NeededFor    string
	Owner, Group string
	Mode         *uint32
	// RestartUnits replace the kind's where they are not nil.
	RestartUnits []string
}

// MachineWord stands for a machine's name in what is written for many.
const MachineWord = attrMachine

const (
	maxGenerators   = 4096
	maxRestartUnits = fleet.MaxRestartUnits
	maxScriptBytes  = 64 << 10
	maxOfScript     = 256 // Dependencies, prompts or files.
	// valueNamePattern is for names of generators and their files: parts of paths.
	valueNamePattern = `^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$`
	generatorPattern = `^([A-Za-z0-9_-]|\{machine\})([A-Za-z0-9._-]|\{machine\}){0,127}$`
	groupPattern     = `^[a-z_][a-z0-9_-]{0,31}$`
	unitPattern      = `^[^-\s/][^\s/]{0,254}$`
)

var (
	valueName     = regexp.MustCompile(valueNamePattern)
	generatorName = regexp.MustCompile(generatorPattern)
	groupName     = regexp.MustCompile(groupPattern)
	unitName      = regexp.MustCompile(unitPattern)
)

// phases are when a host needs a file, in clan's words.
var phases = []driverName{"services", "users", "activation", "partitioning"}

// promptTypes are clan's.
var promptTypes = []driverName{"line", "hidden", "multiline", "multiline-hidden"}

// Vars returns what the fleet file says about generated values.
func (f *Fleet) Vars() Vars {
	return Vars{slices.Clone(f.vars.Groups), slices.Clone(f.vars.Generators), f.vars.Flake, slices.Clone(f.vars.HostPaths)}
}

func (d *fileDecoder) vars(n *node) {
	d.fields(n, "vars", map[string]func(*node){
		"groups": func(n *node) {
			for _, item := range d.list(n, "vars.groups") {
				if d.named(item, "vars.groups", groupName, "write a name of sops/groups: small letters, digits, _ and -, at most 32") {
					d.f.vars.Groups = append(d.f.vars.Groups, item.text)
				}
			}
		},
		"generators": d.generators,
		"flake":      d.varsFlake,
		"hostPaths": func(n *node) {
			for _, item := range d.list(n, "vars.hostPaths") {
				style := enum(&d.decoder, item, "vars.hostPaths", hostPaths...)
				switch {
				case style == "":
				case slices.Contains(d.f.vars.HostPaths, style):
					d.invalid(item.at, "name each once", "vars.hostPaths names %s twice", style)
				default:
					d.f.vars.HostPaths = append(d.f.vars.HostPaths, style)
				}
			}
		},
	})
}

func (d *fileDecoder) varsFlake(n *node) {
	f := VarsFlake{Place: n.at}
	sd := &settingsDecoder{f: d.f}
	d.fields(n, "vars.flake", map[string]func(*node){
		"url":           func(n *node) { f.URL = sd.flake(n, "vars.flake.url") },
		"rerunOnChange": func(n *node) { f.RerunOnChange = d.boolean(n, "vars.flake.rerunOnChange") },
	})
	d.problems = append(d.problems, sd.problems...)
	if n.get("url") == nil && (n.kind == kindMap || n.kind == kindNull) {
		d.invalid(n.at, `add "url: ." or that of another flake of clan`, "vars.flake has no url")
	}
	d.f.vars.Flake = &f
}

// named checks text against a pattern.
func (d *decoder) named(n *node, what string, pattern *regexp.Regexp, hint string) bool {
	s := d.text(n, what)
	if n.kind == kindString && !pattern.MatchString(s) {
		d.invalid(n.at, hint, "%s is %s", what, quote(n.text))
	}
	return n.kind == kindString && pattern.MatchString(s)
}

func (d *fileDecoder) generators(n *node) {
	if !d.mapping(n, "vars.generators") {
		return
	}
	if len(n.entries) > maxGenerators {
		d.invalid(n.at, "declare one for many machines, by tags", "%d generators, at most %d", len(n.entries), maxGenerators)
		return
	}
	checkTag := d.checkTag("tags of a generator")
	for _, e := range n.entries {
		if !generatorName.MatchString(e.key) {
			d.invalid(e.at, "write at most 128 letters, digits, dots, dashes and underscores, no dot first; "+MachineWord+" stands for the machine's name",
				"%s is no name of a generator", quote(e.key))
			continue
		}
		d.f.vars.Generators = append(d.f.vars.Generators, d.generator(e, checkTag))
	}
	slices.SortFunc(d.f.vars.Generators, func(a, b Generator) int { return strings.Compare(a.Name, b.Name) })
}

func (d *fileDecoder) generator(e entry, checkTag func(entry) bool) Generator {
	what := "generator " + e.key
	g := Generator{Place: e.at, Name: e.key}
	has := map[fleet.MachineName]bool{}
	chosen := false
	sd := &settingsDecoder{f: d.f}
	d.fields(e.value, what, map[string]func(*node){
		"kind": func(n *node) { g.Kind = d.text(n, what+": kind") },
		"settings": func(n *node) {
			if n.kind != kindNull {
				g.Settings = sd.config(n, what+": settings")
			}
		},
		"share": func(n *node) { g.Share = d.boolean(n, what+": share") },
		"machines": func(n *node) {
			chosen = true
			for _, item := range d.list(n, what+": machines") {
				if m := d.known(item, what+": machines"); m != nil {
					has[m.Name] = true
				}
			}
		},
		"tags": func(n *node) {
			chosen = true
			for _, item := range d.list(n, what+": tags") {
				tag := d.text(item, what+": tags")
				if item.kind != kindString || !checkTag(entry{key: tag, at: item.at}) {
					continue
				}
				for name, m := range d.f.machines {
					if slices.Contains(m.Tags, tag) {
						has[name] = true
					}
				}
			}
		},
		"files":         func(n *node) { g.Files = d.generatedFiles(sd, n, what) },
		"script":        func(n *node) { g.Script = d.script(n, what+": script") },
		"dependencies":  func(n *node) { g.Dependencies = d.dependencies(n, what+": dependencies") },
		"prompts":       func(n *node) { g.Prompts = d.prompts(n, what+": prompts") },
		"validation":    func(n *node) { g.Validation = sd.config(n, what+": validation") },
		"rerunOnChange": func(n *node) { g.RerunOnChange = d.boolean(n, what+": rerunOnChange") },
	})
	d.problems = append(d.problems, sd.problems...)
	d.oneMaker(e, what)
	if !chosen {
		g.Machines = slices.Sorted(maps.Keys(d.f.machines))
	} else {
		g.Machines = slices.Sorted(maps.Keys(has))
	}
	if g.Share && !strings.Contains(g.Name, MachineWord) && strings.Contains(string(g.Settings), MachineWord) {
		d.invalid(e.at, "put "+MachineWord+" into its name too, so that each machine has its own, or name the machine",
			"%s is shared, and its settings have %s", what, MachineWord)
	}
	return g
}

// ofScripts are keys that mean nothing to a kind.
var ofScripts = []string{"dependencies", "prompts", "validation", "rerunOnChange"}

// oneMaker wants either a kind or a script, and with it what belongs to it.
func (d *fileDecoder) oneMaker(e entry, what string) {
	has := func(key string) bool { n := e.value.get(key); return n != nil && n.kind != kindNull }
	switch {
	case e.value.kind != kindMap && e.value.kind != kindNull:
	case has("kind") && has("script"):
		d.invalid(e.at, "leave one of them out", "%s has both a kind and a script", what)
	case has("script") && has("settings"):
		d.invalid(e.at, "write them into the script", "%s has settings, which a script knows nothing of", what)
	case has("script"):
	case has("kind"):
		for _, key := range ofScripts {
			if has(key) {
				d.invalid(e.at, "its kind says that itself; leave it out", "%s has %s, which only scripts have", what, key)
			}
		}
	default:
		d.invalid(e.at, `add "kind: ssh-host-key" or another one of docs/generators.md, or a script`, "%s has no kind", what)
	}
}

func (d *fileDecoder) script(n *node, what string) string {
	text := d.text(n, what)
	if n.kind == kindString && (strings.TrimSpace(text) == "" || len(text) > maxScriptBytes) {
		d.invalid(n.at, fmt.Sprintf("write commands of bash, at most %d bytes", maxScriptBytes), "%s has %d bytes", what, len(text))
	}
	return text
}

func (d *fileDecoder) dependencies(n *node, what string) (names []string) {
	for _, item := range d.list(n, what) {
		if d.named(item, what, generatorName, "name a generator") && !slices.Contains(names, item.text) {
			names = append(names, item.text)
		}
	}
	if len(names) > maxOfScript {
		d.invalid(n.at, "make several generators of it", "%s: %d of them, at most %d", what, len(names), maxOfScript)
	}
	return names
}

func (d *fileDecoder) prompts(n *node, what string) (list []GeneratorPrompt) {
	if !d.mapping(n, what) {
		return nil
	}
	if len(n.entries) > maxOfScript {
		d.invalid(n.at, "make several generators of it", "%s: %d of them, at most %d", what, len(n.entries), maxOfScript)
		return nil
	}
	for _, e := range n.entries {
		if !valueName.MatchString(e.key) {
			d.invalid(e.at, "write letters, digits, dots, dashes and underscores, no dot first", "%s is no name of a prompt", quote(e.key))
			continue
		}
		what := fmt.Sprintf("%s: %s", what, clip(e.key))
		p := GeneratorPrompt{Name: e.key, Type: "line", Description: e.key}
		d.fields(e.value, what, map[string]func(*node){
			"type":        func(n *node) { p.Type = string(enum(&d.decoder, n, what+": type", promptTypes...)) },
			"description": func(n *node) { p.Description = clip(d.text(n, what+": description")) },
			"persist":     func(n *node) { p.Persist = d.boolean(n, what+": persist") },
		})
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b GeneratorPrompt) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (d *fileDecoder) generatedFiles(sd *settingsDecoder, n *node, what string) map[string]GeneratedFile {
	if !d.mapping(n, what+": files") {
		return nil
	}
	files := map[string]GeneratedFile{}
	for _, e := range n.entries {
		what := fmt.Sprintf("%s: file %s", what, clip(e.key))
		if !valueName.MatchString(e.key) {
			d.invalid(e.at, "name a file of the kind, see docs/generators.md", "%s is no name of a file", quote(e.key))
			continue
		}
		f := GeneratedFile{Place: e.at}
		d.fields(e.value, what, map[string]func(*node){
			"deploy": func(n *node) {
				deploy := d.boolean(n, what+": deploy")
				f.Deploy = &deploy
			},
			"secret": func(n *node) {
				secret := d.boolean(n, what+": secret")
				f.Secret = &secret
			},
			"neededFor": func(n *node) { f.NeededFor = string(enum(&d.decoder, n, what+": neededFor", phases...)) },
			"owner":     func(n *node) { f.Owner = sd.account(n, what+": owner") },
			"group":     func(n *node) { f.Group = sd.account(n, what+": group") },
			"mode": func(n *node) {
				mode := sd.mode(n, what+": mode")
				f.Mode = &mode
			},
			"restartUnits": func(n *node) {
				f.RestartUnits = []string{}
				for _, item := range d.list(n, what+": restartUnits") {
					if d.named(item, what+": restartUnits", unitName, "write the name of a unit, such as nginx.service") {
						f.RestartUnits = append(f.RestartUnits, item.text)
					}
				}
				if len(f.RestartUnits) > maxRestartUnits {
					d.invalid(n.at, "group them by a target", "%s: %d units, at most %d", what, len(f.RestartUnits), maxRestartUnits)
				}
			},
		})
		files[e.key] = f
	}
	return files
}

func varsSchema() object {
	account := object{"type": []any{"string", "integer"}, "pattern": accountPattern, "description": "Name or number of an account on the host."}
	file := fields("What differs from the kind's own; of a script all files.", object{
		"secret":       object{"type": "boolean", "description": "Of scripts: whether it is encrypted; default it is."},
		"deploy":       object{"type": "boolean", "description": "Whether machines read it."},
		"neededFor":    choice("When a host needs it.", phases...),
		"owner":        account,
		"group":        account,
		"mode":         object{"type": []any{"string", "integer"}, "pattern": modePattern, "minimum": 0, "maximum": 777, "description": "Octal permission bits."},
		"restartUnits": list("Units that are restarted when it changes.", text("", unitPattern)),
	})
	prompt := fields("", object{
		"type":        choice("How it is asked.", promptTypes...),
		"description": text("What a person is asked for.", ""),
		"persist":     object{"type": "boolean", "description": "The answer is a secret file of that name."},
	})
	generator := fields("", object{
		"settings":      object{"type": "object", "description": "Those of the kind; {machine} stands for the machine's name."},
		"share":         object{"type": "boolean", "description": "The machines have it in common; default each has its own."},
		"machines":      list("Machines that have it; without machines and tags all have.", text("", labelPattern)),
		"tags":          list("Tags whose machines have it.", text("", tagPattern)),
		"files":         mapOf("By name.", valueNamePattern, nullable(file)),
		"dependencies":  list("Generators whose files a script reads.", text("", generatorPattern)),
		"prompts":       mapOf("What a script wants to be asked, by name.", valueNamePattern, nullable(prompt)),
		"validation":    object{"type": "object", "description": "Of scripts: another one makes the values stale."},
		"rerunOnChange": object{"type": "boolean", "description": "Of scripts: another script, or another value that it reads, makes the values stale."},
	})
	generator["type"] = "object"
	if props, ok := generator["properties"].(object); ok { // Not without a value.
		props["kind"] = text("One of docs/generators.md.", "")
		props["script"] = text("What bash runs instead of a kind, in a sandbox.", "")
	}
	generator["oneOf"] = []any{object{"required": []any{"kind"}}, object{"required": []any{"script"}}}
	return fields("Keys, passwords and certificates that fleetctl vars generate makes.", object{
		"groups": list("Groups of sops/groups that read every secret that generators make.", text("", groupPattern)),
		"flake": fields("A flake of clan whose machines declare generators.", object{
			"url":           text("A path such as ., or a URL.", refPattern),
			"rerunOnChange": object{"type": "boolean", "description": "Another script, or another value that it reads, makes the values stale."},
		}),
		"hostPaths":  list("Paths at which hosts have values too.", choice("short: vars/GENERATOR/FILE, plain: PLACEMENT/GENERATOR/FILE, dotted: GENERATOR.FILE.", hostPaths...)),
		"generators": mapOf("By name; {machine} in one stands for the machine's name.", generatorPattern, generator),
	})
}
