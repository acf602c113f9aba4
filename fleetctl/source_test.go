package fleetctl

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes/nixtest"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// nixWorld is a fleet of two NixOS machines with one source, and a stand-in for
// nix.
func nixWorld(t *testing.T, source, recording string, edits ...string) (*world, *nixtest.Nix) {
	t.Helper()
	w := newWorld(t)
	w.sources(source)
	n := nixtest.New(t, recording, edits...)
	w.nix = n.Program
	return w, n
}

// sources writes a fleet file whose machines all have one source.
func (w *world) sources(source string) {
	w.t.Helper()
	w.write(`fleet: first
coordinator: {machine: a, address: "127.0.0.1:1"}
machines: {a: {class: nixos}, b: {class: nixos}}
operators: {cameron: {role: admin}}
settings: {all: {source: `+source+`}}
`, repo.FleetFile)
}

const flakeSource = `{flake: "` + nixtest.Ref + `"}`

// again makes the stand-in answer another recording.
func (w *world) again(recording string) *nixtest.Nix {
	w.t.Helper()
	n := nixtest.New(w.t, recording)
	w.nix = n.Program
	return n
}

func TestPublishFlake(t *testing.T) {
	w, n := nixWorld(t, flakeSource, "good")
	w.golden("publish-flake", w.ok("publish"))
	gen, _ := w.desired("b")
	want := fleet.Source{Driver: "nixos", Flake: &fleet.FlakeSource{
		URL: nixtest.Ref + "?ref=refs/heads/main&rev=" + nixtest.Rev, NarHash: nixtest.NarHash,
		Attr: "nixosConfigurations.b.config.system.build.toplevel", OutPath: nixtest.SystemB,
	}}
	if diff := cmp.Diff(want, gen.Doc.Source); diff != "" {
		t.Errorf("source (-want +got):\n%s", diff)
	}
	if got := n.Calls(); got != "flake eval" {
		t.Errorf("calls of nix: %q", got)
	}
	res := w.published()
	if !res.Generations[0].Same || res.Generations[0].Pinned != pinnedOutPath || len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "source.url") {
		t.Errorf("second publish: %+v", res)
	}

	// Where hosts find it.
	w.sources(`{flake: "` + nixtest.Ref + `", url: "github:owner/fleet"}`)
	res = w.published()
	if f := res.Generations[0].Source.Flake; f.URL != "github:owner/fleet/"+nixtest.Rev || f.NarHash != nixtest.NarHash || len(res.Warnings) != 0 {
		t.Errorf("with a url: %+v, %q", f, res.Warnings)
	}
	if !res.Generations[0].Same {
		t.Error("the same path from another place is another thing")
	}

	// Without an evaluation.
	n = w.again("good")
	res = w.published("--no-eval")
	if g := res.Generations[0]; g.Pinned != pinnedNothing || g.Source.OutPath() != "" || g.Same || n.Calls() != "flake" {
		t.Errorf("without an evaluation: %+v, calls %q", g, n.Calls())
	}
	if out := w.ok("publish", "--no-eval", "--dry-run"); !strings.Contains(out, "nixos flake 436214026680 (unpinned) (as before)") {
		t.Errorf("shown as\n%s", out)
	}
	w.fails(exitUsage, "none of the others can be", "publish", "--no-eval", "--build")
}

func TestPublishBuilt(t *testing.T) {
	w, n := nixWorld(t, `{flake: "`+nixtest.Ref+`", build: true}`, "built")
	if out := w.ok("publish", "--dry-run"); !strings.Contains(out, "nkxbjifz-nixos-system-a (to be built)") || n.Calls() != "flake eval" {
		t.Errorf("dry run, calls %q:\n%s", n.Calls(), out)
	}
	n = w.again("built")
	w.golden("publish-built", w.ok("publish"))
	if got := n.Calls(); got != "flake eval build path-info" {
		t.Errorf("calls of nix: %q", got)
	}
	gen, _ := w.desired("a")
	ref := *gen.Doc.Source.Flake.Closure
	closure := w.closure(ref)
	if closure.Root != nixtest.SystemA || len(closure.Paths) != 2 || closure.Fleet != "first" {
		t.Errorf("closure %+v", closure)
	}
	// An unchanged closure is the same document.
	w.clock = w.clock.AddDate(0, 0, 1)
	res := w.published()
	if g := res.Generations[0]; !g.Same || g.Pinned != pinnedClosure || *g.Source.Flake.Closure != ref || len(w.server.Blobs) != 2 {
		t.Errorf("second publish: %+v", g)
	}
	w.fails(exitError, "cannot be built without being evaluated", "publish", "--no-eval")
}

