package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Deployment is what a fleet file says about the deployment of one machine.
type Deployment struct {
	Source Source `json:"source"`
	// Plugins that the source and the probes need, by name.
	Plugins []Plugin `json:"plugins,omitempty"`
	// Probes by name, complete.
	Probes []fleet.Probe `json:"probes,omitempty"`
	Policy Policy        `json:"policy"`
	// Secrets by name.
	Secrets map[fleet.SecretName]Secret `json:"secrets,omitempty"`
	// Witness is host:port where the machine's agent answers other hosts; empty where it
	// does not.
	Witness string `json:"witness,omitempty"`
	// Profiles beside the system, by name.
	Profiles []Profile `json:"profiles,omitempty"`
	// Age is the recipient that the machine's secrets are encrypted to, see
	// [ParseRecipient]; empty where the fleet file leaves it to the machine's
	// key.json, see [MachineKey].
	Age string `json:"age,omitempty"`
}

// Policy is the policy of a machine's generations.
type Policy struct {
	// Policy is what gets signed; zero values mean its defaults.
	fleet.Policy
	// Expiry is how long a generation may be started; never zero.
	Expiry fleet.Duration `json:"expiry"`
}

// Secret is one secret of a machine.
type Secret struct {
	// File is the absolute path of an age file that the operator can read.
	File string `json:"file"`
	// Path on the host, below the secrets directory: slash-separated, clean.
	Path  string `json:"path"`
	Owner string `json:"owner,omitempty"`
	Group string `json:"group,omitempty"`
	// Mode has permission bits only.
	Mode uint32 `json:"mode"`
	// NeededFor is empty for services.
	NeededFor fleet.NeededFor `json:"needed_for,omitempty"`
	// RestartUnits are restarted on the host once its content changes.
	RestartUnits []string `json:"restart,omitempty"`
}

const (
	maxDeadline = day
	maxExpiry   = 10 * 365 * day
	maxProbe    = time.Hour
	maxKeep     = 365 * day
	// defaultSecretMode lets only the owner read.
	defaultSecretMode = 0o400
)

// Settings merges the deployment settings of a machine: those for all, for its
// class, for each tag that it carries, and its own. All have equal priority:
// two different values for one setting are an [ErrConflict] that names both
// places, unless _type: override says which one counts; lists are joined, maps
// merge key by key. The error has all problems; unknown machines are
// [ErrUnknown].
func (f *Fleet) Settings(name fleet.MachineName) (Deployment, error) {
	m, err := f.Machine(name)
	if err != nil {
		return Deployment{}, err
	}
	var c collector
	dep, _ := f.effective(&m, &c)
	if err := c.err(); err != nil {
		return Deployment{}, fmt.Errorf("settings of machine %s: %w", name, err)
	}
	return dep, nil
}

// effective is what Settings returns, and where the machine's witness is written.
func (f *Fleet) effective(m *Machine, c *collector) (dep Deployment, witness Place) {
	var defs []definition
	add := func(def definition) {
		if def.value != nil {
			defs = append(defs, def)
		}
	}
	add(f.settings.all)
	add(f.settings.class[string(m.Class)])
	for _, tag := range slices.Sorted(slices.Values(m.Tags)) {
		add(f.settings.tag[tag])
	}
	add(f.settings.machine[string(m.Name)])
	d := &settingsDecoder{f: f, complete: true, machine: m}
	if len(defs) == 0 {
		return d.deployment(&node{kind: kindMap, at: Place{File: f.file}}), witness
	}
	merged := merge("", defs, &d.collector)
	dep = d.deployment(merged)
	c.problems = append(c.problems, d.problems...)
	if n := merged.get("witness"); n != nil {
		witness = n.at
	}
	return dep, witness
}

// settingsDecoder reads deployment settings.
type settingsDecoder struct {
	decoder
	f *Fleet
	// complete is set once all scopes are merged: from then on what belongs
	// together has to be there.
	complete bool
	// machine is set with complete.
	machine *Machine
	// nix is the machine's platform, as Nix calls it.
	nix string
	// user is that of the home profile that is read; empty for the system's.
	user string
}

