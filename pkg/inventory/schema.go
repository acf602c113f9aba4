package inventory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// SchemaURL is where the schema of fleet files is to be found.
const SchemaURL = "https://raw.githubusercontent.com/cameronraysmith/fleet/main/docs/fleet.schema.json"

// Schema is the JSON Schema of fleet files, for editors: the shape of each
// value. What depends on other files, or shows only once scopes are joined, is
// for [Fleet.Check].
func Schema() ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(rootSchema()); err != nil {
		return nil, fmt.Errorf("encoding the schema: %w", err)
	}
	return out.Bytes(), nil
}

// object is a part of a schema.
type object = map[string]any

const (
	labelPattern    = `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`
	operatorPattern = `^[a-z_][a-z0-9_-]{0,31}$`
	namePattern     = `^[a-zA-Z0-9][a-zA-Z0-9._-]{0,126}$`
	tagPattern      = `^[^\sA-Z/.]([^\sA-Z/]{0,126})$`
	addressPattern  = `^.+:[0-9]{1,5}$`
	durationPattern = `^([0-9]+d|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$`
	pathPattern     = `^[^\n\r]+$`
	refPattern      = `^[!-"$-~]+$`
	// No brace but those around a name that stands there later.
	attrPattern     = `^([!"$-,.-\]_-z|~]|` + attrName + `)([!"$-\]_-z|~]|` + attrName + `)*$`
	attrName        = `\{(machine|platform|user)\}`
	witnessPattern  = `^([^{}]|\{machine\})+:[0-9]{1,5}$`
	modePattern     = `^(0o)?[0-7]{1,4}$`
	accountPattern  = `^[^-\s/:][^\s/:]{0,63}$`
	hostPathPattern = `^[^/\\\n\r\t]`
)

func rootSchema() object {
	root := fields("A fleet file: what a fleet is, who may act on it, and what is deployed.", object{
		"fleet":       object{},
		"coordinator": coordinatorSchema(),
		"inventory":   inventorySchema(),
		"machines":    mapOf("Machines that the inventory does not have.", labelPattern, nullable(machineSchema(nil))),
		"disabled":    list("Machines that aren't meant to run now.", text("", labelPattern)),
		"operators": mapOf("Who may act on the fleet, with one role each.", operatorPattern, required(fields("", object{
			"role": choice("An admin may do all; the others may also do what a viewer may.",
				fleet.RoleViewer, fleet.RoleDeployer, fleet.RoleApprover, fleet.RoleSecretsAdmin, fleet.RoleAdmin),
		}), "role")),
		"settings": fields("What is deployed. Scopes have equal priority: two different values for one setting are an error.", object{
			"all":     nullable(ref("settings")),
			"class":   classScopes(),
			"tag":     mapOf("For machines that carry a tag.", tagPattern, nullable(ref("settings"))),
			"machine": mapOf("For one machine.", labelPattern, nullable(ref("machineSettings"))),
		}),
		"vars": varsSchema(),
	})
	root["type"] = "object"
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = SchemaURL
	root["title"] = "fleet.yaml"
	if props, ok := root["properties"].(object); ok {
		props["fleet"] = text("The fleet's id. It never changes.", labelPattern) // Not without a value.
	}
	root["$defs"] = object{
		"source":     sourceSchema(),
		"policy":     policySchema(),
		"homePolicy": policySchema(hostPolicy...),
		"console":    consoleSchema(),
		"probe":      probeSchema(),
		"probes":     mapOf(fmt.Sprintf("Health checks by name, at most %d.", fleet.MaxProbes), probeName.String(), setting(ref("probe"))),
		"plugin":     pluginSchema(),
		"profile": fields("A home, built and activated as its user.", object{
			"source": setting(ref("source")),
			"probes": setting(ref("probes")),
			"policy": setting(ref("homePolicy")),
		}),
		"secret":          secretSchema(),
		"secrets":         mapOf("Secrets by name.", namePattern, setting(ref("secret"))),
		"settings":        settingsSchema(nil),
		"machineSettings": settingsSchema(object{"age": setting(text("Public key that the machine's secrets are encrypted to: age1… or an ssh key.", `^(age1|ssh-)`))}),
	}
	return required(root, "fleet")
}