// TestStatusShowsSource: of one machine, where the repository has the release.
func TestStatusShowsSource(t *testing.T) {
	w, _ := nixWorld(t, flakeSource, "good")
	res := w.published()
	host := func(digest fleet.Digest) *fleetv1.Host {
		return &fleetv1.Host{Machine: &fleetv1.Machine{Name: "a", Class: "nixos"}, Profiles: []*fleetv1.ProfileStatus{{
			Profile: "system", Desired: &fleetv1.GenerationRef{Number: "1.1", Digest: string(digest), Release: string(res.Release)},
		}}}
	}
	w.server.Hosts = []*fleetv1.Host{host(res.Generations[0].Digest)}
	const want = "source       nixos flake 436214026680 nkxbjifz-nixos-system-a (closure unpinned)"
	if out := w.ok("status", "a"); !strings.Contains(out, want) {
		t.Errorf("no %q in\n%s", want, out)
	}
	if out := w.ok("status", "a", "-o", "json"); !strings.Contains(out, `"pinned": "out-path"`) {
		t.Errorf("json:\n%s", out)
	}
	w.server.Hosts = []*fleetv1.Host{host(fleet.DigestOf(nil))}
	if out := w.ok("status", "a"); strings.Contains(out, "source ") {
		t.Errorf("of a release that is not here:\n%s", out)
	}
}

// closure opens a manifest that was uploaded, as a host would.
func (w *world) closure(ref fleet.BlobRef) fleet.ClosureManifest {
	w.t.Helper()
	trust, _, err := repo.At(w.dir).Trust()
	if err != nil {
		w.t.Fatal(err)
	}
	data := w.server.Blobs[string(ref.Digest)]
	if fleet.DigestOf(data) != ref.Digest || uint64(len(data)) != ref.Size {
		w.t.Fatalf("closure manifest of %d bytes is not %+v", len(data), ref)
	}
	m, err := trust.OpenClosure(data)
	if err != nil {
		w.t.Fatal(err)
	}
	return m.Doc
}

func TestPublishStorePath(t *testing.T) {
	w, n := nixWorld(t, "{storePath: "+nixtest.SystemA+"}", "prebuilt")
	res := w.published()
	ref := res.Generations[0].Source.StorePath.Closure
	if w.closure(ref).Root != nixtest.SystemA || res.Generations[1].Source.StorePath.Closure != ref || n.Calls() != "path-info" {
		t.Errorf("%+v, calls %q", res.Generations, n.Calls())
	}
	// A link does too, also where the file system does not have what it leads to.
	for name, to := range map[string]string{"result": "deeper/result", "deeper/result": nixtest.SystemA, "loop": "loop", "elsewhere": "/etc"} {
		at := filepath.Join(w.dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, at); err != nil {
			t.Fatal(err)
		}
	}
	w.sources("{storePath: ./result}")
	if res := w.published(); !res.Generations[0].Same {
		t.Errorf("by a link: %+v", res.Generations[0])
	}
	for _, path := range []string{"./loop", "./elsewhere", "./nothing"} {
		w.sources("{storePath: " + path + "}")
		w.fails(exitError, "the store does not have the path", "publish")
	}

	// Refreshing needs nix only where the coordinator lost the manifest.
	w.sources("{storePath: ./result}")
	n = w.again("prebuilt")
	w.published("--refresh")
	if n.Calls() != "" {
		t.Errorf("a refresh called nix: %q", n.Calls())
	}
	w.server.Blobs = map[string][]byte{}
	w.published("--refresh")
	if w.closure(ref).Root != nixtest.SystemA {
		t.Error("the manifest was not made again")
	}
	w.server.Blobs = map[string][]byte{}
	w.nix = ""
	w.fails(exitError, "no longer here", "publish", "--refresh")

	w.again("invalid")
	w.sources("{storePath: /nix/store/0000jkxbjifz8ci65dss1zjvlhyfbg51-nope}")
	w.fails(exitError, "the store does not have the path", "publish")
}

