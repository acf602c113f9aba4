package desired_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// signed is a fleet with two generations, of which the second has secrets and may
// be reverted to the first.
type signed struct {
	*agenttest.Fleet
	first, second, secrets []byte
	refs                   []fleet.Ref
}

func newSigned(f *testing.F) *signed {
	f.Helper()
	s := &signed{Fleet: agenttest.FixedFleet(f)}
	env, ref := s.Seal(s.Generation(1, source()))
	s.first, s.refs = env, append(s.refs, ref)
	secrets, digest, err := release.Seal(fleet.TypeSecrets, fleet.SecretsManifest{
		Type: fleet.TypeSecrets, Fleet: agenttest.FleetID, Machine: agenttest.Machine, Profile: fleet.System,
		Issued: s.Issued, Expires: s.Issued.Add(24 * time.Hour),
		Entries: []fleet.SecretEntry{{Name: "token", Version: 1, Path: "web/token", Mode: 0o400, Digest: fleet.DigestOf([]byte("c")), Size: 1}},
	}, s.Secrets)
	if err != nil {
		f.Fatal(err)
	}
	g := s.Generation(2, source())
	g.Secrets, g.RevertTo = &fleet.SecretsRef{Digest: digest}, []fleet.Ref{ref}
	s.second, ref = s.Seal(g)
	s.secrets, s.refs = secrets, append(s.refs, ref)
	return s
}

func (s *signed) has(ref fleet.Ref) bool { return ref == s.refs[0] || ref == s.refs[1] }

// FuzzTake: no bytes of a coordinator's break the store, or get past it.
func FuzzTake(f *testing.F) {
	fl := newSigned(f)
	s := newStore(f, fl.Fleet, f.TempDir())
	strangers, _ := fl.Seal(fl.Generation(3, source()), fl.Stranger)
	f.Add(fl.first, []byte(nil), []byte(nil))
	f.Add(fl.second, fl.secrets, fl.first)
	f.Add(fl.second, []byte(nil), strangers)
	f.Add(strangers, fl.secrets, fl.first)
	f.Add([]byte(`{"payload":"","payloadType":"","signatures":[]}`), []byte(`{}`), []byte(nil))
	f.Fuzz(func(t *testing.T, generation, secrets, revert []byte) {
		o := desired.Offer{Profile: fleet.System, Newest: desired.Document{Generation: generation, Secrets: secrets}}
		if len(revert) > 0 {
			o.Revert = &desired.Document{Generation: revert}
		}
		err := s.Take(system, o, fl.Now())
		d, _ := s.Desired(system, fl.Now())
		if err == nil && (d.Target == nil || d.Revert != (len(revert) > 0)) {
			t.Errorf("taken, and what is desired is %+v", d)
		}
		if d.Target != nil && !fl.has(*d.Target) {
			t.Errorf("nobody signed %+v", d.Target)
		}
	})
}

// FuzzStored: whatever became of one of its files, the store opens, says so
// where anything is missing, and has nothing that nobody signed.
func FuzzStored(f *testing.F) {
	fl := newSigned(f)
	freshness := fl.AddKey(release.RoleFreshness)
	fl.NextRoot()
	dir := f.TempDir()
	s := newStore(f, fl.Fleet, dir)
	revert := &desired.Document{Generation: fl.first}
	if err := s.Take(system, desired.Offer{Profile: fleet.System, Newest: desired.Document{Generation: fl.second, Secrets: fl.secrets}, Revert: revert}, fl.Now()); err != nil {
		f.Fatal(err)
	}
	statement, digest, err := release.Seal(fleet.TypeFreshness, fleet.Freshness{
		Type: fleet.TypeFreshness, Fleet: agenttest.FleetID, Machine: agenttest.Machine, Issued: fl.Issued, Expires: fl.Issued.Add(time.Hour),
		Root: 1, Highest: map[fleet.ProfileName]fleet.Ref{fleet.System: fl.refs[1]},
	}, freshness)
	if err != nil {
		f.Fatal(err)
	}
	if err := s.TakeFreshness(agenttest.FleetID, agenttest.Machine, fl.Now(), statement); err != nil {
		f.Fatal(err)
	}
	// In a fixed order: a fuzzer knows files by their number.
	names := []string{
		"documents/" + fl.refs[0].Digest.Hex() + ".json", "documents/" + fl.refs[1].Digest.Hex() + ".json",
		"profiles/" + fleet.System.FileName() + ".json", "freshness.json",
		"roots/" + fl.RootPin.Hex() + "/1.json", "roots/" + fl.RootPin.Hex() + "/2.json",
	}
	var whole [][]byte
	for i, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			f.Fatal(err)
		}
		whole = append(whole, b)
		f.Add(uint8(i), b) //nolint:gosec // A few.
	}
	f.Add(uint8(0), whole[1])
	f.Add(uint8(5), whole[4])
	f.Add(uint8(2), []byte(`{"profile":"home/bob","newest":"`+string(fl.refs[0].Digest)+`"}`))
	f.Add(uint8(0), []byte(`{"generation":null}`))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		n := int(which) % len(names)
		file := filepath.Join(dir, names[n])
		// File systems flush what is written over a file that was cut.
		put := func(b []byte) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put(data)
		defer put(whole[n])
		s, err := desired.Open(dir, fl.RootPin, 0)
		if err != nil {
			t.Fatal(err)
		}
		now := fl.Now()
		d, _ := s.Desired(system, now)
		if d.Target != nil && !fl.has(*d.Target) {
			t.Errorf("nobody signed %+v", d.Target)
		}
		if d.Target == nil && d.Refusal.Code == "" && s.Damage() == nil {
			t.Error("nothing is desired, and nothing is said")
		}
		highest, err := s.Highest(agenttest.Machine)
		if err != nil {
			t.Error(err)
		}
		for p, o := range highest {
			if !fl.has(o.Ref()) || p != fleet.System {
				t.Errorf("%s has %+v", p, o.Ref())
			}
		}
		for _, ref := range fl.refs {
			if g, err := s.LoadAccepted(ref.Digest); err == nil && (g.Number != ref.Number || g.Machine != agenttest.Machine) {
				t.Errorf("%+v under %s", g, ref.Digest)
			}
		}
		if st := s.Freshness(); st != nil && st.Digest != digest {
			t.Errorf("nobody stated %+v", st.Doc)
		}
		if v := s.RootVersion(); v > 2 || v == 2 && n == 5 && !json.Valid(data) {
			t.Errorf("a root of version %d", v)
		}
	})
}
