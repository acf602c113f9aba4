package release_test

import (
	"errors"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

func TestAdmit(t *testing.T) {
	k := newKeyring(t)
	at := func(epoch, seq uint64) fleet.Generation {
		g := generation(seq)
		g.Number.Epoch = epoch
		return g
	}
	high := k.open(t, generation(5))
	h := host
	h.Highest = fleet.Ref{Number: high.Doc.Number, Digest: high.Digest}
	other := generation(5)
	other.Release = "r2"
	machine := generation(6)
	machine.Machine = "electrum"
	profile := generation(6)
	profile.Profile = "home/tara"
	withSecrets := generation(6)
	withSecrets.Secrets = &fleet.SecretsRef{Digest: fleet.DigestOf([]byte("x"))}
	by := func(latest time.Time) release.Host {
		h := h
		h.Latest = latest
		return h
	}
	issued := func(at time.Time) fleet.Generation {
		g := generation(6)
		g.Issued, g.Expires = at, at.AddDate(0, 0, 30)
		return g
	}
	tests := []struct {
		name string
		h    release.Host
		g    fleet.Generation
		now  time.Time
		want error
	}{
		{"next", h, generation(6), t0, nil},
		{"the highest itself", h, generation(5), t0, nil},
		{"first ever, whatever its number", host, generation(4711), t0, nil},
		{"largest jump", h, generation(5 + fleet.MaxNumberJump), t0, nil},
		{"lower", h, generation(4), t0, release.ErrLowerNumber},
		{"same number, other document", h, other, t0, release.ErrNumberReused},
		{"jump", h, generation(6 + fleet.MaxNumberJump), t0, release.ErrNumberJump},
		{"epoch ahead of the root", h, at(2, 1), t0, release.ErrWrongEpoch},
		{"other machine", h, machine, t0, release.ErrWrongMachine},
		{"other profile", h, profile, t0, release.ErrWrongProfile},
		{"on its last day", h, generation(6), t0.Add(fleet.DefaultExpiry), nil},
		{"expired", h, generation(6), t0.Add(fleet.DefaultExpiry + time.Second), release.ErrExpired},
		{"root expired", h, generation(6), t0.AddDate(2, 0, 0), release.ErrExpired},
		{"secrets missing", h, withSecrets, t0, release.ErrSecretsMismatch},
		{"issued at the latest", by(t0), generation(6), t0, nil},
		{"issued in the future", by(t0.Add(-time.Second)), generation(6), t0, release.ErrFuture},
		{"the highest, by a clock that was set back", by(t0.AddDate(-1, 0, 0)), generation(5), t0, nil},
		{"where the time is not known", h, issued(t0.AddDate(0, 6, 0)), t0, nil},
		{"after the root's end", h, issued(k.trust.Root().Expires.Add(time.Second)), t0, release.ErrFuture},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if err := k.trust.Admit(tc.h, k.open(t, tc.g), nil, tc.now); !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestAdmitRevert(t *testing.T) {
	k := newKeyring(t)
	old, older, foreign := k.open(t, generation(4)), k.open(t, generation(3)), generation(4)
	foreign.Machine = "electrum"
	f := k.open(t, foreign)
	g := generation(5)
	g.RevertTo = []fleet.Ref{{Number: old.Doc.Number, Digest: old.Digest}, {Number: f.Doc.Number, Digest: f.Digest}}
	newest := k.open(t, g)
	h := host
	h.Highest = fleet.Ref{Number: g.Number, Digest: newest.Digest}
	late := t0.Add(fleet.DefaultExpiry + time.Hour)
	refreshed := g
	refreshed.Number.Seq, refreshed.Expires = 6, late.Add(time.Hour)
	revokes := func(before time.Time) *release.Signed[fleet.SecretsManifest] {
		m := manifest()
		m.Issued, m.Expires = t0.Add(time.Minute), t0.Add(time.Hour)
		m.RevokedBefore, m.Critical = before, []string{fleet.CriticalRevokedBefore}
		env, _, err := release.Seal(fleet.TypeSecrets, m, k.secrets...)
		if err != nil {
			t.Fatal(err)
		}
		s, err := k.trust.OpenSecrets(env)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	revoking := func(s *release.Signed[fleet.SecretsManifest]) *release.Signed[fleet.Generation] {
		g := g
		g.Number.Seq, g.Secrets = 6, &fleet.SecretsRef{Digest: s.Digest}
		return k.open(t, g)
	}
	later, same := revokes(t0.Add(time.Second)), revokes(t0)
	tests := []struct {
		name           string
		newest, target *release.Signed[fleet.Generation]
		revokes        *release.Signed[fleet.SecretsManifest]
		now            time.Time
		want           error
	}{
		{"listed", newest, old, nil, t0, nil},
		{"not listed", newest, older, nil, t0, release.ErrNotInRevertSet},
		{"listed, of another machine", newest, f, nil, t0, release.ErrWrongMachine},
		{"the list has expired", newest, old, nil, late, release.ErrExpired},
		{"target expired, the list has not", k.open(t, refreshed), old, nil, late, nil},
		{"by the list of a lower one", old, older, nil, t0, release.ErrLowerNumber},
		{"revoked", revoking(later), old, later, t0, release.ErrRevoked},
		{"issued as it was revoked", revoking(same), old, same, t0, nil},
		{"revoked, and the manifest withheld", revoking(later), old, nil, t0, release.ErrSecretsMismatch},
		{"another manifest", revoking(later), old, same, t0, release.ErrSecretsMismatch},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if err := k.trust.AdmitRevert(h, tc.newest, tc.revokes, tc.target, nil, tc.now); !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// TestAdmitRevertFuture: what is gone back to may not come from the future either,
// nor its secrets: both lift the floor of the host's time.
func TestAdmitRevertFuture(t *testing.T) {
	k := newKeyring(t)
	m := manifest()
	m.Issued, m.Expires = t0.AddDate(70, 0, 0), t0.AddDate(71, 0, 0)
	env, digest, err := release.Seal(fleet.TypeSecrets, m, k.secrets...)
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := k.trust.OpenSecrets(env)
	if err != nil {
		t.Fatal(err)
	}
	g := generation(4)
	g.Secrets = &fleet.SecretsRef{Digest: digest}
	target := k.open(t, g)
	n := generation(5)
	n.RevertTo = []fleet.Ref{{Number: g.Number, Digest: target.Digest}}
	newest := k.open(t, n)
	for _, latest := range []time.Time{{}, t0.Add(time.Hour)} {
		h := host
		h.Latest = latest
		if err := k.trust.AdmitRevert(h, newest, nil, target, secrets, t0); !errors.Is(err, release.ErrFuture) {
			t.Errorf("latest %s: %v", latest, err)
		}
	}
}