// TestPublishFromRepository: where git can tell, one process of nix is enough,
// and where it can't, nix has the last word.
func TestPublishFromRepository(t *testing.T) {
	path, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", path, "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(path, "flake.nix"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git("init", "--quiet", "--initial-branch=main")
	write("{ }\n")
	git("add", "flake.nix")
	git("commit", "--quiet", "--message=flake")
	rev := git("rev-parse", "HEAD")
	source := `{flake: "git+file://` + path + `"}`
	edits := func(recording string, more ...string) []string {
		return append(nixtest.InRepository(t, recording, path, rev), more...)
	}

	w, n := nixWorld(t, source, "good", edits("good")...)
	res := w.published()
	f := res.Generations[0].Source.Flake
	want := fleet.FlakeSource{
		URL: "git+file://" + path + "?ref=refs/heads/main&rev=" + rev, NarHash: nixtest.NarHash,
		Attr: "nixosConfigurations.a.config.system.build.toplevel", OutPath: nixtest.SystemA,
	}
	if diff := cmp.Diff(&want, f); diff != "" || n.Calls() != "eval" || len(res.Warnings) != 1 {
		t.Errorf("calls %q, warnings %q, source (-want +got):\n%s", n.Calls(), res.Warnings, diff)
	}

	for _, c := range []struct {
		name, recording, flake, text, calls string
		more                                []string
	}{
		{"a tree without a hash", "good", "{ }\n", "hash of its tree", "eval flake", []string{
			"eval.out", `{"nix":"2.30.0","trees":[""],"results":[{"drv":"/nix/store/l4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-nixos-system-a.drv","out":"` + nixtest.SystemA + `","output":"out"}]}`,
			"flake.out", `{"url":"git+file:///x?rev=1","locked":{"rev":"1"}}`,
		}},
		{"an error in Nix code", "broken", "{ }\n", "this machine is", "eval version flake", nil},
		{"changed", "good", "{ outputs = 1; }\n", "changes that are not committed", "eval flake", []string{
			"flake.out", `{"url":"git+file:///x","dirtyRevision":"1-dirty","locked":{"dirtyRev":"1-dirty","narHash":"sha256-x"}}`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(c.flake)
			source, args := source, []string{"publish"}
			if c.recording == "broken" {
				source = `{flake: "git+file://` + path + `", attr: nixosConfigurations.bad.config.system.build.toplevel}`
				args = append(args, "a")
			}
			w, n := nixWorld(t, source, c.recording, edits(c.recording, c.more...)...)
			w.fails(exitError, c.text, args...)
			if n.Calls() != c.calls || len(w.releases()) != 0 || w.server.Machines != nil {
				t.Errorf("calls %q, or something was published", n.Calls())
			}
		})
	}
}

// TestNixRefusals: what is refused leaves nothing behind.
func TestNixRefusals(t *testing.T) {
	for _, c := range []struct{ recording, source, text string }{
		{"dirty", flakeSource, "changes that are not committed"},
		{"unlocked", "{flake: path:/repo/plain}", "cannot be locked"},
		{"broken", `{flake: "` + nixtest.Ref + `", attr: nixosConfigurations.bad.config.system.build.toplevel}`, "this machine is"},
		{"missing", `{flake: "` + nixtest.Ref + `", attr: nixosConfigurations.nobody}`, "no such attribute"},
		{"failing", `{flake: "` + nixtest.Ref + `", attr: nixosConfigurations.buildfail.config.system.build.toplevel, build: true}`, "the build failed"},
	} {
		w, _ := nixWorld(t, c.source, c.recording)
		w.fails(exitError, c.text, "publish", "a")
		if len(w.releases()) != 0 || w.server.Machines != nil {
			t.Errorf("%s: something was published", c.recording)
		}
	}
	w := newWorld(t)
	w.sources(flakeSource)
	w.fails(exitError, "nix is not installed", "publish")
}

// TestNixEndsBadly: what nix printed counts only once it has ended well.
func TestNixEndsBadly(t *testing.T) {
	bad := []string{"eval.code", "1", "eval.err", "error: the disk is full\n"}
	w, n := nixWorld(t, `{flake: "`+nixtest.Ref+`", build: true}`, "built", bad...)
	w.fails(exitError, "the disk is full", "publish")
	if strings.Contains(n.Calls(), "build") || w.server.Machines != nil {
		t.Errorf("calls of nix: %q, or the coordinator has machines", n.Calls())
	}
	w, _ = nixWorld(t, flakeSource, "good", bad...)
	for _, args := range [][]string{{"publish"}, {"publish", "--dry-run"}, {"publish", "--stage"}} {
		w.fails(exitError, "the disk is full", args...)
	}
	if len(w.releases()) != 0 || w.server.Head != "" || len(w.server.Proposals) != 0 {
		t.Errorf("head %q, %d releases, %d proposals", w.server.Head, len(w.releases()), len(w.server.Proposals))
	}
	w.again("good")
	w.ok("publish")
}

// TestNoBuilder: a trust root from before the role has no one to sign closures.
func TestNoBuilder(t *testing.T) {
	w, _ := nixWorld(t, "{storePath: "+nixtest.SystemA+"}", "prebuilt")
	r := repo.At(w.dir)
	trust, _, err := r.Trust()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := (&options{Getenv: w.getenv}).keys()
	if err != nil {
		t.Fatal(err)
	}
	signers, err := r.Signers(trust, release.RoleRoot, keys)
	if err != nil {
		t.Fatal(err)
	}
	root := *trust.Root()
	root.Version++
	roles := map[release.RoleName]release.RoleKeys{}
	for name, role := range root.Roles {
		if name != release.RoleBuilder {
			roles[name] = role
		}
	}
	root.Roles = roles
	env, _, err := release.Seal(fleet.TypeRoot, root, signers...)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.WriteRoot(root.Version, env); err != nil {
		t.Fatal(err)
	}
	w.fails(exitError, "no builder role", "publish")
	w.sources(`{flake: "` + nixtest.Ref + `", build: true}`)
	n := w.again("built")
	w.fails(exitError, "no builder role", "publish")
	if n.Calls() != "flake eval" {
		t.Errorf("it was built in vain: %q", n.Calls())
	}
	w.sources(flakeSource)
	w.published()
}
