package flakes

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes/nixtest"
)

// gitRepo is a repository with a flake in its root and one below it.
type gitRepo struct {
	t    *testing.T
	path string
}

func newGitRepo(t *testing.T) *gitRepo {
	t.Helper()
	path, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// The name of a test's directory is one that needs no quoting, as long as the
	// test's is.
	r := &gitRepo{t, path}
	r.git("init", "--quiet", "--initial-branch=main")
	r.write("flake.nix", "{ outputs = _: { }; }\n")
	r.write("below/flake.nix", "{ outputs = _: { }; }\n")
	r.write("other/file", "no flake\n")
	r.commit()
	return r
}

func (r *gitRepo) write(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.path, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *gitRepo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", append([]string{"-C", r.path, "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *gitRepo) commit() {
	r.t.Helper()
	r.git("add", "--all")
	r.git("commit", "--quiet", "--allow-empty", "--message=change")
}

// TestPresume: what git can tell is told as nix would.
func TestPresume(t *testing.T) {
	r := newGitRepo(t)
	rev := r.git("rev-parse", "HEAD")
	n := &Nix{Program: "/nonexistent/nix"}
	for _, c := range []struct{ ref, url, dir string }{
		{"git+file://" + r.path, "git+file://" + r.path + "?ref=refs/heads/main&rev=" + rev, ""},
		{r.path, "git+file://" + r.path + "?ref=refs/heads/main&rev=" + rev, ""},
		{"git+file://" + r.path + "?dir=below", "git+file://" + r.path + "?dir=below&ref=refs/heads/main&rev=" + rev, "below"},
		{r.path + "/below", "git+file://" + r.path + "?dir=below&ref=refs/heads/main&rev=" + rev, "below"},
	} {
		p := n.Presume(t.Context(), c.ref)
		if p == nil {
			t.Errorf("%s: nothing presumed", c.ref)
			continue
		}
		if !p.Clean() || p.URL != c.url || p.Rev != rev || p.Dir != c.dir || !p.Local || p.NarHash != "" {
			t.Errorf("%s: clean %v, %+v", c.ref, p.Clean(), p.Locked)
		}
	}
	t.Setenv("GIT_DIR", "/nonexistent")
	if n.Presume(t.Context(), r.path) == nil {
		t.Error("the environment led to another repository")
	}
}

// TestAhead: what was begun ahead is taken, and all else is asked for.
func TestAhead(t *testing.T) {
	r := newGitRepo(t)
	n := &Nix{}
	n.Ahead(t.Context(), []string{r.path, r.path, "nixpkgs"})
	n.Settle()
	rev := r.git("rev-parse", "HEAD")
	r.commit()
	n.asked = time.Now().Add(time.Hour) // However slow this is.
	if p := n.Presume(t.Context(), r.path); p == nil || p.Rev != rev || !p.Clean() {
		t.Errorf("got %+v", p)
	}
	if p := n.Presume(t.Context(), "nixpkgs"); p != nil {
		t.Errorf("presumed %+v", p.Locked)
	}
	if p := n.Presume(t.Context(), r.path+"/below"); p == nil || p.Rev == rev || !p.Clean() {
		t.Errorf("not asked for ahead: %+v", p)
	}
	n.asked = time.Now().Add(-aMoment)
	if p := n.Presume(t.Context(), r.path); p == nil || p.Rev == rev || !p.Clean() {
		t.Errorf("a moment later: %+v", p)
	}
	(&Nix{}).Settle()
}

// TestPresumeLeavesToNix: everything else is for nix to say.
func TestPresumeLeavesToNix(t *testing.T) {
	r := newGitRepo(t)
	n := &Nix{}
	none := func(ref string) {
		t.Helper()
		if p := n.Presume(t.Context(), ref); p != nil {
			p.Clean()
			t.Errorf("%s: presumed %+v", ref, p.Locked)
		}
	}
	for _, ref := range []string{
		"", "github:owner/repo", "nixpkgs", "-x", "path:" + r.path, "git+ssh://host" + r.path, "git+file://host" + r.path,
		"git+file://" + r.path + "?rev=" + r.git("rev-parse", "HEAD"), "git+file://" + r.path + "?ref=main",
		"git+file://" + r.path + "?submodules=1", "git+file://" + r.path + "#x", r.path + "?dir=below", r.path + "#x",
		r.path + "/other", "git+file://" + r.path + "?dir=other", "git+file://" + r.path + "/below", "git+file://" + r.path + "?dir=../x",
		"/", t.TempDir(), r.path + "/nothing",
	} {
		none(ref)
	}
	odd := filepath.Join(r.path, "with space")
	r.write("with space/flake.nix", "{ outputs = _: { }; }\n")
	none(odd)
	r.commit()

	clone := filepath.Join(t.TempDir(), "shallow")
	r.git("clone", "--quiet", "--depth=1", "file://"+r.path, clone)
	none("git+file://" + clone)

	r.git("checkout", "--quiet", "--detach")
	none(r.path)
	r.git("checkout", "--quiet", "main")

	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(r.path, link); err != nil {
		t.Fatal(err)
	}
	none("git+file://" + link)
}

