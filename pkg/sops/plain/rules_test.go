package plain_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/plain"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
)

// TestList: a repository as home-manager setups have it.
func TestList(t *testing.T) {
	a, b, c := sopstest.NewKey(t), sopstest.NewKey(t), sopstest.NewKey(t)
	dir := t.TempDir()
	rules := `keys:
    - &admin ` + a.Public + `
    - &host ` + b.Public + `
    - &new ` + c.Public + `
creation_rules:
    - path_regex: ^secrets/host/[^/]+\.(yaml|json|env|ini)$
      key_groups:
          - age:
                - *admin
                - *new
    - path_regex: ^secrets/pgp\.yaml$
      pgp: ABCDEF0123, 99
      age: *admin
    - age:
          - *admin
          - ` + b.Public + `
`
	write := func(path, content string) {
		p := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	both := []string{a.Public, b.Public}
	sealed := string(encrypt(t, "x.yaml", "token: s3cr3t\n", both))
	write(".sops.yaml", rules)
	write("secrets/host/a.yaml", sealed)
	write("secrets/host/b.json", string(encrypt(t, "b.json", `{"a":"b"}`, both)))
	write("secrets/host/c.env", string(encrypt(t, "c.env", "A=b\n", both)))
	write("secrets/host/clear.yaml", "token: s3cr3t\n")
	write("secrets/pgp.yaml", sealed)
	write("home.yaml", sealed)
	write("flake.nix", "{}")
	write("vars/x.yaml", sealed)
	write(".git/x.yaml", sealed)
	if err := os.Symlink("home.yaml", filepath.Join(dir, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	found, err := plain.List(dir, "vars")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range found {
		paths = append(paths, f.Path)
		again, err := f.Rekey([]sops.Identity{b.Identity}, nil)
		switch f.Path {
		case "secrets/host/c.env":
			if !errors.Is(err, sops.ErrUnsupported) || !strings.Contains(err.Error(), ".env") {
				t.Errorf("%s: %v", f.Path, err)
			}
		case "secrets/host/clear.yaml":
			if !errors.Is(err, plain.ErrClear) || !strings.Contains(err.Error(), "encrypt it") {
				t.Errorf("%s: %v", f.Path, err)
			}
		case "secrets/pgp.yaml":
			if !errors.Is(err, sops.ErrUnsupported) || !strings.Contains(err.Error(), "pgp ABCDEF0123") {
				t.Errorf("%s: %v", f.Path, err)
			}
		case "home.yaml":
			if err != nil || again != f.File {
				t.Errorf("%s: it has its recipients already: %v", f.Path, err)
			}
		default:
			if err != nil {
				t.Errorf("%s: %v", f.Path, err)
				continue
			}
			if got := again.Recipients(); !slices.Equal(got, slices.Sorted(slices.Values([]string{a.Public, c.Public}))) {
				t.Errorf("%s: recipients %q", f.Path, got)
			}
			decrypt(t, filepath.Base(f.Path), again.Bytes(), c)
		}
	}
	want := []string{"home.yaml", "secrets/host/a.yaml", "secrets/host/b.json", "secrets/host/c.env", "secrets/host/clear.yaml", "secrets/pgp.yaml"}
	if !slices.Equal(paths, want) {
		t.Errorf("found %q", paths)
	}
	if found, err := plain.List(t.TempDir()); len(found) > 0 || err != nil {
		t.Errorf("without rules: %v, %v", found, err)
	}
}

func TestRulesThatAreRefused(t *testing.T) {
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 8 {
		n, m := string(rune('0'+i+1)), string(rune('0'+i))
		bomb += "a" + n + ": &a" + n + " [" + strings.Repeat("*a"+m+", ", 9) + "*a" + m + "]\n"
	}
	for text, part := range map[string]string{
		"creation_rules: 1":                        "no list",
		"creation_rules: [1]":                      "creation rule 1",
		"creation_rules: [{path_regex: '('}]":      "path_regex",
		"creation_rules: [{key_groups: [{}, {}]}]": "2 key groups",
		"creation_rules: [{age: true}]":            "age: not a sops document",
		"creation_rules: [{age: *nobody}]":         "line 1",
		"creation_rules: [":                        "YAML",
		bomb:                                       "more than",
		"a: &a [*a]":                               "",
		strings.Repeat("#", 2<<20):                 "at most",
		"creation_rules: [" + strings.Repeat("{},", 2000) + "{}]": "at most",
	} {
		if _, err := plain.ParseRules([]byte(text)); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%.60q: %v, want %q", text, err, part)
		}
	}
	if rules, err := plain.ParseRules([]byte("stores: {}\n")); err != nil || len(rules) > 0 {
		t.Errorf("no rules: %v, %v", rules, err)
	}
}

func FuzzRules(f *testing.F) {
	f.Add([]byte("keys: [&a age1x]\ncreation_rules: [{path_regex: x, age: *a}, {key_groups: [{pgp: [y], merge: [{age: [z]}]}]}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		rules, err := plain.ParseRules(data)
		if err != nil && len(rules) > 0 {
			t.Errorf("rules with an error: %v", err)
		}
	})
}