func coordinatorSchema() object {
	return required(fields("Where agents and operators find the coordinator.", object{
		"machine": text("Machine that it runs on; leave it out when that is none of the fleet.", labelPattern),
		"address": text("host:port", addressPattern),
	}), "address")
}

func classScopes() object {
	props := object{}
	for _, class := range []fleet.Class{fleet.ClassNixOS, fleet.ClassDarwin, fleet.ClassLinux} {
		props[string(class)] = nullable(ref("settings"))
	}
	return fields("For machines of a class.", props)
}

func machineSchema(more object) object {
	props := object{
		"class":       choice("Default linux.", fleet.ClassNixOS, fleet.ClassDarwin, fleet.ClassLinux),
		"description": text("", ""),
		"tags":        list("Besides these each machine carries the tag all and that of its class.", text("", tagPattern)),
		"deploy": fields("As in clan.", object{
			"targetHost": text("", ""), "buildHost": text("", ""), "forwardAgent": object{"type": "boolean"},
		}),
	}
	maps.Copy(props, more)
	return fields("", props)
}

func inventorySchema() object {
	file := required(fields("", object{
		"file": text("Clan's evaluated inventory, a JSON file; fleetctl inventory import writes it.", pathPattern),
	}), "file")
	free := object{"type": []any{"object", "null"}}
	members := object{"type": []any{"object", "null"}, "additionalProperties": nullable(fields("", object{"settings": free}))}
	role := fields("", object{
		"settings": free, "machines": members,
		"tags": object{"anyOf": []any{members, list("", text("", tagPattern))}},
	})
	inline := fields("", object{
		"meta": fields("", object{"name": text("", ""), "description": text("", ""), "domain": text("", "")}),
		"machines": mapOf("", labelPattern, nullable(machineSchema(object{
			"name":         text("", labelPattern),
			"machineClass": choice("", fleet.ClassNixOS, fleet.ClassDarwin, fleet.ClassLinux),
			"icon":         object{}, "installedAt": object{"type": "integer", "minimum": 0},
		}))),
		"instances": object{"type": []any{"object", "null"}, "additionalProperties": nullable(fields("", object{
			"module": fields("", object{"name": text("", ""), "input": text("", "")}),
			"roles":  object{"type": []any{"object", "null"}, "additionalProperties": nullable(role)},
		}))},
	})
	return object{
		"description": "The file with clan's evaluated inventory, or machines and instances in the same form.",
		"anyOf":       []any{file, inline},
	}
}

func settingsSchema(more object) object {
	props := object{
		"source":   setting(ref("source")),
		"probes":   setting(ref("probes")),
		"policy":   setting(ref("policy")),
		"secrets":  setting(ref("secrets")),
		"witness":  setting(text("host:port, on the network of the coordinator, where the machine's agent tells others whether it reaches the coordinator; {machine} stands for the machine's name.", witnessPattern)),
		"platform": setting(text("What the machine is for Nix, such as aarch64-linux. Default: aarch64-darwin for the class darwin, else x86_64-linux.", platformPattern)),
		"profiles": setting(mapOf("Profiles beside the system, by name.", `^home/[a-z_][a-z0-9_-]{0,31}$`, setting(ref("profile")))),
		"plugins":  setting(mapOf("Drivers and probes of one's own, by name.", labelPattern, setting(ref("plugin")))),
	}
	maps.Copy(props, more)
	return fields("", props)
}

func pluginSchema() object {
	return fields("", object{
		"kind": setting(choice("What it is.", fleet.PluginDriver, fleet.PluginProbe)),
		"file": setting(mapOf("Executables by os/arch, such as linux/amd64.", `^[a-z0-9]+/[a-z0-9]+$`, setting(text("", pathPattern)))),
	})
}