// TestPresumeChanged: what no revision has is never taken for one.
func TestPresumeChanged(t *testing.T) {
	for i, change := range []func(*gitRepo){
		func(r *gitRepo) { r.write("flake.nix", "{ }\n") },
		func(r *gitRepo) { r.write("new", "x\n"); r.git("add", "new") },
		func(r *gitRepo) { r.write("new", "x\n"); r.git("add", "--intent-to-add", "new") },
		func(r *gitRepo) { r.git("rm", "--quiet", "other/file") },
		func(r *gitRepo) {
			if err := os.Remove(filepath.Join(r.path, "other/file")); err != nil {
				r.t.Fatal(err)
			}
		},
		func(r *gitRepo) {
			if err := os.Chmod(filepath.Join(r.path, "flake.nix"), 0o755); err != nil {
				r.t.Fatal(err)
			}
		},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			r := newGitRepo(t)
			change(r)
			if p := (&Nix{}).Presume(t.Context(), r.path); p != nil && p.Clean() {
				t.Error("clean")
			}
		})
	}
	// Files that git does not know are no part of a flake.
	r := newGitRepo(t)
	r.write("unknown", "x\n")
	if p := (&Nix{}).Presume(t.Context(), r.path); p == nil || !p.Clean() {
		t.Error("an unknown file counts")
	}
}

// TestEvaluateTells: the hash of a tree that was not known comes with its
// evaluation.
func TestEvaluateTells(t *testing.T) {
	flake := Locked{URL: "git+file:///r?ref=refs/heads/main&rev=1", Rev: "1", Local: true}
	attrs := []Attr{{flake, "nixosConfigurations.a" + system}, {flake, "nixosConfigurations.b" + system}}
	evaluate := func(edits ...string) (map[Attr]Output, error) {
		stand := nixtest.New(t, "good", append(nixtest.InRepository(t, "good", "/r", "1"), edits...)...)
		return (&Nix{Program: stand.Program}).Evaluate(t.Context(), attrs)
	}
	outputs, err := evaluate()
	if err != nil || outputs[attrs[1]].Path != nixtest.SystemB || outputs[attrs[1]].NarHash != nixtest.NarHash {
		t.Errorf("%+v, %v", outputs, err)
	}
	// Before it has ended.
	if err := evaluatedBadly(t, attrs); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("ended badly: %v", err)
	}
	results := fmt.Sprintf(`{"drv":%[1]q,"out":%[1]q,"output":"out"}`, nixtest.SystemA)
	_, err = evaluate("eval.out", `{"nix":"2.26.3","results":[`+results+`,`+results+`]}`)
	if !errors.Is(err, ErrOutput) || !strings.Contains(err.Error(), "0 trees for 1 flakes") {
		t.Errorf("without trees: %v", err)
	}
}

// evaluatedBadly is how nix ended after it printed all that was asked for.
func evaluatedBadly(t *testing.T, attrs []Attr) error {
	t.Helper()
	stand := nixtest.New(t, "good", append(nixtest.InRepository(t, "good", "/r", "1"), "eval.code", "1", "eval.err", "error: killed\n")...)
	n := &Nix{Program: stand.Program}
	if outputs, err := n.Evaluate(t.Context(), attrs); err != nil || len(outputs) != len(attrs) {
		t.Errorf("%+v, %v", outputs, err)
	}
	return n.Ended()
}

// FuzzDecodeHead: whatever git prints, the URL that is made of it is one, and
// leads to what git named.
func FuzzDecodeHead(f *testing.F) {
	rev := strings.Repeat("0123456789", 4)
	f.Add("false\n/srv/fleet\n\n" + rev + "\nrefs/heads/main\n")
	f.Add("false\n/srv/fleet+1/x_y\nhosts/a.b/\n" + rev + "\nrefs/heads/feature/x\n")
	f.Add("true\n/srv/fleet\n\n" + rev + "\nrefs/heads/main\n")
	f.Add("false\n/srv/fl eet\n\n" + rev + "\nHEAD\n")
	f.Add("false\n//host/fleet\n../\n" + rev + "\nrefs/heads/..\n")
	f.Fuzz(func(t *testing.T, out string) {
		top, l, ok := decodeHead(out)
		if !ok {
			return
		}
		u, err := url.Parse(l.URL)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(out, "\n")
		q := u.Query()
		if u.Scheme != "git+file" || u.Host != "" || u.Fragment != "" || u.Path != top || top != lines[1] {
			t.Errorf("%q is at %q", l.URL, top)
		}
		if q.Get("rev") != l.Rev || l.Rev != lines[3] || q.Get("ref") != lines[4] || q.Get("dir") != l.Dir || len(l.Rev) != 40 {
			t.Errorf("%q of %q", l.URL, out)
		}
		if !l.Local || l.NarHash != "" || strings.ContainsAny(l.URL, "# \n\"${}\\") {
			t.Errorf("%+v", l)
		}
	})
}
