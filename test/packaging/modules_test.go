package packaging

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/agent"
	"github.com/cameronraysmith/fleet/coordinator"
	"github.com/cameronraysmith/fleet/pkg/service/servicetest"
)

// evaluated is what the modules come to, as far as tests look at it.
type evaluated struct {
	Agent       nixos   `json:"nixos-agent"`
	AgentAll    nixos   `json:"nixos-agent-everything"`
	Coord       nixos   `json:"nixos-coordinator"`
	CoordAll    nixos   `json:"nixos-coordinator-everything"`
	Nothing     nixos   `json:"nixos-nothing"`
	Secret      nixos   `json:"refused-secret-in-store"`
	Path        nixos   `json:"refused-path-in-store"`
	Env         nixos   `json:"refused-env"`
	Freshness   darwin  `json:"refused-half-freshness"`
	Darwin      darwin  `json:"darwin-agent"`
	DarwinAll   darwin  `json:"darwin-agent-everything"`
	DarwinNone  darwin  `json:"darwin-nothing"`
	AgentOwns   nixos   `json:"nixos-agent-owns-secrets"`
	ClosureOwns nixos   `json:"nixos-closure-owns-secrets"`
	TwoOwners   darwin  `json:"refused-two-owners-of-secrets"`
	Options     options `json:"nixos-options"`
	DarwinOptns options `json:"darwin-options"`
	Package     struct {
		VendorHash string `json:"vendorHash"`
	} `json:"package"`
}

type nixos struct {
	Services   map[string]module `json:"services"`
	Activation map[string]struct {
		Deps []string `json:"deps"`
		Text string   `json:"text"`
	} `json:"activation"`
	Firewall struct {
		Allowed    []int `json:"allowedTCPPorts"`
		Interfaces map[string]struct {
			Allowed []int `json:"allowedTCPPorts"`
		} `json:"interfaces"`
	} `json:"firewall"`
	Failed []string `json:"failed"`
}

type darwin struct {
	Daemons map[string]struct {
		Command string         `json:"command"`
		Config  map[string]any `json:"serviceConfig"`
	} `json:"daemons"`
	Activation string   `json:"activation"`
	Failed     []string `json:"failed"`
}

type options map[string]struct {
	Description string `json:"description"`
	Type        string `json:"type"`
}