// policySchema is that of a policy without some keys.
func policySchema(without ...string) object {
	keys := object{
		"mode":               setting(choice("observe: report only; manage (default): carry out what is published.", fleet.ModeObserve, fleet.ModeManage)),
		"activationDeadline": setting(duration("Bounds the activation, at most 1d; default 10m.")),
		"verifyDeadline":     setting(duration("Bounds the checks after it, at most 1d; default 2m.")),
		"onInconclusive":     setting(choice("What follows when checks say neither good nor bad; default rollback.", fleet.InconclusiveRollback, fleet.InconclusiveKeep)),
		"reboot":             setting(choice("What only a boot puts in place, such as a kernel: never (default) says that the host needs one; ask and auto boot it once, and keep it when it was verified. ask waits for a person at the machine; auto comes up with nobody at it.", fleet.RebootNever, fleet.RebootAsk, fleet.RebootAuto)),
		"drift":              setting(choice("What follows when somebody switched the host by hand: report (default) says so; correct activates once more what was activated last.", fleet.DriftReport, fleet.DriftCorrect)),
		"agent":              setting(choice("leaves: the generation may leave the host without an agent; stays (default): one that does is rolled back.", fleet.AgentStays, fleet.AgentLeaves)),
		"keepGenerations":    setting(object{"type": "integer", "minimum": 1, "maximum": fleet.MaxKeepGenerations, "description": "How many of the newest verified generations stay built on the host, what runs included; default 2."}),
		"keepFor":            setting(duration("For how long a verified generation stays built beyond that, at most 365d; default no longer.")),
		"console":            setting(ref("console")),
		"freshness":          setting(duration("How old the newest freshness statement may be for an activation to start, at most 7d; default none is needed.")),
		"expiry":             setting(duration("How long a generation may be started, at most 3650d; default 180d.")),
	}
	for _, key := range without {
		delete(keys, key)
	}
	return fields("", keys)
}

func sourceSchema() object {
	s := fields("Where generations come from: a bundle, a flake or a store path.", object{
		"bundle":    setting(text("Directory of a bundle; needs no Nix.", pathPattern)),
		"flake":     setting(text("A flake: a path such as ., or a URL. Default: the fleet's repository.", refPattern)),
		"attr":      setting(text("What to build of the flake; {machine} stands for the machine's name, {platform} for what it is for Nix, {user} for the user of a home profile.", attrPattern)),
		"url":       setting(text("Where hosts find the flake, where that is another place.", `^[a-z][a-z0-9+]*:[!-"$-~]+$`)),
		"build":     setting(object{"type": "boolean", "description": "Publish builds too, and signs the content of the whole closure."}),
		"storePath": setting(text("/nix/store/HASH-NAME, or a link to it.", pathPattern)),
		"driver":    setting(text("bundle, nix, nixos, darwin, home, or the name of a plugin. Default: by source, profile and class.", labelPattern)),
		"config":    setting(object{"type": "object", "description": "For the driver of a plugin: any map."}),
		"files":     setting(text("For the driver of a plugin: a directory that is shipped.", pathPattern)),
	})
	not := func(a string, others ...string) object {
		var list []any
		for _, b := range others {
			list = append(list, object{"required": []any{b}})
		}
		return object{"if": object{"required": []any{a}}, "then": object{"not": object{"anyOf": list}}}
	}
	s["allOf"] = []any{
		not("bundle", "flake", "storePath", "attr", "url", "build", "config", "files"),
		not("storePath", "flake", "attr", "url", "build", "config", "files"),
		not("flake", "config", "files"),
	}
	return s
}

func probeSchema() object {
	return fields("", object{
		"kind":     setting(choice("exec needs argv, http url, tcp address, systemd unit, plugin plugin.", fleet.ProbeExec, fleet.ProbeHTTP, fleet.ProbeTCP, fleet.ProbeSystemd, fleet.ProbePlugin)),
		"plugin":   setting(text("plugin: the name of a plugin of kind probe.", labelPattern)),
		"config":   setting(object{"type": "object", "description": "plugin: any map."}),
		"argv":     setting(list("exec: passes on exit code 0; 75 is inconclusive.", text("", ""))),
		"url":      setting(text("http: passes on a status from 200 to 299.", `^https?://`)),
		"status":   setting(object{"type": "integer", "minimum": 100, "maximum": 599, "description": "http: the status that passes."}),
		"contains": setting(text("http: what the first 64 KiB of the body must have.", "")),
		"address":  setting(text("tcp: host:port that must take a connection.", addressPattern)),
		"unit":     setting(text("systemd: unit that must be active.", `^[^-\s/][^\s/]{0,254}$`)),
		"timeout":  setting(duration("Bounds one attempt, at most 1h; default 10s.")),
		"interval": setting(duration("Pause between attempts, at most 1h; default 1s.")),
	})
}

