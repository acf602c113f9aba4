package coordinator_test

import (
	"maps"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// nextRoot signs the root that follows t, after a change.
func (w *world) nextRoot(t *release.Trust, change func(*release.Root)) ([]byte, *release.Trust) {
	w.t.Helper()
	r := *t.Root()
	r.Keys, r.Roles = maps.Clone(r.Keys), maps.Clone(r.Roles)
	r.Version++
	r.Issued = w.clock.now()
	change(&r)
	env, _, err := release.Seal(fleet.TypeRoot, r, w.rootKey)
	check(w.t, err)
	next, err := t.Next(env)
	check(w.t, err)
	return env, next
}

func (w *world) addRoots(as fleet.OperatorName, roots ...[]byte) (uint64, error) {
	r, err := w.operator(as).AddTrustRoots(w.t.Context(), &fleetv1.AddTrustRootsRequest{Roots: roots})
	return r.GetVersion(), err
}

func noChange(*release.Root) {}

// TestReleaseKeyIsRotated: hosts are woken and walk, what the old key signed is
// offered no longer but is no alarm either, and the new key's releases count.
func TestReleaseKeyIsRotated(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	refs := w.publish("r1", "", 1, galena)
	a.confirm(refs["galena"])
	s := a.mustWatch(t.Context())
	fresh, pub := newSigner(t)
	env, next := w.nextRoot(w.root, func(r *release.Root) {
		id, k := release.NewKey(pub)
		r.Keys[id] = k
		r.Roles[release.RoleRelease] = release.RoleKeys{Threshold: 1, KeyIDs: []string{id}}
	})
	v, err := w.addRoots("dana", env)
	check(t, err)
	if v != 2 {
		t.Fatalf("version %d", v)
	}
	await(t, s, fleetv1.WakeReason_WAKE_REASON_DESIRED)
	check2 := func() {
		t.Helper()
		d, err := a.host.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{RootVersion: 1})
		check(t, err)
		if len(d.GetRoots()) != 1 || len(d.GetProfiles()) != 0 {
			t.Errorf("%d roots, %d profiles", len(d.GetRoots()), len(d.GetProfiles()))
		}
	}
	check2()
	if got := a.confirm(refs["galena"]).GetUnknownGenerations(); len(got) != 0 {
		t.Errorf("the host is asked for %v", got)
	}
	w.stop()
	w.start() // The kit is the old one.
	check2()

	data, src := content("r2")
	op := w.operator("dana")
	check(t, w.upload(op, data, src))
	g, _ := w.generation("galena", 2, "r2", src)
	_, err = w.stage(op, "r2", &fleetv1.SignedGeneration{Generation: g})
	wantRefusal(t, err, codes.FailedPrecondition, release.ErrUnknownKey.Code)
	w.release = fresh
	g, ref := w.generation("galena", 2, "r2", src)
	_, err = w.stage(op, "r2", &fleetv1.SignedGeneration{Generation: g})
	check(t, err)
	_, err = op.Commit(t.Context(), &fleetv1.CommitRequest{Release: "r2", ExpectedHead: "r1", Count: 1})
	check(t, err)
	w.root = next
	d, err := a.host.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{RootVersion: 2})
	check(t, err)
	if got, err := next.OpenGeneration(d.GetProfiles()[0].GetNewest().GetGeneration()); err != nil || got.Digest != ref.Digest {
		t.Errorf("desired: %v, %v", got, err)
	}
	// The old key's generation is nothing to go back to.
	_, err = op.RollBack(t.Context(), &fleetv1.RollBackRequest{Machine: "galena"})
	wantRefusal(t, err, codes.FailedPrecondition, refusal.NoRollbackTarget)
	for _, e := range w.events("") {
		if e.GetAlarm() {
			t.Errorf("alarm: %s %s", e.GetKind(), e.GetMessage())
		}
	}
	if n, _ := count(w.events(""), "trust-root-added"); n != 1 {
		t.Errorf("%d events", n)
	}
}

// TestStagedUnderAnOldRoot: what was staged before a change of keys is judged
// again when it is committed.
func TestStagedUnderAnOldRoot(t *testing.T) {
	w := newWorld(t)
	op := w.operator("dana")
	data, src := content("r1")
	check(t, w.upload(op, data, src))
	g, _ := w.generation("galena", 1, "r1", src)
	_, err := w.stage(op, "r1", &fleetv1.SignedGeneration{Generation: g})
	check(t, err)
	_, pub := newSigner(t)
	env, _ := w.nextRoot(w.root, func(r *release.Root) {
		id, k := release.NewKey(pub)
		r.Keys[id] = k
		r.Roles[release.RoleRelease] = release.RoleKeys{Threshold: 1, KeyIDs: []string{id}}
	})
	_, err = w.addRoots("dana", env)
	check(t, err)
	_, err = op.Commit(t.Context(), &fleetv1.CommitRequest{Release: "r1", Count: 1})
	wantRefusal(t, err, codes.FailedPrecondition, release.ErrUnknownKey.Code)
}

func TestTrustRootRefusals(t *testing.T) {
	w := newWorld(t)
	second, next := w.nextRoot(w.root, noChange)
	third, _ := w.nextRoot(next, noChange)
	_, err := w.addRoots("dana", third)
	wantRefusal(t, err, codes.FailedPrecondition, release.ErrRootVersion.Code)
	_, err = w.addRoots("dana", []byte("no root"))
	wantRefusal(t, err, codes.InvalidArgument, release.ErrMalformed.Code)
	future, _ := w.nextRoot(w.root, func(r *release.Root) { r.Issued = w.clock.now().Add(2 * time.Hour) })
	_, err = w.addRoots("dana", future)
	wantRefusal(t, err, codes.FailedPrecondition, fleet.ReasonClock)
	own := w.rootKey
	w.rootKey, _ = newSigner(t)
	alien, _, serr := release.Seal(fleet.TypeRoot, next.Root(), w.rootKey)
	check(t, serr)
	_, err = w.addRoots("dana", alien)
	wantRefusal(t, err, codes.FailedPrecondition, release.ErrUnknownKey.Code)
	w.rootKey = own

	v, err := w.addRoots("dana", w.root.Envelope(), second, third, second)
	check(t, err)
	if v != 3 {
		t.Errorf("version %d", v)
	}
	v, err = w.addRoots("dana") // asks only
	check(t, err)
	if v != 3 {
		t.Errorf("version %d", v)
	}
	// Another second root, signed by enough keys: somebody signs behind their back.
	fork, _ := w.nextRoot(w.root, func(r *release.Root) { r.Epoch++ })
	_, err = w.addRoots("dana", fork)
	wantRefusal(t, err, codes.FailedPrecondition, release.ErrRootVersion.Code)
	if n, alarm := count(w.events(""), "trust-root-refused"); n != 1 || !alarm {
		t.Errorf("%d events, alarm %t", n, alarm)
	}
}