func (d *settingsDecoder) deployment(n *node) Deployment {
	dep := Deployment{Policy: Policy{Expiry: fleet.Duration(fleet.DefaultExpiry)}}
	d.nix = d.platform(n.get("platform")) // Sources need it.
	d.fields(n, "settings", map[string]func(*node){
		"platform": func(*node) {},
		"profiles": func(*node) {},
		"source":   func(n *node) { dep.Source = d.source(n) },
		"probes":   func(n *node) { dep.Probes = d.probes(n) },
		"policy":   func(n *node) { d.policy(n, &dep.Policy) },
		"secrets":  func(n *node) { dep.Secrets = d.secrets(n) },
		"plugins":  func(n *node) { dep.Plugins = d.plugins(n) },
		"witness":  func(n *node) { dep.Witness = d.witness(n) },
		"age": func(n *node) {
			dep.Age = d.text(n, "age")
			if _, err := ParseRecipient(dep.Age); n.kind == kindString && err != nil {
				d.invalid(n.at, `write the machine's public key: age1… or an ssh key`, "age is no recipient: %s", quote(n.text))
			}
		},
	})
	d.profiles(n.get("profiles"), &dep) // They need the rest.
	d.usedPlugins(n, &dep)
	return dep
}

// witness reads where a machine's agent answers others.
func (d *settingsDecoder) witness(n *node) string {
	address := d.text(n, "witness")
	if n.kind != kindString {
		return address
	}
	if rest := strings.ReplaceAll(address, attrMachine, ""); strings.ContainsAny(rest, "{}") {
		d.invalid(n.at, "only "+attrMachine+", for the machine's name, may stand in it", "witness has a brace that stands for nothing: %s", quote(address))
		return address
	}
	if d.machine != nil {
		address = strings.ReplaceAll(address, attrMachine, string(d.machine.Name))
	}
	switch {
	case !fleet.IsHostPort(address):
		d.invalid(n.at, witnessHint, "witness is %s", quote(n.text))
	case address == d.f.coordinator.Address:
		d.add(n.at, ErrConflict, "witness is the coordinator's own address, "+quote(address), "a witness is another server, at a port of its own: "+witnessHint)
	}
	return address
}

// witnessHint is how an address of each machine is written.
const witnessHint = `write host:port, such as "{machine}.zt:7444"`

// hostPolicy are the keys of a policy that are about the host, whatever the profile.
var hostPolicy = []string{"reboot", "agent"}

// homePolicy reads the policy of a profile beside the system.
func (d *settingsDecoder) homePolicy(n *node, name fleet.ProfileName, p *Policy) {
	for _, key := range hostPolicy {
		if v := n.get(key); v != nil && v.kind != kindNull {
			d.invalid(v.at, "write it in the machine's policy", "policy.%s of profile %s is about the host", key, name)
		}
	}
	d.policy(n, p)
}

func (d *settingsDecoder) policy(n *node, p *Policy) {
	deadline := func(to *fleet.Duration, what string, most time.Duration) func(*node) {
		return func(n *node) { *to = fleet.Duration(d.duration(n, what, most)) }
	}
	d.fields(n, "policy", map[string]func(*node){
		"mode": func(n *node) {
			p.Mode = enum(&d.decoder, n, "policy.mode", fleet.ModeObserve, fleet.ModeManage)
		},
		"activationDeadline": deadline(&p.ActivationDeadline, "policy.activationDeadline", maxDeadline),
		"verifyDeadline":     deadline(&p.VerifyDeadline, "policy.verifyDeadline", maxDeadline),
		"onInconclusive": func(n *node) {
			p.OnInconclusive = enum(&d.decoder, n, "policy.onInconclusive", fleet.InconclusiveRollback, fleet.InconclusiveKeep)
		},
		"reboot": func(n *node) {
			p.Reboot = enum(&d.decoder, n, "policy.reboot", fleet.RebootNever, fleet.RebootAsk, fleet.RebootAuto)
		},
		"drift": func(n *node) {
			p.Drift = enum(&d.decoder, n, "policy.drift", fleet.DriftReport, fleet.DriftCorrect)
		},
		"agent": func(n *node) {
			p.Agent = enum(&d.decoder, n, "policy.agent", fleet.AgentStays, fleet.AgentLeaves)
		},
		"keepGenerations": func(n *node) {
			p.KeepGenerations = uint32(d.whole(n, "policy.keepGenerations", 1, fleet.MaxKeepGenerations)) //nolint:gosec // In that range.
		},
		"console":   func(n *node) { d.console(n, &p.Console) },
		"keepFor":   deadline(&p.KeepFor, "policy.keepFor", maxKeep),
		"freshness": deadline(&p.Freshness, "policy.freshness", fleet.MaxFreshness),
		"expiry":    deadline(&p.Expiry, "policy.expiry", maxExpiry),
	})
}

