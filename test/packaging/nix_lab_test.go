//go:build lab

package packaging

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write "+EvaluatedFile)

// nix runs a program of Nix that evaluates, and nothing else: the store is none.
func nix(t *testing.T, argv ...string) (stdout, stderr []byte, err error) {
	t.Helper()
	argv = append(argv, "--store", "dummy://")
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...) //nolint:gosec // Of this test.
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("this test is for a host with a Nix, as those of make lab: %v", err)
	}
	return out.Bytes(), errs.Bytes(), err
}

func evaluate(t *testing.T, what string) (stdout, stderr []byte, err error) {
	t.Helper()
	root, err := filepath.Abs(Root)
	if err != nil {
		t.Fatal(err)
	}
	return nix(t, "nix-instantiate", "--eval", "--strict", "--json", "-A", what, "--arg", "root", root, "testdata/nix/cases.nix")
}

// TestNixParses has Nix's own parser read every file.
func TestNixParses(t *testing.T) {
	of, err := Inputs(Root)
	if err != nil {
		t.Fatal(err)
	}
	for file := range of {
		if _, stderr, err := nix(t, "nix-instantiate", "--parse", filepath.Join(Root, file)); err != nil {
			t.Errorf("%s: %v\n%s", file, err, stderr)
		}
	}
}

// TestNixEvaluates compares what the modules come to with the file that says it.
func TestNixEvaluates(t *testing.T) {
	out, stderr, err := evaluate(t, "good")
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	of, err := Inputs(Root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Evaluated{Of: of, Cases: json.RawMessage(out)}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(EvaluatedFile, got, 0o644); err != nil { //nolint:gosec // Of the repository.
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(EvaluatedFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the modules don't come to what %s says: write it with make lab LABFLAGS=-modules, and look at what changed", EvaluatedFile)
		gl, wl := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
		for i := range gl {
			if i >= len(wl) || gl[i] != wl[i] {
				t.Errorf("line %d is now %s", i+1, gl[i])
				break
			}
		}
	}
}

// TestNixRefuses has values of a wrong kind be errors that name their option.
func TestNixRefuses(t *testing.T) {
	root, err := filepath.Abs(Root)
	if err != nil {
		t.Fatal(err)
	}
	out, stderr, err := nix(t, "nix-instantiate", "--eval", "--strict", "--json", "--arg", "root", root,
		"--expr", "{ root }: builtins.attrNames (import "+root+"/test/packaging/testdata/nix/cases.nix { inherit root; }).bad")
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	var options []string
	if err := json.Unmarshal(out, &options); err != nil || len(options) < 10 {
		t.Fatalf("%v: %s", err, out)
	}
	for _, option := range options {
		_, stderr, err := evaluate(t, `bad."`+option+`"`)
		said := string(stderr[max(0, bytes.LastIndex(stderr, []byte("error:"))):])
		if err == nil || !strings.Contains(said, "`"+option+"'") {
			t.Errorf("%s was taken, or not named: %v, %s", option, err, said)
		}
	}
}
