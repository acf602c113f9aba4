package fleetctl

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes/nixtest"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

// clanRef is the flake of the recordings that is a clan.
const clanRef = "git+file:///repo/clan"

// clanWorld is a fleet whose machines are to come from a clan flake.
func clanWorld(t *testing.T) (w *world, file string) {
	t.Helper()
	w = newWorld(t)
	w.write("fleet: first\ncoordinator: {machine: cinnabar, address: \"127.0.0.1:1\"}\ninventory: {file: clan/inventory.json}\noperators: {cameron: {role: admin}}\n", repo.FleetFile)
	return w, filepath.Join(w.dir, "clan", "inventory.json")
}

func TestInventoryImport(t *testing.T) {
	w, file := clanWorld(t)
	n := nixtest.New(t, "import")
	w.nix = n.Program
	w.golden("inventory-import-dry-run", w.ok("inventory", "import", clanRef, "--dry-run"))
	if _, err := os.Lstat(file); !os.IsNotExist(err) {
		t.Errorf("a dry run wrote: %v", err)
	}
	w.golden("inventory-import", w.ok("inventory", "import", clanRef))
	if got := n.Calls(); got != "eval eval" {
		t.Errorf("calls of nix: %q", got)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out := w.ok("inventory", "check"); !strings.Contains(out, "10 machines, 11 instances") {
		t.Errorf("afterwards: %s", out)
	}
	if out := w.ok("inventory", "import", clanRef); !strings.Contains(out, "has it already") {
		t.Errorf("a second time: %s", out)
	}

	// What changed in the machines.
	changed := strings.Replace(string(first), `"machineClass": "darwin"`, `"machineClass": "nixos"`, 1)
	changed = strings.Replace(changed, `"hetzner"`, `"cellar"`, 1)
	var doc map[string]any
	if err := json.Unmarshal([]byte(changed), &doc); err != nil {
		t.Fatal(err)
	}
	machines := doc["machines"].(map[string]any)
	machines["granite"] = machines["pyrite"]
	delete(machines["granite"].(map[string]any), "name")
	machines["pyrite"] = nil
	delete(machines, "pyrite")
	doc["instances"] = map[string]any{}
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "evaluated.json")
	if err := os.WriteFile(other, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var res importResult
	if err := json.Unmarshal([]byte(w.ok("inventory", "import", "--from-file", other, "-o", "json")), &res); err != nil {
		t.Fatal(err)
	}
	if !res.Written || res.Machines != 10 || len(res.Changed) != 2 || len(res.Warnings) != 0 {
		t.Errorf("result %+v", res)
	}
	if diff := cmp.Diff([]fleet.MachineName{"granite"}, res.Added); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]fleet.MachineName{"pyrite"}, res.Removed); diff != "" {
		t.Error(diff)
	}
	// Back again, from standard input's place: a file that was damaged.
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, errs := w.run("inventory", "import", clanRef)
	if !strings.Contains(errs, "cannot be read, and is replaced") {
		t.Errorf("no warning in %q", errs)
	}
	if again, err := os.ReadFile(file); err != nil || string(again) != string(first) {
		t.Errorf("the same inventory became another file: %v", err)
	}
}

func TestInventoryImportRefuses(t *testing.T) {
	w, file := clanWorld(t)
	w.nix = nixtest.New(t, "no-clan").Program
	w.fails(exitError, "no such attribute", "inventory", "import", nixtest.Ref)
	w.fails(exitError, "is no reference", "inventory", "import", "x#y")
	w.fails(exitError, "malformed attribute path", "inventory", "import", clanRef, "--attr", "a..b")
	w.fails(exitUsage, "a flake and --from-file", "inventory", "import", clanRef, "--from-file", "x")
	w.fails(exitError, "no such file", "inventory", "import", "--from-file", filepath.Join(w.dir, "absent"))
	w.fails(exitError, "ends too early", "inventory", "import", "--from-file", "-") // Standard input is empty.
	for name, text := range map[string]string{
		"no machineClass": `{"machines":{"a":{"tags":[]}}}`,
		"not valid JSON":  `warning: something`,
		"larger than":     strings.Repeat(" ", inventory.MaxBytes+1),
	} {
		other := filepath.Join(t.TempDir(), "evaluated.json")
		if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		w.fails(exitError, name, "inventory", "import", "--from-file", other)
	}
	w.nix = nixtest.New(t, "import", "eval.out", strings.Repeat("[", inventory.MaxBytes+1)).Program
	w.fails(exitError, "nix printed too much", "inventory", "import", clanRef)
	if _, err := os.Lstat(file); !os.IsNotExist(err) {
		t.Errorf("something was written: %v", err)
	}
	// Where to, has to be said.
	w.write(fleetText, repo.FleetFile)
	w.fails(exitError, "names no inventory file", "inventory", "import", clanRef)
	// A fleet file that would not fit is a warning: which of the two is right, is
	// not ours to say.
	w.write("fleet: first\ninventory: {file: inventory.json}\ndisabled: [gcp-vm]\n", repo.FleetFile)
	w.nix = nixtest.New(t, "import").Program
	if _, _, errs := w.run("inventory", "import", clanRef); !strings.Contains(errs, `does not fit it: 1 problem`) || !strings.Contains(errs, "gcp-vm") {
		t.Errorf("no warning in %q", errs)
	}
}

func TestInventorySchema(t *testing.T) {
	w := &world{t: t, dir: t.TempDir(), config: t.TempDir()}
	want, err := os.ReadFile("../docs/fleet.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if got := w.ok("inventory", "schema"); got != string(want) {
		t.Error("it is not docs/fleet.schema.json")
	}
}
