package publisher

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var issued = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// trust is a root with one key in all roles.
func trust(t testing.TB, epoch uint64) (*release.Trust, ed25519.PrivateKey) {
	t.Helper()
	// The same in each process: seeds are made in one, and fuzzed in others.
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	id, pub := release.NewKey(key.Public().(ed25519.PublicKey))
	root := release.Root{
		Type: fleet.TypeRoot, Fleet: "first", Version: 1, Epoch: epoch, Issued: issued, Expires: issued.AddDate(1, 0, 0),
		Keys: map[string]release.Key{id: pub}, Roles: map[release.RoleName]release.RoleKeys{},
	}
	for _, role := range release.Roles() {
		root.Roles[role] = release.RoleKeys{Threshold: 1, KeyIDs: []string{id}}
	}
	env, digest, err := release.Seal(fleet.TypeRoot, root, release.NewSigner(key))
	if err != nil {
		t.Fatal(err)
	}
	tr, err := release.OpenRoot(env, digest)
	if err != nil {
		t.Fatal(err)
	}
	return tr, key
}

func generation(t testing.TB, key ed25519.PrivateKey, n fleet.Number, content string) (client.Envelopes, fleet.Digest) {
	t.Helper()
	env, digest, err := release.Seal(fleet.TypeGeneration, fleet.Generation{
		Type: fleet.TypeGeneration, Fleet: "first", Machine: "galena", Profile: fleet.System, Number: n, Release: "r1",
		Issued: issued, Expires: issued.AddDate(0, 6, 0),
		Source: fleet.Source{Driver: "bundle", Bundle: &fleet.BundleSource{Digest: fleet.DigestOf([]byte(content)), Size: 1}},
	}, release.NewSigner(key))
	if err != nil {
		t.Fatal(err)
	}
	return client.Envelopes{Generation: env}, digest
}

func published(t testing.TB, key ed25519.PrivateKey, n fleet.Number, content string, state repo.ReleaseState) *repo.Release {
	t.Helper()
	env, digest := generation(t, key, n, content)
	return &repo.Release{ID: "r1", State: state, Generations: []repo.Published{{
		Machine: "galena", Profile: fleet.System, Number: n, Digest: digest, Generation: env.Generation,
	}}}
}

var galena = subject{"galena", fleet.System}

// TestNextIsAboveAll shows that whatever was published, in whatever order and
// state, the next number is higher, and what hosts may go back to is lower.
func TestNextIsAboveAll(t *testing.T) {
	tr, key := trust(t, 3)
	rapid.Check(t, func(rt *rapid.T) {
		states := []repo.ReleaseState{repo.ReleasePrepared, repo.ReleaseCommitted, repo.ReleaseAbandoned}
		var releases []*repo.Release
		var used []fleet.Number
		for range rapid.IntRange(0, 12).Draw(rt, "releases") {
			n := fleet.Number{Epoch: rapid.Uint64Range(1, 3).Draw(rt, "epoch"), Seq: rapid.Uint64Range(1, 30).Draw(rt, "seq")}
			releases = append(releases, published(t, key, n, "same", rapid.SampledFrom(states).Draw(rt, "state")))
			used = append(used, n)
		}
		h, err := gather(tr, releases, client.Head{})
		if err != nil {
			rt.Fatal(err)
		}
		next, err := h.next(galena, 3)
		if err != nil {
			rt.Fatal(err)
		}
		for _, n := range used {
			if next.Compare(n) <= 0 {
				rt.Fatalf("%s after %s", next, n)
			}
		}
		back := h.revertTo(galena)
		if len(back) > maxRevert {
			rt.Fatalf("%d generations to go back to", len(back))
		}
		for i, r := range back {
			if r.Number.Compare(next) >= 0 || i > 0 && r.Number.Compare(back[i-1].Number) >= 0 {
				rt.Fatalf("revert_to %v before %s", back, next)
			}
		}
	})
}