func load(t *testing.T) (e evaluated) {
	t.Helper()
	data, err := os.ReadFile(EvaluatedFile)
	if err != nil {
		t.Fatal(err)
	}
	var file Evaluated
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(file.Cases, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestEvaluatedIsOfTheseFiles: without a Nix, what is known of the modules is known
// of the files that make lab evaluated.
func TestEvaluatedIsOfTheseFiles(t *testing.T) {
	data, err := os.ReadFile(EvaluatedFile)
	if err != nil {
		t.Fatal(err)
	}
	var file Evaluated
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	of, err := Inputs(Root)
	if err != nil {
		t.Fatal(err)
	}
	for name, sum := range of {
		if file.Of[name] != sum {
			t.Errorf("%s was changed since the modules were evaluated: make lab LABFLAGS=-modules evaluates them and writes %s", name, EvaluatedFile)
		}
	}
	for name := range file.Of {
		if of[name] == "" {
			t.Errorf("%s is not there any more: make lab LABFLAGS=-modules", name)
		}
	}
}

// TestSecretsBeforeUsers: passwords are there when NixOS makes the users whose they are, on
// a host that has enrolled once, and whatever becomes of it.
func TestSecretsBeforeUsers(t *testing.T) {
	e := load(t)
	script := e.Agent.Activation["fleetSecretsForUsers"].Text
	if !slices.Contains(e.Agent.Activation["users"].Deps, "fleetSecretsForUsers") ||
		!strings.Contains(script, "fleet-agent restore-secrets") || !strings.Contains(script, "--early ||") {
		t.Errorf("activation scripts: %+v", e.Agent.Activation)
	}
	if len(e.Nothing.Activation) != 0 || len(e.Coord.Activation) != 0 {
		t.Errorf("without an agent: %+v, %+v", e.Nothing.Activation, e.Coord.Activation)
	}
}

// TestOneOwnerOfSecrets: where the agent is to install /run/secrets, sops-nix does not, and
// where the closure is, nothing of it is changed.
func TestOneOwnerOfSecrets(t *testing.T) {
	e := load(t)
	for _, script := range []string{"setupSecrets", "setupSecretsForUsers"} {
		if s, ok := e.AgentOwns.Activation[script]; !ok || s.Text != "" {
			t.Errorf("%s of an agent's: %+v", script, s)
		}
		if s := e.ClosureOwns.Activation[script]; s.Text != "install" {
			t.Errorf("%s of a closure's: %+v", script, s)
		}
	}
	const unit = "sops-install-secrets"
	if m := e.AgentOwns.Services[unit]; m.Enable == nil || *m.Enable {
		t.Errorf("its unit is %+v", m)
	}
	if m := e.ClosureOwns.Services[unit]; m.Enable != nil {
		t.Errorf("the unit of a closure's is %+v", m)
	}
	for owner, of := range map[string]nixos{"agent": e.AgentOwns, "closure": e.ClosureOwns} {
		for _, service := range []string{"fleet-agent", "fleet-secrets"} {
			if start := of.Services[service].settings()["Service.ExecStart"]; len(start) != 1 || !strings.Contains(start[0], " --run-secrets "+owner) {
				t.Errorf("%s starts %q", service, start)
			}
		}
	}
	if len(e.TwoOwners.Failed) != 1 || !strings.Contains(e.TwoOwners.Failed[0], "leave sops.secrets empty") {
		t.Errorf("on a Mac: %q", e.TwoOwners.Failed)
	}
}

// TestModulesAreAsTheUnits: what packaging/systemd says, the NixOS module says, and
// the other way round; and what differs is listed here.
func TestModulesAreAsTheUnits(t *testing.T) {
	e := load(t)
	for _, c := range []struct {
		unit string
		of   nixos
	}{
		{"fleet-agent", e.Agent},
		{"fleet-dead-man", e.Agent},
		{"fleet-secrets", e.Agent},
		{"fleet-coordinator", e.Coord},
	} {
		text, err := os.ReadFile(filepath.Join(Root, "packaging/systemd", c.unit+".service"))
		if err != nil {
			t.Fatal(err)
		}
		want, err := parseUnit(string(text))
		if err != nil {
			t.Fatalf("%s: %v", c.unit, err)
		}
		got := c.of.Services[c.unit].settings()
		for _, s := range []settings{want, got} {
			start := s["Service.ExecStart"]
			if len(start) != 1 {
				t.Fatalf("%s: ExecStart is %q", c.unit, start)
			}
			program, arguments, _ := strings.Cut(start[0], " ")
			start[0] = filepath.Base(program) + " " + arguments
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if asSystemd(want[name]) != asSystemd(got[name]) {
				t.Errorf("%s: %s is %q in packaging/systemd and %q in packaging/nix/nixos.nix", c.unit, name, want[name], got[name])
			}
		}
		for _, name := range slices.Sorted(maps.Keys(got)) {
			if _, ok := want[name]; !ok {
				t.Errorf("%s: %s is %q in packaging/nix/nixos.nix, and nothing in packaging/systemd", c.unit, name, got[name])
			}
		}
	}
	a := e.Agent.Services["fleet-agent"]
	if a.RestartIfChanged == nil || *a.RestartIfChanged || a.StopIfChanged == nil || *a.StopIfChanged {
		t.Error("a switch, which the agent itself makes, would stop the agent")
	}
}

// TestPorts: the mesh's interface is the one place where a port is opened.
func TestPorts(t *testing.T) {
	e := load(t)
	for name, of := range map[string]nixos{"nothing": e.Nothing, "agent": e.Agent, "coordinator": e.Coord} {
		if len(of.Firewall.Allowed)+len(of.Firewall.Interfaces) > 0 {
			t.Errorf("%s opens %+v", name, of.Firewall)
		}
	}
	all := e.CoordAll.Firewall
	if len(all.Allowed) > 0 || len(all.Interfaces) != 1 || !slices.Equal(all.Interfaces["ztmesh0"].Allowed, []int{8443}) {
		t.Errorf("with a mesh: %+v", all)
	}
	witness := e.AgentAll.Firewall
	if len(witness.Allowed) > 0 || len(witness.Interfaces) != 1 || !slices.Equal(witness.Interfaces["ztmesh0"].Allowed, []int{7444}) {
		t.Errorf("of a witness: %+v", witness)
	}
	if n := len(e.Nothing.Services) + len(e.DarwinNone.Daemons) + len(e.DarwinNone.Activation); n > 0 {
		t.Errorf("with nothing enabled there is %+v, %+v", e.Nothing, e.DarwinNone)
	}
}

// TestRefused: what would be a mistake is an assertion of the module's.
func TestRefused(t *testing.T) {
	e := load(t)
	for says, failed := range map[string][]string{
		"/nix/store/join is a secret":        e.Secret.Failed,
		"/nix/store/key is a secret":         e.Secret.Failed,
		"a directory of the Nix store":       e.Path.Failed,
		"neither empty nor has it a =":       e.Env.Failed,
		"keyFile and repository go together": e.Freshness.Failed,
	} {
		if !slices.ContainsFunc(failed, func(f string) bool { return strings.Contains(f, says) }) {
			t.Errorf("%q is not said: %q", says, failed)
		}
	}
	for name, failed := range map[string][]string{
		"agent": e.AgentAll.Failed, "coordinator": e.CoordAll.Failed, "darwin": e.DarwinAll.Failed, "of the secrets": e.Secret.Failed[2:],
	} {
		if len(failed) > 0 {
			t.Errorf("%s: refused: %q", name, failed)
		}
	}
}

// TestProgramsTakeTheArguments gives the programs what the modules start them with,
// and the help in place of running.
func TestProgramsTakeTheArguments(t *testing.T) {
	e := load(t)
	agentMain := func(args []string) (int, string) {
		var out bytes.Buffer
		return agent.Main(args, strings.NewReader(""), &out, &out), out.String()
	}
	coordinatorMain := func(args []string) (int, string) {
		var out bytes.Buffer
		return coordinator.Main(args, &out, &out), out.String()
	}
	all := map[string]int{}
	for _, c := range []struct {
		name, command string
		split         func(string) ([]string, error)
		main          func([]string) (int, string)
	}{
		{"agent", execStart(e.Agent, "fleet-agent"), splitSystemd, agentMain},
		{"agent with everything", execStart(e.AgentAll, "fleet-agent"), splitSystemd, agentMain},
		{"agent on darwin", e.Darwin.Daemons["fleet-agent"].Command, splitShell, agentMain},
		{"agent on darwin with everything", e.DarwinAll.Daemons["fleet-agent"].Command, splitShell, agentMain},
		{"coordinator", execStart(e.Coord, "fleet-coordinator"), splitSystemd, coordinatorMain},
		{"coordinator with everything", execStart(e.CoordAll, "fleet-coordinator"), splitSystemd, coordinatorMain},
	} {
		args, err := c.split(c.command)
		if err != nil || len(args) < 2 {
			t.Errorf("%s: %v: %s", c.name, err, c.command)
			continue
		}
		code, out := c.main(append(slices.Clone(args[1:]), "--help"))
		if code != 0 || !strings.Contains(out, "Usage:") {
			t.Errorf("%s: %q: %d\n%s", c.name, args, code, out)
		}
		if strings.HasPrefix(c.name, "agent") && strings.HasSuffix(c.name, "everything") {
			if i := slices.Index(args, "--env"); i < 0 || args[i+1] != `GREETING=it's 100% "$HOME"` {
				t.Errorf("%s: the environment is not what was configured: %q", c.name, args)
			}
			if i := slices.Index(args, "--join-file"); i < 0 || args[i+1] != "/run/secrets/join string" {
				t.Errorf("%s: the join file is not what was configured: %q", c.name, args)
			}
		}
		for _, a := range args {
			if strings.HasPrefix(a, "--") {
				all[a]++
			}
		}
	}
	// Every option of the modules became an argument somewhere.
	for _, flag := range []string{
		"--join-file", "--coordinator", "--ca-pin", "--root-pin", "--observe", "--age-identity", "--poll-interval", "--dead-man-margin", "--env", "--path", "--nix-max-jobs",
		"--freshness-key", "--freshness-repository", "--freshness-interval", "--skip-check", "--log-format", "--log-level",
		"--kit", "--kit-key", "--listen", "--state-dir", "--max-blob-bytes", "--min-free-bytes",
	} {
		if all[flag] == 0 {
			t.Errorf("no option leads to %s", flag)
		}
	}
}

// TestDeadManDaemon: what goes on with dead-man switches after a boot of a Mac is the same
// by the module and by install.
func TestDeadManDaemon(t *testing.T) {
	installed, err := os.ReadFile(filepath.Join(Root, "agent/units/fleet-dead-man.plist"))
	if err != nil {
		t.Fatal(err)
	}
	list := servicetest.PropertyList(t, strings.ReplaceAll(string(installed), "@STATE@", "/var/lib/fleet/agent"))
	daemon := load(t).Darwin.Daemons["fleet-dead-man"]
	args, err := splitShell(daemon.Command)
	if err != nil {
		t.Fatal(err)
	}
	var byModule []any
	for _, a := range args {
		byModule = append(byModule, a)
	}
	if d := cmp.Diff(list["ProgramArguments"], any(byModule)); d != "" {
		t.Errorf("(-install +module):\n%s", d)
	}
	for _, key := range []string{"RunAtLoad", "KeepAlive", "AbandonProcessGroup"} {
		if d := cmp.Diff(list[key], daemon.Config[key]); d != "" {
			t.Errorf("%s (-install +module):\n%s", key, d)
		}
	}
}

func execStart(of nixos, service string) string {
	return fmt.Sprint(of.Services[service].Service["ExecStart"])
}

// TestOptionsAreDescribed: a user reads what each is for.
func TestOptionsAreDescribed(t *testing.T) {
	e := load(t)
	for name, o := range e.Options {
		if len(o.Description) < 15 || o.Type == "" {
			t.Errorf("%s is described as %q, of type %q", name, o.Description, o.Type)
		}
	}
	for _, name := range []string{"agent.enable", "agent.joinFile", "agent.caPins", "agent.rootPin", "agent.observe", "agent.freshness.keyFile", "coordinator.meshInterface", "package"} {
		if _, ok := e.Options["services.fleet."+name]; !ok {
			t.Errorf("there is no option %s", name)
		}
	}
	for name := range e.Options {
		if _, ok := e.DarwinOptns[name]; ok == strings.HasPrefix(name, "services.fleet.coordinator.") {
			t.Errorf("on darwin, %s is there: %t", name, ok)
		}
	}
}
