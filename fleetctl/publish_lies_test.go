package fleetctl

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/fakecoordinator"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// TestPublishLies shows that nothing is published on top of a coordinator that
// lies.
func TestPublishLies(t *testing.T) {
	w := newWorld(t)
	w.published()
	head := w.server.Head
	lies := map[string]func(g *fleetv1.SignedGeneration) *fleetv1.SignedGeneration{
		"altered": func(g *fleetv1.SignedGeneration) *fleetv1.SignedGeneration {
			return &fleetv1.SignedGeneration{Generation: edit(t, g.GetGeneration(), func(g *fleet.Generation) { g.Number.Seq = 900 })}
		},
		"no envelope": func(*fleetv1.SignedGeneration) *fleetv1.SignedGeneration {
			return &fleetv1.SignedGeneration{Generation: []byte("{}")}
		},
		"other key": func(g *fleetv1.SignedGeneration) *fleetv1.SignedGeneration {
			doc, err := fakecoordinator.Document(g.GetGeneration())
			if err != nil {
				t.Fatal(err)
			}
			doc.Number.Seq = 900
			return &fleetv1.SignedGeneration{Generation: seal(t, doc, strangerKey())}
		},
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			w.server.Alter = lie
			w.fails(exitRefused, "alarm", "publish")
			if w.server.Head != head {
				t.Error("something was published")
			}
		})
	}
}

// TestPublishAboveRolledBackStore shows that a coordinator whose store is from
// yesterday does not bring numbers back.
func TestPublishAboveRolledBackStore(t *testing.T) {
	w := newWorld(t)
	w.published()
	old := w.server.State
	newest := maps.Clone(old.Newest)
	for range 3 {
		w.bundle("another")
		w.published("galena")
	}
	w.server.State = old
	w.server.Newest = newest
	if res := w.published("galena"); res.Generations[0].Number != "1.5" {
		t.Errorf("number %s, want one above the repository's 1.4", res.Generations[0].Number)
	}
	// And one without any store at all.
	w.server.Head, w.server.Newest, w.server.Blobs = "", map[string]*fleetv1.SignedGeneration{}, map[string][]byte{}
	if res := w.published("galena"); res.Generations[0].Number != "1.6" || len(w.server.Blobs) != 1 {
		t.Errorf("number %s, %d blobs", res.Generations[0].Number, len(w.server.Blobs))
	}
}

// TestPublishAboveUnknown shows that a repository that is behind goes above
// what the coordinator has, and says so.
func TestPublishAboveUnknown(t *testing.T) {
	w := newWorld(t)
	w.published("galena")
	if err := os.RemoveAll(filepath.Join(w.dir, "releases")); err != nil {
		t.Fatal(err)
	}
	res := w.published("galena")
	if res.Generations[0].Number != "1.2" || len(res.Alarms) != 1 {
		t.Errorf("number %s, alarms %q", res.Generations[0].Number, res.Alarms)
	}
	gen, _ := w.desired("galena")
	if len(gen.Doc.RevertTo) != 1 {
		t.Errorf("revert_to %v", gen.Doc.RevertTo)
	}
}

// TestPublishNumberWithTwoDigests shows that a reused number stops a publish.
func TestPublishNumberWithTwoDigests(t *testing.T) {
	w := newWorld(t)
	w.published("galena")
	rel := w.releases()[0]
	if err := os.RemoveAll(filepath.Join(w.dir, "releases")); err != nil {
		t.Fatal(err)
	}
	w.server.Newest, w.server.Head = map[string]*fleetv1.SignedGeneration{}, ""
	w.bundle("v2")
	w.published("galena")
	if err := repo.At(w.dir).WriteRelease(rel); err != nil {
		t.Fatal(err)
	}
	w.fails(exitRefused, "two digests", "publish", "galena")
}
