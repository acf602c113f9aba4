package vars_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// expectation is an element of expected.json.
type expectation struct {
	Readers   []string `json:"readers"`
	Plaintext []byte   `json:"plaintext_base64"`
}

func expected(t testing.TB) map[string]expectation {
	t.Helper()
	var m map[string]expectation
	if err := json.Unmarshal(readFile(t, "testdata/clan-tree-keys/expected.json"), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

var everybody = []string{"alice", "bob", "carol", "m1", "m2"}

func key(t testing.TB, reader string) sopstest.Key {
	t.Helper()
	return sopstest.KeyOf(t, string(readFile(t, "testdata/clan-tree-keys/"+reader+".txt")))
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// clanTree is a copy of clan's tree, to write to.
func clanTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	copyTree(t, dir)
	return dir
}

func copyTree(t testing.TB, dir string) {
	t.Helper()
	if err := os.CopyFS(dir, os.DirFS("testdata/clan-tree")); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, dir string) *vars.Tree {
	t.Helper()
	tree, err := vars.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func options(t testing.TB, reader string) vars.Options {
	t.Helper()
	return vars.Options{
		Identities: []sops.Identity{key(t, reader).Identity},
		Now:        func() time.Time { return time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC) },
	}
}

func begin(t testing.TB, dir, reader string) *vars.Change {
	t.Helper()
	c, err := vars.Begin(t.Context(), dir, options(t, reader))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// change makes a change as a reader, and returns what Commit says.
func change(t testing.TB, dir, reader string, f func(*vars.Change) error) []string {
	t.Helper()
	paths, err := tryChange(t, dir, reader, f)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func tryChange(t testing.TB, dir, reader string, f func(*vars.Change) error) ([]string, error) {
	t.Helper()
	c, err := vars.Begin(context.Background(), dir, options(t, reader))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := f(c); err != nil {
		return nil, err
	}
	return c.Commit()
}

// files are all files and links of a tree, but for what git ignores: path → content.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	dir = filepath.Clean(dir)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".fleet-vars" && p != dir {
			return fs.SkipDir
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			m[rel] = "-> " + to
			return err
		case d.Type().IsRegular():
			m[rel] = string(readFile(t, p))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// opens are the names of whom an entry opens for.
func opens(t testing.TB, dir, entry string) (who []string) {
	t.Helper()
	for _, name := range everybody {
		if _, err := open(t, dir).Read(entry, []sops.Identity{key(t, name).Identity}); err == nil {
			who = append(who, name)
		}
	}
	return who
}

func opensFor(t testing.TB, dir, entry string, want ...string) {
	t.Helper()
	if got := opens(t, dir, entry); !slices.Equal(got, want) {
		t.Errorf("%s opens for %q, want %q", entry, got, want)
	}
}

func healthy(t testing.TB, dir string) {
	t.Helper()
	for _, p := range open(t, dir).Check(nil) {
		t.Errorf("check: %v", p)
	}
}

// write writes a file into a tree, as a merge would.
func write(t testing.TB, dir, path, content string) {
	t.Helper()
	p := filepath.Join(dir, path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func symlink(t testing.TB, dir, path, target string) {
	t.Helper()
	p := filepath.Join(dir, path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, p); err != nil {
		t.Fatal(err)
	}
}

// says fails where an error is none, or lacks a part.
func says(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want one with %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("got %q, want %q in it", err, p)
		}
	}
}
