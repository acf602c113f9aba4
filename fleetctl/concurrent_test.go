package fleetctl

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
)

// clone is the same fleet in another checkout, with the same coordinator.
func (w *world) clone() *world {
	w.t.Helper()
	dir := filepath.Join(w.t.TempDir(), "clone")
	if err := os.CopyFS(dir, os.DirFS(w.dir)); err != nil {
		w.t.Fatal(err)
	}
	return &world{t: w.t, dir: dir, config: w.config, clock: w.clock, server: w.server}
}

// TestTwoPublishers lets two checkouts publish at the same time: each publish
// is seen whole, or fails as a conflict and goes through when repeated.
func TestTwoPublishers(t *testing.T) {
	w := newWorld(t)
	w.published()
	pair := []*world{w, w.clone()}
	const rounds = 5
	conflicts := 0
	for range rounds {
		codes := make([]int, len(pair))
		var wait sync.WaitGroup
		for i, p := range pair {
			wait.Go(func() { codes[i], _, _ = p.run("publish") })
		}
		wait.Wait()
		for i, code := range codes {
			switch code {
			case exitOK:
			case exitConflict:
				conflicts++
				pair[i].published()
			default:
				t.Fatalf("publisher %d: exit %d", i, code)
			}
		}
	}
	t.Logf("%d conflicts in %d rounds", conflicts, rounds)

	// Every committed number was used once; hosts have the highest.
	committed := map[string]string{}
	for _, p := range pair {
		for _, r := range p.releases() {
			if r.State != repo.ReleaseCommitted {
				continue
			}
			for _, g := range r.Generations {
				key := string(g.Machine) + " " + g.Number.String()
				if old, ok := committed[key]; ok && old != string(g.Digest) {
					t.Errorf("%s was committed twice", key)
				}
				committed[key] = string(g.Digest)
			}
		}
	}
	if len(w.server.Releases) != 1+2*rounds {
		t.Errorf("%d releases", len(w.server.Releases))
	}
	a, _ := w.desired("galena")
	b, _ := w.desired("cinnabar")
	if a.Doc.Release != b.Doc.Release || string(a.Doc.Release) != w.server.Head {
		t.Errorf("hosts see parts of releases %s and %s, head is %s", a.Doc.Release, b.Doc.Release, w.server.Head)
	}
}

func TestJSONHasNoNulls(t *testing.T) {
	w := newWorld(t)
	for _, args := range [][]string{{"publish", "galena"}, {"status"}, {"releases"}} {
		var v any
		if err := json.Unmarshal([]byte(w.ok(append(args, "-o", "json")...)), &v); err != nil {
			t.Fatal(err)
		}
		noNullLists(t, args[0], v)
	}
}

// noNullLists fails for a null anywhere but in a time.
func noNullLists(t *testing.T, path string, v any) {
	t.Helper()
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if k != "last_seen" && k != "identity_expires" {
				noNullLists(t, path+"."+k, e)
			}
		}
	case []any:
		for _, e := range v {
			noNullLists(t, path+"[]", e)
		}
	case nil:
		t.Errorf("%s is null", path)
	}
}
