package publish

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// records is a store of which nothing is asked but reading, and forgetting.
type records struct {
	store.Store
	kvs []store.KV
}

func (r *records) List(_ context.Context, prefix, after string, limit int) (out []store.KV, err error) {
	for _, kv := range r.kvs {
		if strings.HasPrefix(kv.Key, prefix) && kv.Key > after && len(out) < limit {
			out = append(out, kv)
		}
	}
	return out, nil
}

func (r *records) Txn(_ context.Context, conds []store.Cond, ops []store.Op) (uint64, error) {
	for _, op := range ops {
		if !op.Delete || len(conds) > 0 {
			return 0, errors.New("reading writes")
		}
	}
	return 1, store.CheckTxn(conds, ops)
}

// FuzzStored: whatever became of a record, what is desired is what somebody
// signed, for whom they signed it; a record that can't be read is named, or left
// out.
func FuzzStored(f *testing.F) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	// The same key in each process: seeds are made in one, and fuzzed in others.
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	signer := release.NewSigner(key)
	id, public := release.NewKey(key.Public().(ed25519.PublicKey))
	root := release.Root{
		Type: fleet.TypeRoot, Fleet: "first", Version: 1, Epoch: 1, Issued: at, Expires: at.AddDate(1, 0, 0),
		Keys: map[string]release.Key{id: public}, Roles: map[release.RoleName]release.RoleKeys{},
	}
	for _, role := range append(release.Roles(), release.RoleFreshness) {
		root.Roles[role] = release.RoleKeys{Threshold: 1, KeyIDs: []string{id}}
	}
	signed := map[fleet.Digest]bool{}
	seal := func(docType string, doc any) ([]byte, fleet.Digest) {
		env, digest, err := release.Seal(docType, doc, signer)
		if err != nil {
			f.Fatal(err)
		}
		signed[digest] = true
		return env, digest
	}
	first, pin := seal(fleet.TypeRoot, root)
	root.Version = 2
	second, _ := seal(fleet.TypeRoot, root)
	generation := func(m fleet.MachineName, seq uint64, revert ...fleet.Ref) ([]byte, fleet.Ref) {
		env, digest := seal(fleet.TypeGeneration, fleet.Generation{
			Type: fleet.TypeGeneration, Fleet: "first", Machine: m, Profile: fleet.System, Number: fleet.Number{Epoch: 1, Seq: seq}, Release: "r1",
			Issued: at, Expires: at.AddDate(0, 6, 0), RevertTo: revert,
			Source: fleet.Source{Driver: "bundle", Bundle: &fleet.BundleSource{Digest: fleet.DigestOf([]byte("x")), Size: 1}},
		})
		return env, fleet.Ref{Number: fleet.Number{Epoch: 1, Seq: seq}, Digest: digest, Release: "r1"}
	}
	old, oldRef := generation("galena", 1)
	newer, newRef := generation("galena", 2, oldRef)
	others, _ := generation("pyrite", 5)
	statement, _ := seal(fleet.TypeFreshness, fleet.Freshness{
		Type: fleet.TypeFreshness, Fleet: "first", Machine: "galena", Issued: at, Expires: at.Add(time.Hour), Root: 1,
		Highest: map[fleet.ProfileName]fleet.Ref{fleet.System: newRef},
	})
	retry, retryDigest := seal(fleet.TypeLoosening, fleet.Loosening{
		Type: fleet.TypeLoosening, Fleet: "first", Machine: "galena", Profile: fleet.System, Action: fleet.LoosenRetry, Digest: newRef.Digest, Issued: at, Expires: at.Add(time.Hour),
	})
	record := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	// Sorted by key, as a store lists them; a fuzzer knows records by their number.
	whole := []store.KV{
		{Key: adoptedPrefix + "galena/" + oldRef.Digest.Hex() + "/system", Value: encodePair(old, nil)},
		{Key: freshnessPrefix + "galena", Value: statement},
		{Key: looseningPrefix + "galena/" + retryDigest.Hex(), Value: record(loosening{retryDigest, at.Add(time.Hour), retry})},
		{Key: proposalPrefix + "r2", Value: record(Proposal{Release: "r2", Time: at})},
		{Key: releasePrefix + "r1", Value: record(Release{ID: "r1", Committed: at, Actor: "operator/ann", Machines: 1, Count: 1, Seq: 1})},
		{Key: revertPrefix + "galena/system", Value: record(Revert{Machine: "galena", Profile: fleet.System, Newest: newRef.Digest, Target: oldRef, Actor: "operator/ann", Time: at})},
		{Key: rootKey(2), Value: second},
		{Key: stagedPrefix + "r1/galena/system", Value: encodePair(newer, nil)},
		{Key: stagingPrefix + "r3", Value: record(at)},
	}
	for i, kv := range whole {
		f.Add(uint8(i), kv.Value) //nolint:gosec // A few.
	}
	// What a stranger signed.
	stranger := release.NewSigner(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, ed25519.SeedSize)))
	forged, _, err := release.Seal(fleet.TypeLoosening, fleet.Loosening{
		Type: fleet.TypeLoosening, Fleet: "first", Machine: "galena", Profile: fleet.System, Action: fleet.LoosenRetry, Digest: oldRef.Digest, Issued: at, Expires: at.Add(time.Hour),
	}, stranger)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(2), record(loosening{retryDigest, at.Add(time.Hour), forged}))
	f.Add(uint8(2), []byte("[]"))
	f.Add(uint8(5), []byte("[]"))
	f.Add(uint8(8), []byte("{}"))
	f.Add(uint8(0), encodePair(others, nil))
	f.Add(uint8(0), encodePair(newer, old))
	f.Add(uint8(1), others)
	f.Add(uint8(4), []byte("null"))
	f.Add(uint8(5), []byte(`{"machine":"galena","profile":"system","newest":"`+string(newRef.Digest)+`"}`))
	f.Add(uint8(6), first)
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		n := int(which) % len(whole)
		kvs := slices.Clone(whole)
		kvs[n].Value = data
		now := func() time.Time { return at.Add(time.Minute) }
		p, err := Open(t.Context(), Options{
			Store: &records{kvs: kvs}, Roots: [][]byte{first}, RootPin: pin, Now: now, Slog: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			if !errors.Is(err, errRecord) || !strings.Contains(err.Error(), kvs[n].Key) {
				t.Errorf("refused as %v", err)
			}
			return
		}
		if _, err := p.Proposals(t.Context()); err != nil && !errors.Is(err, errRecord) {
			t.Errorf("proposals are refused as %v", err)
		}
		for _, m := range []fleet.MachineName{"galena", "pyrite"} {
			for _, d := range p.Desired(m) {
				for _, g := range []*Gen{d.Newest, d.Revert} {
					if g != nil && (g.Machine != m || !signed[g.Ref.Digest]) {
						t.Errorf("of %s is desired %+v", m, g)
					}
				}
			}
			if env := p.Freshness(m); env != nil && (m != "galena" || !signed[payloadOf(t, env)]) {
				t.Errorf("nobody stated %s of %s", env, m)
			}
			for _, env := range p.Loosenings(m) {
				if m != "galena" || !signed[payloadOf(t, env)] {
					t.Errorf("nobody loosened %s of %s", env, m)
				}
			}
		}
		if v := p.Trust().Root().Version; v > 2 || !signed[p.Trust().Digest()] {
			t.Errorf("nobody signed the trust root of version %d", v)
		}
		if n > 4 && len(p.Desired("galena")) != 1 {
			t.Error("another record took away what is desired")
		}
	})
}

// payloadOf is the digest of an envelope's payload.
func payloadOf(t *testing.T, envelope []byte) fleet.Digest {
	t.Helper()
	var e struct{ Payload []byte }
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	return fleet.DigestOf(e.Payload)
}
