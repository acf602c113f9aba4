package fleetctl

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes/nixtest"
	"github.com/cameronraysmith/fleet/fleetctl/internal/publisher"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestStageBuiltFlake: CI evaluates and builds with the builder key alone; who has
// the release key signs it in another checkout, on a machine without Nix.
func TestStageBuiltFlake(t *testing.T) {
	w, _ := nixWorld(t, `{flake: "`+nixtest.Ref+`", build: true}`, "built")
	dana := w.person("dana")
	dana.ok("trust", "new-key", "release-dana", "--recipient", dana.ageRecipient())
	w.pull(dana)
	w.ok("trust", "rotate", "release", "--to", filepath.Join(w.dir, "trust", "keys", "release-dana.pub"))
	w.ok("trust", "sign", "-y")
	w.ok("operator", "add", "dana", "--role", "deployer", "--request", dana.request())

	w.withoutKey("builder-1", func() { w.fails(exitError, "builder", "publish", "--stage") })
	w.fails(exitError, "none of your age identities opens it", "publish")
	n := w.again("built")
	id := w.staged()
	if got := n.Calls(); got != "flake eval build path-info" {
		t.Errorf("calls of nix: %q", got)
	}
	if len(w.releases()) != 0 || w.server.Head != "" || len(w.server.Newest) != 0 {
		t.Fatal("hosts see what nobody signed")
	}

	dana.pull(w)
	if _, err := os.Stat(filepath.Join(dana.config, "no-nix")); !os.IsNotExist(err) {
		t.Fatal("dana has Nix")
	}
	// What the closure is, only its manifest says: without it nothing is signed.
	all := maps.Clone(w.server.Blobs)
	maps.DeleteFunc(w.server.Blobs, func(digest string, _ []byte) bool { return digest != w.server.Proposals[id].GetDigest() })
	dana.fails(exitError, "does not have", "sign", id, "-y")
	w.server.Blobs = all

	var res signResult
	if err := json.Unmarshal([]byte(dana.ok("sign", id, "-y", "-o", "json")), &res); err != nil {
		t.Fatal(err)
	}
	if !res.Committed || len(res.Changes) != 2 || w.server.Head != id {
		t.Fatalf("head %q, %+v", w.server.Head, res)
	}
	outs := map[string]string{"a": nixtest.SystemA, "b": nixtest.SystemB}
	for _, c := range res.Changes {
		if c.Checked != publisher.SourceUnchecked {
			t.Errorf("%s: %s", c.Machine, c.Checked)
		}
		gen, _ := dana.desired(string(c.Machine))
		f := gen.Doc.Source.Flake
		if f == nil || f.Closure == nil || string(gen.Doc.Release) != id {
			t.Fatalf("%s gets %+v", c.Machine, gen.Doc)
		}
		if f.NarHash != nixtest.NarHash || f.OutPath != outs[string(c.Machine)] || dana.closure(*f.Closure).Root != f.OutPath {
			t.Errorf("%s gets %+v", c.Machine, f)
		}
	}
	if !slices.ContainsFunc(dana.releases(), func(r *repo.Release) bool {
		return r.ID == fleet.ReleaseID(id) && r.State == repo.ReleaseCommitted
	}) {
		t.Error("dana's checkout does not have the release")
	}
	if out := w.ok("releases"); !strings.Contains(out, id) {
		t.Errorf("releases:\n%s", out)
	}
}
