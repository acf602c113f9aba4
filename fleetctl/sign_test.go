package fleetctl

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/publisher"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

var releaseName = regexp.MustCompile(`r\d{8}-\d{6}-[0-9a-f]{6}`)

// staged stages as CI would, without the release key, and returns the release.
func (w *world) staged(args ...string) string {
	w.t.Helper()
	return releaseName.FindString(w.ok(append([]string{"publish", "--stage"}, args...)...))
}

// withoutKey hides a key while f runs.
func (w *world) withoutKey(name string, f func()) {
	w.t.Helper()
	file := filepath.Join(w.dir, "trust", "keys", name+".age")
	data, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		w.t.Fatal(err)
	}
	f()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// TestStageAndSign: CI stages without a key, hosts see nothing, a person signs
// after seeing what changes.
func TestStageAndSign(t *testing.T) {
	w := newWorld(t)
	w.published()
	w.bundle("v2")
	id := ""
	w.withoutKey("release-1", func() {
		w.golden("publish-stage", w.ok("publish", "--stage", "galena"))
		w.ok("publish", "--stage", "--dry-run")
		clear(w.server.Proposals)
		id = w.staged()
	})
	head := w.server.Head
	for _, m := range w.server.Methods[len(w.server.Methods)-3:] {
		if strings.HasSuffix(m, "ApplyInventory") || strings.HasSuffix(m, "Commit") {
			t.Errorf("staging calls %s", m)
		}
	}
	w.golden("releases-waiting", w.ok("releases", "--waiting"))
	w.fails(exitUsage, "no terminal", "sign", id)
	if w.server.Head != head {
		t.Fatal("hosts see what nobody signed")
	}
	w.answers, w.asked = "y\n", true
	out := w.ok("sign", id)
	w.golden("sign", out)
	if w.server.Head != id {
		t.Fatalf("the head is %s", w.server.Head)
	}
	got, _ := w.desired("galena")
	if got.Doc.Number.String() != "1.2" || string(got.Doc.Release) != id {
		t.Errorf("galena gets %s of %s", got.Doc.Number, got.Doc.Release)
	}
	// Who got no answer asks again, and has it on record then.
	all := w.releases()
	rel := all[slices.IndexFunc(all, func(r *repo.Release) bool { return string(r.ID) == id })]
	rel.State = repo.ReleasePrepared
	r, err := repo.Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.WriteRelease(rel); err != nil {
		t.Fatal(err)
	}
	if out := w.ok("sign", id); !strings.Contains(out, "is committed already: there is nothing to sign") {
		t.Errorf("sign again:\n%s", out)
	}
	for _, rel := range w.releases() {
		if rel.State != repo.ReleaseCommitted {
			t.Errorf("release %s: state %s", rel.ID, rel.State)
		}
	}
	var again signResult
	if err := json.Unmarshal([]byte(w.ok("sign", id, "-o", "json")), &again); err != nil || !again.Committed || again.Waiting {
		t.Errorf("%+v, %v", again, err)
	}
	w.fails(exitRefused, "no such proposal", "sign", "r20260301-120000-000000")

	// Staged by somebody who built something else.
	w.bundle("v3")
	id = w.staged("galena")
	w.bundle("v4")
	var res signResult
	if err := json.Unmarshal([]byte(w.ok("sign", id, "-y", "-o", "json")), &res); err != nil {
		t.Fatal(err)
	}
	if len(res.Changes) != 1 || res.Changes[0].Checked != publisher.SourceDiffers || !res.Committed {
		t.Errorf("%+v", res)
	}
}

// TestSignTakesNothingElseFromCI: settings, revision, blobs and machines are
// those of the signer, or it is refused.
func TestSignTakesNothingElseFromCI(t *testing.T) {
	w := newWorld(t)
	w.published()
	tamper := func(change func(*publisher.Proposal)) string {
		t.Helper()
		id := w.staged("galena")
		n := w.server.Proposals[id]
		p, err := publisher.ParseProposal(w.server.Blobs[n.GetDigest()], "first", fleet.ReleaseID(id))
		if err != nil {
			t.Fatal(err)
		}
		change(p)
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		n.Digest, n.Size = string(fleet.DigestOf(data)), uint64(len(data))
		w.server.Blobs[n.Digest] = data
		return id
	}
	for name, tc := range map[string]struct {
		change func(*publisher.Proposal)
		code   int
		text   string
	}{
		"another policy":   {func(p *publisher.Proposal) { p.Staged[0].Settings = fleet.DigestOf([]byte("x")) }, exitError, "says something else"},
		"another machine":  {func(p *publisher.Proposal) { p.Staged[0].Machine = "electrum" }, exitError, "says something else"},
		"a bad machine":    {func(p *publisher.Proposal) { p.Staged[0].Machine = "../x" }, exitError, "no proposal"},
		"twice":            {func(p *publisher.Proposal) { p.Staged = append(p.Staged, p.Staged[0]) }, exitError, "twice"},
		"another driver":   {func(p *publisher.Proposal) { p.Staged[0].Source.Driver = "nixos" }, exitError, "driver"},
		"no such blob":     {func(p *publisher.Proposal) { p.Staged[0].Source.Bundle.Digest = fleet.DigestOf([]byte("x")) }, exitError, "does not have"},
		"another revision": {func(p *publisher.Proposal) { p.Revision = "abc" }, exitError, "another revision"},
		"another fleet":    {func(p *publisher.Proposal) { p.Fleet = "second" }, exitError, "no proposal"},
		"another format":   {func(p *publisher.Proposal) { p.Format = 2 }, exitError, "no proposal"},
		"nothing":          {func(p *publisher.Proposal) { p.Staged = nil }, exitError, "no proposal"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			head := w.server.Head
			w.fails(tc.code, tc.text, "sign", tamper(tc.change), "--yes")
			if w.server.Head != head {
				t.Error("it was committed")
			}
		})
	}
	w.t = t
	// What the coordinator hands out is not what was proposed.
	id := w.staged("galena")
	w.server.Proposals[id].Digest = string(fleet.DigestOf([]byte("x")))
	w.fails(exitRefused, "not the one that was announced", "sign", id, "-y")
	w.ok("sign", tamper(func(p *publisher.Proposal) { p.Revision = "abc" }), "-y", "--any-revision")
	w.fails(exitUsage, "malformed", "sign", "../x")
	w.fails(exitUsage, "exclude", "publish", "--stage", "--refresh")
}

