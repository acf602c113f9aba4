package inventory_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

func TestCanonical(t *testing.T) {
	var forms [][]byte
	for _, name := range []string{"real-inventory.raw.json", "real-inventory.json"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		form, inv, err := inventory.Canonical(name, data)
		if err != nil {
			t.Fatal(err)
		}
		if len(inv.Machines()) != 10 || bytes.Contains(form, []byte("/nix/store/")) {
			t.Errorf("%s: %d machines, %.200s", name, len(inv.Machines()), form)
		}
		again, _, err := inventory.Canonical(name, form)
		if err != nil || !bytes.Equal(form, again) {
			t.Errorf("%s: the form of the form is another one: %v", name, err)
		}
		forms = append(forms, form)
	}
	if !bytes.Equal(forms[0], forms[1]) {
		t.Error("as Nix prints it and unwrapped are two forms")
	}
	for text, want := range map[string]error{
		`{`:              strictjson.ErrSyntax,
		`{"machines":7}`: inventory.ErrInvalid,
		`{"machines":{},"instances":{"a":{"roles":{"r":{"settings":{"imports":[{},{}]}}}}}}`: inventory.ErrInvalid,
	} {
		if _, _, err := inventory.Canonical("x.json", []byte(text)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
}

func TestSourceFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "fleet.yaml")
	for text, want := range map[string]string{
		"fleet: first\ninventory: {file: sub/inventory.json}\n": filepath.Join(dir, "sub/inventory.json"),
		"fleet: first\ninventory: {file: /x/../y.json}\n":       "/y.json",
		"fleet: first\ninventory: {machines: {}}\n":             "",
		"fleet: first\ninventory: {file: }\n":                   "",
		"fleet: first\n":                                        "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := inventory.SourceFile(path); got != want || err != nil {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{"inventory: {file: 7}\n": "is a number", "a: [\n": "fleet.yaml:"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := inventory.SourceFile(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// FuzzCanonical: a form is accepted again and stays as it is.
func FuzzCanonical(f *testing.F) {
	data, err := os.ReadFile("testdata/real-inventory.raw.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"machines":{"a":{"machineClass":"nixos","tags":["all"]}},"instances":{"i":{"roles":{"r":{"settings":{"imports":[{"_file":"x","imports":[{"n":1e3}]}]}}}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		form, _, err := inventory.Canonical("x.json", data)
		if err != nil {
			return
		}
		again, _, err := inventory.Canonical("x.json", form)
		if err != nil || !bytes.Equal(form, again) {
			t.Errorf("%v\n%s\n%s", err, form, again)
		}
	})
}
