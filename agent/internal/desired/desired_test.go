package desired_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

var system = release.Host{Fleet: agenttest.FleetID, Machine: agenttest.Machine, Profile: fleet.System}

func source() fleet.Source {
	return fleet.Source{Driver: "bundle", Bundle: &fleet.BundleSource{Digest: fleet.DigestOf([]byte("b")), Size: 1}}
}

func newStore(t testing.TB, f *agenttest.Fleet, dir string) *desired.Store {
	t.Helper()
	s, err := desired.Open(dir, f.RootPin, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddRoots(f.Roots); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTakePersists(t *testing.T) {
	f, dir := agenttest.NewFleet(t), t.TempDir()
	s := newStore(t, f, dir)
	now := time.Now()
	if d, _ := s.Desired(system, now); d.Target != nil || d.Refusal.Code != "" {
		t.Errorf("desired of nothing: %+v", d)
	}
	g := f.Generation(1, source())
	env1, first := f.Seal(g)
	g = f.Generation(2, source())
	g.RevertTo = []fleet.Ref{first}
	env2, second := f.Seal(g)
	offer := desired.Offer{Profile: fleet.System, Newest: desired.Document{Generation: env2}}
	if err := s.Take(system, offer, now); err != nil {
		t.Fatal(err)
	}
	offer.Revert = &desired.Document{Generation: env1}
	if err := s.Take(system, offer, now); err != nil {
		t.Fatal(err)
	}

	s = newStore(t, f, dir) // and roots that are here already are passed over
	d, o := s.Desired(system, now)
	if d.Target == nil || *d.Target != first || !d.Revert || o.Ref() != first {
		t.Errorf("after opening again: %+v", d)
	}
	if newest := s.Newest(fleet.System); newest == nil || newest.Ref() != second {
		t.Errorf("newest: %+v", newest)
	}
	if s.Floor().Before(f.Issued) {
		t.Errorf("floor: %s", s.Floor())
	}
	// Once it is not sent back any more, the newest counts.
	offer.Revert = nil
	if err := s.Take(system, offer, now); err != nil {
		t.Fatal(err)
	}
	if d, _ := s.Desired(system, now); d.Target == nil || *d.Target != second || d.Revert {
		t.Errorf("without revert: %+v", d)
	}
	// What expired is judged when it is asked for.
	if d, _ := s.Desired(system, now.Add(48*time.Hour)); d.Target != nil || d.Refusal.Code != release.ErrExpired.Code {
		t.Errorf("expired: %+v", d)
	}
}

func TestRefusedChangesNothing(t *testing.T) {
	f := agenttest.NewFleet(t)
	s := newStore(t, f, t.TempDir())
	now := time.Now()
	env, ref := f.Seal(f.Generation(1, source()))
	if err := s.Take(system, desired.Offer{Profile: fleet.System, Newest: desired.Document{Generation: env}}, now); err != nil {
		t.Fatal(err)
	}
	evil, _ := f.Seal(f.Generation(2, source()), f.Stranger)
	err := s.Take(system, desired.Offer{Profile: fleet.System, Newest: desired.Document{Generation: evil}}, now)
	if !errors.Is(err, release.ErrUnknownKey) {
		t.Errorf("a stranger's: %v", err)
	}
	d, _ := s.Desired(system, now)
	if d.Target == nil || *d.Target != ref || d.Refusal.Code != release.ErrUnknownKey.Code {
		t.Errorf("desired: %+v", d)
	}
}

// TestUnsignedProfiles are not remembered, whatever number of them is offered.
func TestUnsignedProfiles(t *testing.T) {
	f := agenttest.NewFleet(t)
	s := newStore(t, f, t.TempDir())
	now := time.Now()
	env, _ := f.Seal(f.Generation(1, source()))
	g := f.Generation(1, source())
	g.Profile, g.Machine = "home/bob", "other"
	others, _ := f.Seal(g)
	for _, d := range [][]byte{nil, []byte("{}"), env, others} {
		h := system
		h.Profile = "home/bob"
		if err := s.Take(h, desired.Offer{Profile: h.Profile, Newest: desired.Document{Generation: d}}, now); err == nil {
			t.Fatal("taken")
		}
	}
	if p := s.Profiles(); len(p) != 0 {
		t.Errorf("remembered: %v", p)
	}
	g.Machine = agenttest.Machine
	expired, _ := f.Seal(g)
	h := system
	h.Profile = "home/bob"
	err := s.Take(h, desired.Offer{Profile: h.Profile, Newest: desired.Document{Generation: expired}}, now.Add(48*time.Hour))
	if !errors.Is(err, release.ErrExpired) || len(s.Profiles()) != 1 {
		t.Errorf("a signed one: %v, remembered: %v", err, s.Profiles())
	}
}

func TestAcceptedOutlivesItsKey(t *testing.T) {
	f := agenttest.NewFleet(t)
	s := newStore(t, f, t.TempDir())
	env, ref := f.Seal(f.Generation(1, source()))
	if err := s.Take(system, desired.Offer{Profile: fleet.System, Newest: desired.Document{Generation: env}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	f.Root.Roles[release.RoleRelease] = release.RoleKeys{}
	f.AddKey(release.RoleRelease)
	f.NextRoot()
	if err := s.AddRoots(f.Roots); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(ref.Digest); !errors.Is(err, release.ErrUnknownKey) {
		t.Errorf("Load: %v", err)
	}
	if g, err := s.LoadAccepted(ref.Digest); err != nil || g.Number != ref.Number {
		t.Errorf("LoadAccepted: %+v, %v", g, err)
	}
	if d, _ := s.Desired(system, time.Now()); d.Target != nil || d.Refusal.Code != release.ErrUnknownKey.Code {
		t.Errorf("desired: %+v", d)
	}
}

func TestRootsThatDoNotFollow(t *testing.T) {
	f := agenttest.NewFleet(t)
	dir := t.TempDir()
	s := newStore(t, f, dir)
	other := agenttest.NewFleet(t)
	if err := s.AddRoots(other.Roots); err == nil || s.RootVersion() != 1 {
		t.Errorf("another fleet's root: %v, version %d", err, s.RootVersion())
	}
	f.NextRoot()
	f.NextRoot()
	if err := s.AddRoots(f.Roots[2:]); !errors.Is(err, release.ErrRootVersion) {
		t.Errorf("a version left out: %v", err)
	}
	if err := s.AddRoots(f.Roots); err != nil || s.RootVersion() != 3 {
		t.Errorf("the whole chain: %v, version %d", err, s.RootVersion())
	}
	// Where to start from is the pin's to say: nothing of another chain counts.
	if s, err := desired.Open(dir, other.RootPin, 0); err != nil || s.Trust() != nil {
		t.Errorf("another pin: %v", err)
	}
}

func TestPruneAndDamage(t *testing.T) {
	f, dir := agenttest.NewFleet(t), t.TempDir()
	s := newStore(t, f, dir)
	var refs []fleet.Ref
	for seq := uint64(1); seq <= 3; seq++ {
		env, ref := f.Seal(f.Generation(seq, source()))
		refs = append(refs, ref)
		h := system
		if err := s.Take(h, desired.Offer{Profile: fleet.System, Newest: desired.Document{Generation: env}}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Prune(map[fleet.Digest]bool{refs[0].Digest: true}); err != nil {
		t.Fatal(err)
	}
	for i, gone := range []bool{false, true, false} { // the third is pointed at
		if _, err := s.Document(refs[i].Digest); errors.Is(err, desired.ErrNotHere) != gone {
			t.Errorf("document %d: %v", i+1, err)
		}
	}
	// One document under another's name is no document.
	docs := filepath.Join(dir, "documents")
	if err := os.Rename(filepath.Join(docs, refs[0].Digest.Hex()+".json"), filepath.Join(docs, refs[1].Digest.Hex()+".json")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadAccepted(refs[1].Digest); !errors.Is(err, release.ErrSignature) {
		t.Errorf("LoadAccepted: %v", err)
	}
	if _, err := s.Load(refs[1].Digest); !errors.Is(err, release.ErrSignature) {
		t.Errorf("Load: %v", err)
	}
}
