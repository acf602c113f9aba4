package gitrepo

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/pkg/ui"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type tree struct {
	t   *testing.T
	top string
	*Repository
}

// newTree is a repository with a commit; the fleet's directory is below its top.
func newTree(t *testing.T) *tree {
	t.Helper()
	t.Setenv("GIT_CONFIG_GLOBAL", "/dev/null")
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	top := t.TempDir()
	w := &tree{t: t, top: top}
	w.git("init", "--quiet")
	w.git("config", "user.name", "Tara")
	w.git("config", "user.email", "tara@example.org")
	w.write("fleet/vars/old/value", "old")
	w.write("fleet/fleet.yaml", "fleet: first")
	w.git("add", ".")
	w.git("commit", "--quiet", "--message", "first")
	var err error
	if w.Repository, err = Find(t.Context(), filepath.Join(top, "fleet")); err != nil || w.Repository == nil {
		t.Fatal("no repository", err)
	}
	return w
}

func (w *tree) git(args ...string) string {
	w.t.Helper()
	out, err := exec.Command("git", append([]string{"-C", w.top}, args...)...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (w *tree) write(name, text string) {
	w.t.Helper()
	p := filepath.Join(w.top, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *tree) ready() error { return w.Ready(w.t.Context(), "vars", "sops") }

// TestCommitOnlyThese: what is staged or changed elsewhere stays so; files that came, that
// changed and that went, and links, are of one commit; hooks do not run.
func TestCommitOnlyThese(t *testing.T) {
	w := newTree(t)
	w.write(".git/hooks/pre-commit", "#!/bin/sh\nexit 1\n")
	if err := os.Chmod(filepath.Join(w.top, ".git/hooks/pre-commit"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.write("staged", "x")
	w.git("add", "staged")
	w.write("fleet/fleet.yaml", "fleet: changed")
	if err := w.ready(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.top, "fleet/vars/old/value")); err != nil {
		t.Fatal(err)
	}
	w.write("fleet/vars/new*/secret", "new")
	w.write("fleet/sops/users/tara/key.json", "[]")
	link := filepath.Join(w.top, "fleet/vars/new*/users/tara")
	if err := errors.Join(os.Mkdir(filepath.Dir(link), 0o755), os.Symlink("../../../sops/users/tara", link)); err != nil {
		t.Fatal(err)
	}
	paths := []string{"vars/old/value", "vars/new*/secret", "vars/new*/users/tara", "sops/users/tara/key.json"}
	if err := w.Commit(t.Context(), "vars: update\n\nall", paths); err != nil {
		t.Fatal(err)
	}
	if got := w.git("show", "--name-status", "--format=%s", "HEAD"); got != "vars: update\n\nA\tfleet/sops/users/tara/key.json\nA\tfleet/vars/new*/secret\nA\tfleet/vars/new*/users/tara\nD\tfleet/vars/old/value" {
		t.Errorf("committed\n%s", got)
	}
	if got := w.git("status", "--porcelain"); got != "M fleet/fleet.yaml\nA  staged" {
		t.Errorf("left\n%s", got)
	}
	if err := w.Commit(t.Context(), "nothing", nil); err != nil || w.git("log", "-1", "--format=%s") != "vars: update" {
		t.Errorf("nothing to commit: %v", err)
	}
}

func TestNotReady(t *testing.T) {
	w := newTree(t)
	fails := func(want error, text string) {
		t.Helper()
		if err := w.ready(); !errors.Is(err, want) || !strings.Contains(err.Error(), text) || ui.HintOf(err) == "" {
			t.Errorf("got %v, want %v with %q", err, want, text)
		}
	}
	w.write("fleet/vars/stray/value", "x")
	fails(ErrDirty, "vars/stray/value")
	w.git("add", ".")
	fails(ErrDirty, "vars/stray/value")
	w.git("rm", "--quiet", "--force", "--cached", "fleet/vars/stray/value")
	if err := os.RemoveAll(filepath.Join(w.top, "fleet/vars/stray")); err != nil {
		t.Fatal(err)
	}
	w.write("fleet/vars/old/value", "changed")
	fails(ErrDirty, "vars/old/value")
	w.git("checkout", "--quiet", ".")
	if err := w.ready(); err != nil {
		t.Fatal(err)
	}
	w.write(".git/MERGE_HEAD", w.git("rev-parse", "HEAD"))
	fails(ErrBusy, "MERGE_HEAD")
	if err := os.Remove(filepath.Join(w.top, ".git/MERGE_HEAD")); err != nil {
		t.Fatal(err)
	}
	w.git("config", "user.useConfigOnly", "true")
	w.git("config", "--unset", "user.email")
	fails(ErrCannotCommit, "git var")
}

func TestFailedCommit(t *testing.T) {
	w := newTree(t)
	w.write("fleet/vars/new/value", "x")
	w.write(".git/index.lock", "")
	err := w.Commit(t.Context(), "vars: update", []string{"vars/new/value"})
	if err == nil || !strings.Contains(err.Error(), "written, and not committed") || ui.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestNoRepository(t *testing.T) {
	t.Setenv("GIT_CEILING_DIRECTORIES", "/")
	if r, err := Find(t.Context(), t.TempDir()); r != nil || err != nil {
		t.Errorf("no repository: %v, %v", r, err)
	}
	w := newTree(t)
	// Variables of a hook lead nowhere else.
	t.Setenv("GIT_DIR", "/nonexistent")
	if r, err := Find(t.Context(), w.top); r == nil || err != nil {
		t.Errorf("in a hook: %v, %v", r, err)
	}
	t.Setenv("PATH", t.TempDir())
	if r, err := Find(t.Context(), w.top); r != nil || err != nil {
		t.Errorf("no git: %v, %v", r, err)
	}
}