func (d *settingsDecoder) secrets(n *node) map[fleet.SecretName]Secret {
	if !d.mapping(n, "secrets") {
		return nil
	}
	secrets := make(map[fleet.SecretName]Secret, len(n.entries))
	for _, e := range n.entries {
		name, ok := parsed(&d.decoder, e.at, e.key, fleet.ParseSecretName)
		if !ok {
			continue
		}
		what := "secret " + e.key
		s := Secret{Path: e.key, Mode: defaultSecretMode}
		d.fields(e.value, what, map[string]func(*node){
			"file": func(n *node) {
				if p := d.path(n, what+": file"); p != "" {
					s.File = d.f.resolve(p)
				}
			},
			"path":  func(n *node) { s.Path = d.hostPath(n, what+": path") },
			"owner": func(n *node) { s.Owner = d.account(n, what+": owner") },
			"group": func(n *node) { s.Group = d.account(n, what+": group") },
			"mode":  func(n *node) { s.Mode = d.mode(n, what+": mode") },
			"needed_for": func(n *node) {
				if s.NeededFor = enum(&d.decoder, n, what+": needed_for", fleet.NeededForServices, fleet.NeededForUsers); s.NeededFor == fleet.NeededForServices {
					s.NeededFor = ""
				}
			},
			"restart": func(n *node) { s.RestartUnits = d.restartUnits(n, what+": restart") },
		})
		if s.NeededFor == fleet.NeededForUsers && s.Owner+s.Group != "" {
			d.invalid(e.at, "leave them out: it is root's", "%s has an owner or a group, and is needed before there are users", what)
		}
		if d.complete && e.value.get("file") == nil {
			d.invalid(e.at, "add file: PATH, an age file that the operator can read", "%s has no file", what)
		}
		secrets[name] = s
	}
	if len(secrets) > fleet.MaxSecrets {
		d.invalid(n.at, "put several values in one secret", "%d secrets, at most %d", len(secrets), fleet.MaxSecrets)
	}
	d.apart(n, secrets)
	return secrets
}

// restartUnits reads the units that a secret restarts.
func (d *settingsDecoder) restartUnits(n *node, what string) (units []string) {
	for _, item := range d.list(n, what) {
		switch u := d.text(item, what); {
		case u != item.text: // Told already.
		case !fleet.IsUnitName(u):
			d.invalid(item.at, "write a whole name, such as nginx.service", "%s has %s", what, item.short())
		case !slices.Contains(units, u):
			units = append(units, u)
		}
	}
	if len(units) > fleet.MaxRestartUnits {
		d.invalid(n.at, "have one unit restart the others", "%s has %d units, at most %d", what, len(units), fleet.MaxRestartUnits)
	}
	return units
}

// apart refuses secrets whose paths are the same, or one below the other.
func (d *settingsDecoder) apart(n *node, secrets map[fleet.SecretName]Secret) {
	at := map[fleet.SecretName]Place{}
	for _, e := range n.entries {
		at[fleet.SecretName(e.key)] = e.at
	}
	byPath := map[string]fleet.SecretName{}
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		p := secrets[name].Path
		if other, taken := byPath[p]; taken && p != "" {
			d.add(at[name], ErrConflict, fmt.Sprintf("secrets %s and %s have the same path %s", other, name, quote(p)), "give one of them another path")
		}
		byPath[p] = name
	}
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		for dir := path.Dir(secrets[name].Path); dir != "." && dir != "/"; dir = path.Dir(dir) {
			if other, taken := byPath[dir]; taken {
				d.add(at[name], ErrConflict, fmt.Sprintf("secret %s has the path %s, in which secret %s needs a directory", other, quote(dir), name), "give one of them another path")
			}
		}
	}
}

// hostPath reads a path below the host's secrets directory.
func (d *settingsDecoder) hostPath(n *node, what string) string {
	s := d.text(n, what)
	if s != n.text {
		return ""
	}
	if s == "" || len(s) > 255 || path.IsAbs(s) || path.Clean(s) != s || s == "." || s == ".." || strings.HasPrefix(s, "../") || strings.ContainsAny(s, "\\\n\r\t") {
		d.invalid(n.at, "write a relative path without . and .., below the secrets directory", "%s is %s", what, quote(s))
		return ""
	}
	return s
}

// account reads the name or number of a user or group on the host.
func (d *settingsDecoder) account(n *node, what string) string {
	s := n.text
	if n.kind != kindString && n.kind != kindInt || s == "" || len(s) > 64 || s[0] == '-' || strings.ContainsAny(s, "/:\x00 \t\n\r") {
		d.invalid(n.at, "write the name or number of an account on the host", "%s is %s", what, n.short())
		return ""
	}
	return s
}

// mode reads permission bits, which are octal whether in quotes or not.
func (d *settingsDecoder) mode(n *node, what string) uint32 {
	v, err := strconv.ParseUint(strings.TrimPrefix(cmp.Or(n.text, "x"), "0o"), 8, 32)
	if n.kind != kindString && n.kind != kindInt || err != nil || v > 0o777 {
		d.invalid(n.at, `write octal permission bits, such as "0440"`, "%s is %s", what, n.short())
		return defaultSecretMode
	}
	return uint32(v)
}
