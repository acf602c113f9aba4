package inventory_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

var update = flag.Bool("update", false, "write golden files")

// load reads a file as its name says, and checks it.
func load(path string) error {
	if strings.HasSuffix(path, ".json") {
		inv, err := inventory.LoadInventory(path)
		if err != nil {
			return err
		}
		return inv.Check()
	}
	f, err := inventory.Load(path)
	if err != nil {
		return err
	}
	return f.Check()
}

// golden compares got with a golden file.
func golden(t *testing.T, file, got string) {
	t.Helper()
	// Causes from the file system name the whole path.
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	got = strings.ReplaceAll(got, dir, "$TESTDATA") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func TestBadFiles(t *testing.T) {
	var files []string
	for _, pattern := range []string{"testdata/bad/*.yaml", "testdata/bad/*.json"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 30 {
		t.Fatalf("only %d files", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			err := load(file)
			if err == nil {
				t.Fatal("no error")
			}
			golden(t, file+".err", err.Error())
		})
	}
}

// TestHostileFiles has what is too large, too odd or too dull to be kept as a
// file.
func TestHostileFiles(t *testing.T) {
	huge := bytes.Repeat([]byte(" "), inventory.MaxBytes+1)
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"huge.yaml", huge, strictjson.ErrTooLarge},
		{"huge.json", huge, strictjson.ErrTooLarge},
		{"deep.json", []byte(strings.Repeat("[", 1<<16)), strictjson.ErrTooDeep},
		{"deep-objects.json", []byte(strings.Repeat(`{"a":`, 1<<18)), strictjson.ErrTooDeep},
		{"deep-flow.yaml", []byte("fleet: " + strings.Repeat("[", 1<<15)), strictjson.ErrTooDeep},
		{"deep-maps.yaml", []byte("fleet: " + strings.Repeat("{a: ", 1<<14)), strictjson.ErrTooDeep},
		{"deep-lists.yaml", []byte("fleet:\n " + strings.Repeat("- ", 1<<14)), strictjson.ErrTooDeep},
		{"deep-block.yaml", []byte(deepBlock(100)), strictjson.ErrTooDeep},
		{"deeper-block.yaml", []byte(deepBlock(1100)), strictjson.ErrTooDeep},
		{"many-values.json", []byte("[" + strings.Repeat("0,", 1<<20) + "0]"), strictjson.ErrTooLarge},
		{"many-values.yaml", []byte("fleet: [" + strings.Repeat("0,", 1<<20) + "0]"), strictjson.ErrTooLarge},
		{"nul.yaml", []byte("fleet: first\nmachines: {\"a\x00b\": {}}\n"), strictjson.ErrSyntax},
		{"latin1.yaml", []byte("fleet: first\n# \xe9\n"), strictjson.ErrSyntax},
		{"binary.json", []byte{0x1f, 0x8b, 0x08, 0}, strictjson.ErrSyntax},
		{"empty.json", nil, strictjson.ErrSyntax},
		{"many-problems.yaml", []byte("fleet: first\n" + manyKeys(500)), inventory.ErrUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if err := os.WriteFile(c.name, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			err := load(c.name)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if n := strings.Count(err.Error(), "\n"); n >= 100 {
				t.Errorf("%d lines of problems", n)
			}
			if c.name == "many-problems.yaml" {
				return
			}
			text := err.Error()
			t.Chdir(packageDir)
			golden(t, filepath.Join("testdata", "hostile", c.name+".err"), text)
		})
	}
}

// packageDir is where the tests start.
var packageDir, _ = os.Getwd()

func deepBlock(levels int) string {
	var b strings.Builder
	for i := range levels {
		fmt.Fprintf(&b, "%sa:\n", strings.Repeat(" ", i))
	}
	return b.String()
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "key%d: 1\n", i)
	}
	return b.String()
}

func TestKindsOfProblems(t *testing.T) {
	for file, want := range map[string]error{
		"names.yaml":             fleet.ErrName,
		"names.json":             fleet.ErrName,
		"unknown-names.yaml":     inventory.ErrUnknown,
		"redefined-machine.yaml": inventory.ErrConflict,
		"conflict-scalar.yaml":   inventory.ErrConflict,
		"conflict.json":          inventory.ErrConflict,
		"duplicate-key.yaml":     strictjson.ErrDuplicate,
		"duplicate-key.json":     strictjson.ErrDuplicate,
		"truncated.json":         strictjson.ErrSyntax,
		"missing-inventory.yaml": os.ErrNotExist,
		"types.yaml":             inventory.ErrInvalid,
	} {
		if err := load(filepath.Join("testdata", "bad", file)); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", file, err, want)
		}
	}
}

func TestFilesThatAreNoFiles(t *testing.T) {
	if _, err := inventory.Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := inventory.Load(filepath.Join(t.TempDir(), "fleet.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent file: %v", err)
	}
}
