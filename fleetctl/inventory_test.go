package fleetctl

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/ui"
)

const testInventory = `{
  "machines": {
    "cinnabar": {"machineClass": "nixos", "tags": ["all", "nixos"]},
    "electrum": {"machineClass": "nixos", "tags": ["all", "nixos"]}
  },
  "instances": {"sshd": {"roles": {"server": {
    "tags": {"nixos": {}, "ssh": {}}
  }}}}
}
`

const testFleetFile = `fleet: first
coordinator: {machine: cinnabar, address: "cinnabar.zt:7443"}
inventory: {file: inventory.json}
machines:
  box1: {tags: [web]}
  box2: {tags: [web]}
disabled: [electrum]
settings:
  all:
    policy: {verifyDeadline: 90s, activationDeadline: 1h, expiry: 30d}
  tag:
    web:
      source: {bundle: bundles/web}
      probes:
        site: {kind: http, url: "http://127.0.0.1:8080/"}
  class:
    nixos:
      policy: {mode: observe, onInconclusive: keep}
  machine:
    box1:
      secrets: {token: {file: token.age}, cert: {file: cert.age}}
`

// inventoryCommand runs "fleetctl inventory" with a fleet of its own.
func inventoryCommand(t *testing.T, fleetFile string, format ui.Format, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{"fleet.yaml": fleetFile, "inventory.json": testInventory} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var out, errs bytes.Buffer
	o := &options{Dir: ".", Output: string(format), Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }}
	cmd := newInventoryCommand(o)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(context.Background())
	return strings.ReplaceAll(out.String(), dir, "DIR"), strings.ReplaceAll(errs.String(), dir, "DIR"), err
}

func TestInventoryShow(t *testing.T) {
	got, _, err := inventoryCommand(t, testFleetFile, ui.FormatTable, "show")
	if err != nil {
		t.Fatal(err)
	}
	const want = `
MACHINE   CLASS  TAGS           ENABLED   SOURCE                POLICY                                                             PROBES  SECRETS
box1      linux  web,linux,all  yes       bundle ./bundles/web  manage, activation 1h, verify 1m30s, expiry 30d                    site    cert,token
box2      linux  web,linux,all  yes       bundle ./bundles/web  manage, activation 1h, verify 1m30s, expiry 30d                    site    -
cinnabar  nixos  all,nixos      yes       -                     observe, activation 1h, verify 1m30s, inconclusive keep, expiry 30d  -       -
electrum  nixos  all,nixos      disabled  -                     observe, activation 1h, verify 1m30s, inconclusive keep, expiry 30d  -       -
`
	if diff := cmp.Diff(columns(want), columns(got)); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, got)
	}
}

// columns takes tables apart, so that the width of columns does not matter.
func columns(table string) [][]string {
	var rows [][]string
	for line := range strings.Lines(strings.TrimSpace(table)) {
		var row []string
		for cell := range strings.SplitSeq(line, "  ") {
			if cell = strings.TrimSpace(cell); cell != "" {
				row = append(row, cell)
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func TestInventoryShowJSON(t *testing.T) {
	got, _, err := inventoryCommand(t, testFleetFile, ui.FormatJSON, "show", "fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var view inventoryView
	if err := json.Unmarshal([]byte(got), &view); err != nil {
		t.Fatal(err)
	}
	if view.Fleet != "first" || len(view.Machines) != 4 || len(view.Instances) != 1 {
		t.Errorf("%s", got)
	}
	if d := view.Machines[0].Deployment; d == nil || d.Secrets["token"].Mode != 0o400 || len(d.Probes) != 1 {
		t.Errorf("deployment of box1: %v", d)
	}
}

func TestInventoryShowBareInventory(t *testing.T) {
	got, _, err := inventoryCommand(t, testFleetFile, ui.FormatTable, "show", "inventory.json")
	if err != nil {
		t.Fatal(err)
	}
	if rows := columns(got); len(rows) != 3 || rows[1][0] != "cinnabar" || rows[1][4] != "-" {
		t.Errorf("%s", got)
	}
}

func TestInventoryCheck(t *testing.T) {
	got, warnings, err := inventoryCommand(t, testFleetFile, ui.FormatTable, "check")
	if err != nil {
		t.Fatal(err)
	}
	if want := "ok: 4 machines (1 disabled), 1 instance\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if want := "inventory.json:7: role server of instance sshd: no machine has the tag \"ssh\": known are all, nixos\n"; !strings.HasSuffix(warnings, want) {
		t.Errorf("got %q, want …%q", warnings, want)
	}
}

func TestInventoryCheckNamesEveryProblem(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{
			"unknown names",
			strings.NewReplacer("nixos:", "nixoss:", "[electrum]", "[electron]").Replace(testFleetFile),
			`fleet.yaml:7: disabled: unknown machine "electron": did you mean "electrum"?
fleet.yaml:17: settings.class: unknown class "nixoss": did you mean "nixos"?
`,
		},
		{
			"conflict",
			testFleetFile + "      policy: {verifyDeadline: 10s}\n",
			"fleet.yaml:22: policy.verifyDeadline is \"10s\" here (machine box1) and \"90s\" at fleet.yaml:10 (all): " +
				"all scopes have equal priority: remove one, or write {_type: override, priority: 50, content: …} for the one that counts\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _, err := inventoryCommand(t, c.file, ui.FormatTable, "check", "fleet.yaml")
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if err == nil || exitCode(err) != exitError || ui.HintOf(err) == "" {
				t.Errorf("error %v", err)
			}
			text, _, err := inventoryCommand(t, c.file, ui.FormatJSON, "check", "fleet.yaml")
			var v inventoryVerdict
			if jsonErr := json.Unmarshal([]byte(text), &v); jsonErr != nil || err == nil {
				t.Fatalf("%v, %v", jsonErr, err)
			}
			if v.OK || len(v.Problems) != strings.Count(c.want, "\n") || v.Problems[0].Line == 0 || v.Problems[0].Message == "" {
				t.Errorf("%s", text)
			}
		})
	}
}

// A conflict of one machine hides no other machine.
func TestInventoryShowWithConflict(t *testing.T) {
	got, _, err := inventoryCommand(t, testFleetFile+"      policy: {verifyDeadline: 10s}\n", ui.FormatTable, "show")
	if err != nil {
		t.Fatal(err)
	}
	rows := columns(got)
	if len(rows) != 5 || rows[1][4] != "conflict: see fleetctl inventory check" || rows[2][4] != "bundle ./bundles/web" {
		t.Errorf("%s", got)
	}
}

func TestInventoryFileAbsent(t *testing.T) {
	for _, verb := range []string{"show", "check"} {
		if out, _, err := inventoryCommand(t, testFleetFile, ui.FormatTable, verb, "absent.yaml"); err == nil || out != "" {
			t.Errorf("%s: %q, %v", verb, out, err)
		}
	}
}
