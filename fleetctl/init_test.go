package fleetctl

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/fleetctl/internal/bootstrap"
	"github.com/cameronraysmith/fleet/fleetctl/internal/identity"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// emptyWorld has an operator and no fleet.
func emptyWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, dir: filepath.Join(t.TempDir(), "first"), config: t.TempDir(), clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
}

func (w *world) initArgs(more ...string) []string {
	return append([]string{"init", w.dir, "--fleet", "first", "--coordinator-machine", "cinnabar", "--address", "cinnabar.zt:7443", "--operator", "cameron"}, more...)
}

func TestInit(t *testing.T) {
	w := emptyWorld(t)
	w.golden("init", w.ok(w.initArgs()...))
	text, err := os.ReadFile(filepath.Join(w.dir, "fleet.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	w.golden("init-fleet-yaml", string(text))
	w.ok("inventory", "check")

	trust, _, err := repo.At(w.dir).Trust()
	if err != nil {
		t.Fatal(err)
	}
	root := trust.Root()
	if root.Version != 1 || root.Epoch != 1 || len(root.Roles[release.RoleRoot].KeyIDs) != 2 || root.Roles[release.RoleRoot].Threshold != 1 {
		t.Errorf("root %+v", root)
	}
	keys, err := keyring.Load(keyring.Places{Getenv: w.getenv})
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range release.Roles() {
		if _, err := repo.At(w.dir).Signers(trust, role, keys); err != nil {
			t.Error(err)
		}
	}
	k := w.kit()
	if k.Name != "cinnabar" || k.Fleet != "first" || len(k.Operators) != 1 || k.Operators[0].Name != "cameron" {
		t.Errorf("kit of %s for %s", k.Name, k.Fleet)
	}
	if ignored, err := os.ReadFile(filepath.Join(w.dir, "trust", ".gitignore")); err != nil || string(ignored) != "/coordinator.agekey\n" {
		t.Errorf("trust/.gitignore: %q, %v", ignored, err)
	}
	w.noSecrets()

	// Nothing is ever overwritten.
	w.fails(exitError, "something already", w.initArgs()...)
	w.dir = filepath.Join(t.TempDir(), "again")
	w.fails(exitError, "operator identity", w.initArgs()...)
}

// noSecrets looks for private keys in the clear below the repository, that of
// the coordinator aside.
func (w *world) noSecrets() {
	w.t.Helper()
	err := filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, bootstrap.CoordinatorKey) {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "PRIVATE KEY") || strings.Contains(string(text), "AGE-SECRET-KEY") {
			w.t.Errorf("%s holds a private key", path)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(w.dir, bootstrap.CoordinatorKey))
	if err != nil || info.Mode().Perm() != 0o600 {
		w.t.Errorf("the coordinator's age key: %v, %v", info, err)
	}
}

func TestInitOptions(t *testing.T) {
	w := emptyWorld(t)
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	inventory := filepath.Join(filepath.Dir(w.dir), "inventory.json")
	if err := os.WriteFile(inventory, []byte(`{"machines": {"cinnabar": {"machineClass": "nixos"}}, "instances": {}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, args := range map[string][]string{
		"operator":       {"--operator", "No One"},
		"fleet id":       {"--fleet", "First"},
		"machine":        {"--coordinator-machine", "../x"},
		"no age recipi":  {"--recipient", "age1x"},
		"root keys":      {"--root-keys", "1"},
		"root threshold": {"--root-keys", "3", "--root-threshold", "4"},
	} {
		code, _, errs := w.run(w.initArgs(args...)...)
		if code == exitOK || !strings.Contains(errs, text) {
			t.Errorf("%q: exit %d\n%s", args, code, errs)
		}
	}
	code, _, errs := w.run(w.initArgs("--inventory", inventory, "--coordinator-machine", "cinabar")...)
	if code != exitError || !strings.Contains(errs, "cinnabar") {
		t.Errorf("coordinator on a machine that isn't there: exit %d\n%s", code, errs)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "trust")); err == nil {
		t.Fatal("a refused init left something")
	}
	w.ok(w.initArgs("--inventory", inventory, "--recipient", other.Recipient().String(), "--root-keys", "3", "--root-threshold", "2")...)
	if m := w.kit().Machines; len(m) != 1 || m[0].Class != "nixos" {
		t.Errorf("kit has machines %v", m)
	}
	// The further recipient can do all that the operator can.
	file := filepath.Join(t.TempDir(), "other.txt")
	if err := os.WriteFile(file, []byte(other.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.ok("kit", "--identity", file)
	trust, _, err := repo.At(w.dir).Trust()
	if err != nil || trust.Root().Roles[release.RoleRoot].Threshold != 2 {
		t.Errorf("root %+v, %v", trust.Root(), err)
	}
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(stranger.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.fails(exitError, "none of your age identities", "kit", "--identity", file)
}

// TestInitInterrupted plays what an init that was killed at any point leaves,
// and runs it again.
func TestInitInterrupted(t *testing.T) {
	for name, interrupt := range map[string]func(w *world, stage string){
		"while building": func(w *world, stage string) {
			w.undo(stage, "trust", "fleet.yaml")
			if err := os.RemoveAll(filepath.Join(stage, "trust", "keys")); err != nil {
				w.t.Fatal(err)
			}
			if err := os.RemoveAll(identity.Dir(w.config, "first")); err != nil {
				w.t.Fatal(err)
			}
		},
		"before moving":        func(w *world, stage string) { w.undo(stage, "trust", "fleet.yaml") },
		"between two renames":  func(w *world, stage string) { w.undo(stage, "fleet.yaml") },
		"before it cleaned up": func(w *world, stage string) { w.undo(stage) },
	} {
		t.Run(name, func(t *testing.T) {
			w := emptyWorld(t)
			w.ok(w.initArgs()...)
			stage := filepath.Join(w.dir, ".fleet-init")
			interrupt(w, stage)
			code, _, errs := w.run(w.initArgs()...)
			if complete := name == "before it cleaned up"; complete != (code != exitOK) {
				t.Fatalf("exit %d\n%s", code, errs)
			}
			w.ok("inventory", "check")
			w.kit()
			w.ok("kit")
			if _, err := os.Stat(stage); err == nil && name != "before it cleaned up" {
				t.Error("the staging directory is still there")
			}
			// The operator's certificate is of the CA that is in place.
			w.fails(exitUnreachable, "cannot be reached", "status", "--coordinator", "127.0.0.1:1")
		})
	}
}

// undo moves parts of the repository back to the staging directory, and marks
// the operator identity as pending.
func (w *world) undo(stage string, names ...string) {
	w.t.Helper()
	if err := os.MkdirAll(stage, 0o700); err != nil {
		w.t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(w.dir, name), filepath.Join(stage, name)); err != nil {
			w.t.Fatal(err)
		}
	}
	marker := filepath.Join(identity.Dir(w.config, "first"), "init-pending")
	if err := os.WriteFile(marker, []byte(w.dir+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func TestInitJSON(t *testing.T) {
	w := emptyWorld(t)
	var res initResult
	if err := json.Unmarshal([]byte(w.ok(w.initArgs("-o", "json")...)), &res); err != nil {
		t.Fatal(err)
	}
	if res.Fleet != "first" || res.AgeIdentity == "" || !strings.HasPrefix(res.RootPin, "sha256:") || res.CAPin == res.RootPin {
		t.Errorf("%+v", res)
	}
}