func TestGather(t *testing.T) {
	tr, key := trust(t, 1)
	stranger := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, ed25519.SeedSize))
	one, two := fleet.Number{Epoch: 1, Seq: 1}, fleet.Number{Epoch: 1, Seq: 2}
	env := func(k ed25519.PrivateKey, n fleet.Number, content string) client.Envelopes {
		e, _ := generation(t, k, n, content)
		return e
	}
	for name, test := range map[string]struct {
		releases []*repo.Release
		head     []client.Envelopes
		alarm    bool
		highest  fleet.Number
		unknown  int
	}{
		"nothing":             {},
		"both the same":       {[]*repo.Release{published(t, key, one, "a", repo.ReleaseCommitted)}, []client.Envelopes{env(key, one, "a")}, false, one, 0},
		"head is behind":      {[]*repo.Release{published(t, key, two, "b", repo.ReleaseCommitted)}, []client.Envelopes{env(key, one, "a")}, false, two, 1},
		"head is ahead":       {[]*repo.Release{published(t, key, one, "a", repo.ReleaseCommitted)}, []client.Envelopes{env(key, two, "b")}, false, two, 1},
		"two digests":         {[]*repo.Release{published(t, key, one, "a", repo.ReleaseCommitted)}, []client.Envelopes{env(key, one, "b")}, true, one, 0},
		"abandoned is no lie": {[]*repo.Release{published(t, key, one, "a", repo.ReleaseAbandoned)}, []client.Envelopes{env(key, one, "b")}, false, one, 1},
		"stranger's key":      {nil, []client.Envelopes{env(stranger, one, "a")}, true, one, 0},
		"old key, but ours":   {[]*repo.Release{published(t, stranger, one, "a", repo.ReleaseCommitted)}, []client.Envelopes{env(stranger, one, "a")}, false, one, 0},
		"secrets added":       {nil, []client.Envelopes{{Generation: env(key, one, "a").Generation, Secrets: []byte("{}")}}, true, one, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := gather(tr, test.releases, client.Head{Generations: test.head})
			if errors.Is(err, ErrAlarm) != test.alarm || err != nil && !test.alarm {
				t.Fatalf("error %v", err)
			}
			if err == nil && (h.of(galena).highest.Number != test.highest || len(h.unknown) != test.unknown) {
				t.Errorf("highest %s, unknown %v", h.of(galena).highest.Number, h.unknown)
			}
		})
	}
}

func TestNextEpoch(t *testing.T) {
	tr, key := trust(t, 2)
	h, err := gather(tr, []*repo.Release{published(t, key, fleet.Number{Epoch: 1, Seq: 40}, "a", repo.ReleaseCommitted)}, client.Head{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := h.next(galena, 2); err != nil || n != (fleet.Number{Epoch: 2, Seq: 1}) {
		t.Errorf("%s, %v", n, err)
	}
	h.of(galena).highest.Number.Epoch = 3
	if _, err := h.next(galena, 2); !errors.Is(err, release.ErrWrongEpoch) {
		t.Errorf("beyond the epoch: %v", err)
	}
}

// FuzzHead shows that nothing that a coordinator sends as its head is taken
// without a signature.
func FuzzHead(f *testing.F) {
	tr, key := trust(f, 1)
	good, _ := generation(f, key, fleet.Number{Epoch: 1, Seq: 1}, "a")
	f.Add(good.Generation, []byte(nil))
	f.Add([]byte(`{"payload":"e30=","payloadType":"x","signatures":[]}`), []byte("{}"))
	f.Add([]byte("null"), []byte("null"))
	payload, err := repo.Payload(good.Generation)
	if err != nil {
		f.Fatal(err)
	}
	want := fleet.DigestOf(payload)
	f.Fuzz(func(t *testing.T, gen, secrets []byte) {
		h, err := gather(tr, nil, client.Head{Generations: []client.Envelopes{{Generation: gen, Secrets: secrets}}})
		if err == nil && h.of(galena).highest.Digest != want {
			t.Errorf("took %s", gen)
		}
	})
}

// TestRead: releases that come while they are read, as by a git pull, are not
// missed.
func TestRead(t *testing.T) {
	r := repo.At(t.TempDir())
	p := &Publisher{Repo: r}
	for _, id := range []fleet.ReleaseID{"2026-01-01T00-00-00Z-aaaaaaaa", "2026-01-02T00-00-00Z-bbbbbbbb"} {
		before, err := r.Releases()
		if err != nil {
			t.Fatal(err)
		}
		read, end := p.read(t.Context())
		none, _ := p.read(t.Context())
		end()
		if got, err := none(); err != nil || len(got) != len(before) {
			t.Fatalf("read %d of %d, %v", len(got), len(before), err)
		}
		if err := r.WriteRelease(&repo.Release{ID: id, State: repo.ReleaseCommitted}); err != nil {
			t.Fatal(err)
		}
		if got, err := read(); err != nil || len(got) != len(before)+1 {
			t.Errorf("read %d of %d, %v", len(got), len(before)+1, err)
		}
	}
}