func secretSchema() object {
	account := object{"type": []any{"string", "integer"}, "pattern": accountPattern, "description": "Name or number of an account on the host; default the agent's."}
	return fields("", object{
		"file":       setting(text("An age file that the operator can open.", pathPattern)),
		"path":       setting(text("Where it goes below the host's secrets directory; default its name.", hostPathPattern)),
		"owner":      setting(account),
		"group":      setting(account),
		"mode":       setting(object{"type": []any{"string", "integer"}, "pattern": modePattern, "minimum": 0, "maximum": 777, "description": "Octal permission bits; default 0400."}),
		"needed_for": setting(choice("When it has to be there; users: before users are made, below for-users in the secrets directory.", fleet.NeededForServices, fleet.NeededForUsers)),
		"restart":    setting(list("Units that are restarted, where they run, once its content is another one.", text("", fleet.UnitNamePattern))),
	})
}

// fields is a map with known keys. A key without a value counts as absent.
func fields(description string, props object) object {
	for key, s := range props {
		if s, ok := s.(object); ok {
			props[key] = nullable(s)
		}
	}
	return describe(object{"type": []any{"object", "null"}, "properties": props, "additionalProperties": false}, description)
}

func mapOf(description, pattern string, value object) object {
	return describe(object{
		"type": []any{"object", "null"}, "propertyNames": object{"pattern": pattern}, "additionalProperties": value,
	}, description)
}

func list(description string, item object) object {
	return describe(object{"type": []any{"array", "null"}, "items": item}, description)
}

func text(description, pattern string) object {
	s := object{"type": "string"}
	if pattern != "" {
		s["pattern"] = pattern
	}
	return describe(s, description)
}

func duration(description string) object { return text(description, durationPattern) }

func choice[T ~string](description string, values ...T) object {
	list := make([]any, len(values))
	for i, v := range values {
		list[i] = string(v)
	}
	return describe(object{"enum": list}, description)
}

func ref(name string) object { return object{"$ref": "#/$defs/" + name} }

func required(s object, keys ...string) object {
	list := make([]any, len(keys))
	for i, k := range keys {
		list[i] = k
	}
	s["required"] = list
	if types, ok := s["type"].([]any); ok && len(types) == 2 {
		s["type"] = types[0] // With nothing in it, it lacks what is required.
	}
	return s
}

func describe(s object, description string) object {
	if description != "" {
		s["description"] = description
	}
	return s
}

// setting is a value that may also stand in an override.
func setting(s object) object {
	override := object{
		"type": "object", "additionalProperties": false, "required": []any{"_type", "priority", "content"},
		"properties": object{
			"_type":    object{"const": "override"},
			"priority": object{"type": "integer", "minimum": 0, "description": "The lowest counts: a plain value has 100, mkForce 50, mkDefault 1000."},
			"content":  s,
		},
	}
	return describe(object{"anyOf": []any{s, override, object{"type": "null"}}}, descriptionOf(s))
}

func descriptionOf(s object) string {
	d, _ := s["description"].(string)
	return d
}

// nullable lets a value be absent though its key is there.
func nullable(s object) object {
	switch {
	case s["$ref"] != nil:
		return object{"anyOf": []any{s, object{"type": "null"}}}
	case s["anyOf"] != nil: // setting has it; an inventory needs none.
		return s
	case s["enum"] != nil:
		values, _ := s["enum"].([]any)
		out := maps.Clone(s)
		out["enum"] = append(append([]any{}, values...), nil)
		return out
	}
	if name, ok := s["type"].(string); ok {
		out := maps.Clone(s)
		out["type"] = []any{name, "null"}
		return out
	}
	return s
}