// TestTwoReleaseKeys: a publish with one key of two waits, and the other person
// signs it on their own machine.
func TestTwoReleaseKeys(t *testing.T) {
	w := newWorld(t)
	dana := w.person("dana")
	dana.ok("trust", "new-key", "release-dana", "--recipient", dana.ageRecipient())
	w.pull(dana)
	w.ok("trust", "add-key", "release", filepath.Join(w.dir, "trust", "keys", "release-dana.pub"))
	w.ok("trust", "set-threshold", "release", "2")
	w.ok("trust", "sign", "-y")
	w.ok("operator", "add", "dana", "--role", "deployer", "--request", dana.request())
	id := releaseName.FindString(w.ok("publish"))
	if rel := w.releases()[0]; rel.State != repo.ReleaseStaged || w.server.Head != "" {
		t.Fatalf("state %s, head %q", rel.State, w.server.Head)
	}
	w.fails(exitError, "no release key that has not signed", "sign", id, "-y")
	dana.pull(w)
	if out := dana.ok("sign", id, "-y"); !strings.Contains(out, "Signed and committed") {
		t.Fatalf("sign:\n%s", out)
	}
	if w.server.Head != id {
		t.Fatalf("the head is %q", w.server.Head)
	}
	if rel := dana.releases()[0]; rel.State != repo.ReleaseCommitted {
		t.Errorf("state %s", rel.State)
	}
	// The first one asks again, and has it only as staged.
	ahead := w.releases()[0]
	if ahead.State != repo.ReleaseStaged {
		t.Fatalf("state %s", ahead.State)
	}
	if out := w.ok("sign", id, "-y"); !strings.Contains(out, "is committed already") || w.releases()[0].State != repo.ReleaseCommitted {
		t.Errorf("sign again:\n%s", out)
	}
	r, err := repo.Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.WriteRelease(ahead); err != nil {
		t.Fatal(err)
	}
	// The first one's checkout, which is behind, finds out.
	id = releaseName.FindString(w.ok("publish"))
	for _, rel := range w.releases() {
		want := repo.ReleaseCommitted
		if string(rel.ID) == id {
			want = repo.ReleaseStaged
		}
		if rel.State != want {
			t.Errorf("release %s: state %s, want %s", rel.ID, rel.State, want)
		}
	}
	// From git alone: the coordinator lost the proposal.
	delete(w.server.Proposals, id)
	dana.pull(w)
	dana.ok("sign", id, "-y")
	if w.server.Head != id {
		t.Errorf("the head is %q", w.server.Head)
	}
	// A release that somebody altered on the way.
	id = releaseName.FindString(w.ok("publish"))
	n := w.server.Proposals[id]
	p, err := publisher.ParseProposal(w.server.Blobs[n.GetDigest()], "first", fleet.ReleaseID(id))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*repo.Published){
		"number":    func(g *repo.Published) { g.Number.Seq = 900 },
		"digest":    func(g *repo.Published) { g.Digest = fleet.DigestOf(nil) },
		"machine":   func(g *repo.Published) { g.Machine = "pyrite" },
		"documents": func(g *repo.Published) { g.Generation = []byte("{}") },
	} {
		rel := *p.Signed
		rel.Generations = append([]repo.Published{}, p.Signed.Generations...)
		change(&rel.Generations[0])
		data, err := json.Marshal(publisher.Proposal{Format: 1, Fleet: "first", Release: p.Release, Created: p.Created, Operator: p.Operator, Revision: p.Revision, Signed: &rel})
		if err != nil {
			t.Fatal(err)
		}
		ref := fleet.BlobRef{Digest: fleet.DigestOf(data), Size: uint64(len(data))}
		w.server.Blobs[string(ref.Digest)] = data
		w.server.Proposals[id] = &fleetv1.Proposal{Release: id, Digest: string(ref.Digest), Size: ref.Size}
		dana.pull(w)
		head := w.server.Head
		if code, _, errs := dana.run("sign", id, "-y"); code == exitOK || w.server.Head != head {
			t.Errorf("%s: exit %d, %s", name, code, errs)
		}
	}
}

func FuzzParseProposal(f *testing.F) {
	f.Add([]byte(`{"format":1,"fleet":"first","release":"r1","staged":[{"machine":"galena","profile":"system","source":{"driver":"bundle"},"settings":""}]}`))
	f.Add([]byte(`{"format":1,"fleet":"first","release":"r1","signed":{"id":"r1","fleet":"first","generations":[]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := publisher.ParseProposal(b, "first", "r1")
		if err == nil && (p.Release != "r1" || len(p.Staged) == 0 && p.Signed == nil) {
			t.Errorf("%q is taken", b)
		}
	})
}
