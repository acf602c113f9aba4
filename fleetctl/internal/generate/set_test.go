package generate

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

const twoMachines = `fleet: first
machines:
  box1: {class: nixos, tags: [web]}
  box2: {class: linux}
vars:
  generators:
`

// resolve reads declarations, one a line.
func resolve(t *testing.T, lines ...string) (*Set, error) {
	t.Helper()
	text := twoMachines
	for _, l := range lines {
		text += "    " + l + "\n"
	}
	f, err := inventory.Parse("fleet.yaml", []byte(text), "/fleet", os.ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	return Resolve(f, nil)
}

func mustResolve(t *testing.T, lines ...string) *Set {
	t.Helper()
	s, err := resolve(t, lines...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func namesOf(list []*Generator) string {
	var names []string
	for _, g := range list {
		names = append(names, g.String())
	}
	return strings.Join(names, " ")
}

func TestResolve(t *testing.T) {
	s := mustResolve(t,
		`openssh: {kind: ssh-host-key}`,
		`openssh-ca: {kind: ssh-ca, share: true}`,
		`openssh-cert: {kind: ssh-host-certificate, tags: [web], settings: {domains: [zt]}}`,
		`"zerotier-identity-{machine}": {kind: zerotier-identity, share: true}`,
		`zerotier-network-zt: {kind: zerotier-network, share: true, machines: [box2], settings: {controller: box1}}`,
		`token: {kind: token, share: true, files: {token: {deploy: false, neededFor: users, owner: web, group: www, mode: "0440", restartUnits: [a.service]}}}`,
	)
	want := "shared/openssh-ca shared/token shared/zerotier-identity-box1 shared/zerotier-identity-box2 shared/zerotier-network-zt " +
		"per-machine/box1/openssh per-machine/box1/openssh-cert per-machine/box2/openssh"
	if got := namesOf(s.All()); got != want {
		t.Errorf("all: %s", got)
	}
	if got := namesOf(s.Of("box2")); got != "shared/openssh-ca shared/token shared/zerotier-identity-box2 shared/zerotier-network-zt per-machine/box2/openssh" {
		t.Errorf("of box2: %s", got)
	}
	var order []string
	for _, round := range rounds(s.All()) {
		order = append(order, namesOf(round))
	}
	if got := strings.Join(order, "\n"); got != "shared/openssh-ca shared/token shared/zerotier-identity-box1 shared/zerotier-identity-box2 per-machine/box1/openssh per-machine/box2/openssh\n"+
		"shared/zerotier-network-zt per-machine/box1/openssh-cert" {
		t.Errorf("rounds:\n%s", got)
	}
	f, _ := s.all[1].File("token")
	if f.Deploy || f.NeededFor != generator.ForUsers || f.Owner != "web" || f.Group != "www" || f.Mode != 0o440 || !slices.Equal(f.RestartUnits, []string{"a.service"}) {
		t.Errorf("token: %+v", f)
	}
	if s.all[6].Hash == "" || s.all[5].Hash != "" {
		t.Errorf("hashes %q, %q", s.all[6].Hash, s.all[5].Hash)
	}
}

func TestBadDeclarations(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  string
	}{
		{[]string{`a: {kind: tokn}`}, "fleet.yaml:7: generator a: no such generator is built in"},
		{[]string{`a: {kind: token, settings: {bites: 3}}`}, `fleet.yaml:7: generator a: the generator token: its settings:`},
		{[]string{`a: {kind: token, settings: {bytes: 3}}`}, "bytes: 3: want 16 to 1024"},
		{[]string{`a: {kind: ssh-host-key, share: true}`}, "can't be shared"},
		{[]string{`a: {kind: token, files: {tokn: {owner: web}}}`}, "generator a makes no file tokn: it makes token"},
		{[]string{`a: {kind: wireguard-key, files: {publickey: {owner: web}}}`}, "is public"},
		{[]string{`c: {kind: ssh-host-certificate, settings: {domains: [zt]}}`}, "generator c reads the generator openssh, which is not declared: declare it"},
		{
			[]string{`openssh: {kind: ssh-host-key, machines: [box1]}`, `openssh-ca: {kind: ssh-ca, share: true}`, `c: {kind: ssh-host-certificate, settings: {domains: [zt]}}`},
			"fleet.yaml:9: generator c reads openssh, which machine box2 does not have",
		},
		{[]string{`step-ca: {kind: tls-ca}`, `cert: {kind: tls-certificate, share: true, settings: {names: [a.zt]}}`}, "generator cert is shared, and reads step-ca, of which each machine has its own"},
		{[]string{`step-ca: {kind: tls-certificate, settings: {names: [a.zt]}}`}, "generators read each other: step-ca, which reads step-ca"},
		{[]string{`a: {kind: tls-certificate, settings: {names: [a.zt], ca: b}}`, `b: {kind: tls-certificate, settings: {names: [a.zt], ca: a}}`}, "generators read each other: a, which reads b, which reads a"},
		{[]string{`step-ca: {kind: token}`, `a: {kind: tls-certificate, settings: {names: [a.zt]}}`}, "reads the file ca.key of step-ca, which is of kind token"},
		{[]string{`"a-{machine}": {kind: token}`, `a-box1: {kind: token, share: true}`}, "is declared at fleet.yaml:"},
		{[]string{`"a-{machine}": {kind: token, share: true}`, `a-box1: {kind: token, share: true, machines: [box2]}`}, "is declared at fleet.yaml:"},
		{[]string{`a: {script: ":"}`}, "fleet.yaml:7: generator a has a script and makes no file"},
		{[]string{`a: {script: ":", files: {x: {}}, dependencies: [b]}`}, "generator a reads the generator b, which is not declared"},
		{[]string{`a: {script: ":", files: {x: {}}, dependencies: [b]}`, `b: {script: ":", files: {x: {}}, dependencies: [a]}`}, "generators read each other: a, which reads b, which reads a"},
		{[]string{`a: {script: ":", files: {x: {secret: false, owner: web}}}`}, "is public"},
		{[]string{`a: {kind: token, files: {token: {secret: false}}}`}, "which of its files are secret"},
		{[]string{`a: {script: ":", share: true, files: {x: {}}, dependencies: ["b-{machine}"]}`}, "has {machine} in its name"},
	} {
		_, err := resolve(t, c.lines...)
		if err == nil || !strings.Contains(err.Error(), c.want) || inventory.ProblemsOf(err) == nil {
			t.Errorf("%q:\ngot  %v\nwant %s", c.lines, err, c.want)
		}
	}
	// All at once.
	if _, err := resolve(t, `a: {kind: tokn}`, `b: {kind: tokn}`); len(inventory.ProblemsOf(err)) != 2 {
		t.Errorf("two mistakes: %v", err)
	}
}

// TestValidationHash: clan's, of real trees.
func TestValidationHash(t *testing.T) {
	got, err := validationHash(map[string]any{"name": "cinnabar", "domains": map[string]any{"zt": "zt"}})
	if err != nil || !strings.HasPrefix(got, "b4efca7b8f21") {
		t.Errorf("%s, %v", got, err)
	}
	for text, want := range map[string]string{`a\u2028b`: "a\u2028b", `a\\u2028b`: `a\\u2028b`, `a\"\u2029`: "a\\\"\u2029", `\`: `\`} {
		if got := string(unescape([]byte(text))); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}
