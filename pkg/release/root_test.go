package release_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"maps"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

func TestRootPin(t *testing.T) {
	k := newKeyring(t)
	if _, err := release.OpenRoot(k.envelope, fleet.DigestOf([]byte("another"))); !errors.Is(err, release.ErrRootPin) {
		t.Fatal(err)
	}
	if _, err := release.OpenChain(nil, k.trust.Digest()); !errors.Is(err, release.ErrRootVersion) {
		t.Fatal(err)
	}
}

// reseal signs a changed root with the keyring's root keys and more.
func (k *keyring) reseal(t *testing.T, change func(*release.Root), more ...release.Signer) []byte {
	t.Helper()
	r := k.doc
	r.Version++
	r.Keys, r.Roles = maps.Clone(r.Keys), maps.Clone(r.Roles)
	change(&r)
	env, _, err := release.Seal(fleet.TypeRoot, r, append(append([]release.Signer{}, k.root...), more...)...)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func TestNextRefusals(t *testing.T) {
	k := newKeyring(t)
	fresh, pub := newSigner(t)
	freshID, freshKey := release.NewKey(pub)
	replace := func(r *release.Root) {
		r.Keys[freshID] = freshKey
		r.Roles[release.RoleRoot] = release.RoleKeys{Threshold: 1, KeyIDs: []string{freshID}}
	}
	first := k.root[0].KeyID()
	tests := []struct {
		name string
		env  []byte
		want error
	}{
		{"next", k.reseal(t, func(*release.Root) {}), nil},
		{"new root key that signed too", k.reseal(t, replace, fresh), nil},
		{"new root key that did not sign", k.reseal(t, replace), release.ErrUnknownKey},
		{"version skipped", k.reseal(t, func(r *release.Root) { r.Version = 3 }), release.ErrRootVersion},
		{"same version", k.reseal(t, func(r *release.Root) { r.Version = 1 }), release.ErrRootVersion},
		{"other fleet", k.reseal(t, func(r *release.Root) { r.Fleet = "second" }), release.ErrWrongFleet},
		{"epoch back", k.reseal(t, func(r *release.Root) { r.Epoch = 0 }), release.ErrMalformed},
		{"one key under two ids", k.reseal(t, func(r *release.Root) {
			r.Keys[freshID] = r.Keys[first]
		}), release.ErrDuplicateKey},
		{"one key twice in a role", k.reseal(t, func(r *release.Root) {
			r.Roles[release.RoleRoot] = release.RoleKeys{Threshold: 2, KeyIDs: []string{first, first}}
		}), release.ErrDuplicateKey},
		{"role missing", k.reseal(t, func(r *release.Root) { delete(r.Roles, release.RoleSecrets) }), release.ErrMalformed},
		{"threshold 0", k.reseal(t, func(r *release.Root) {
			r.Roles[release.RoleRelease] = release.RoleKeys{KeyIDs: r.Roles[release.RoleRelease].KeyIDs}
		}), release.ErrMalformed},
		{"threshold above keys", k.reseal(t, func(r *release.Root) {
			r.Roles[release.RoleRelease] = release.RoleKeys{Threshold: 2, KeyIDs: r.Roles[release.RoleRelease].KeyIDs}
		}), release.ErrMalformed},
		{"key not there", k.reseal(t, func(r *release.Root) {
			r.Roles[release.RoleRelease] = release.RoleKeys{Threshold: 1, KeyIDs: []string{freshID}}
		}), release.ErrMalformed},
		{"short key", k.reseal(t, func(r *release.Root) {
			r.Keys["x"] = release.Key{Scheme: "ed25519", Public: base64.StdEncoding.EncodeToString(make([]byte, ed25519.PublicKeySize-1))}
		}), release.ErrMalformed},
		{"other scheme", k.reseal(t, func(r *release.Root) {
			r.Keys[freshID] = release.Key{Scheme: "rsa", Public: freshKey.Public}
		}), release.ErrCritical},
		{"unknown critical field", k.reseal(t, func(r *release.Root) { r.Critical = []string{"roles.builder"} }), release.ErrCritical},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := k.trust.Next(tc.env); !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// TestSleeperWalksOverExpiredRoots walks from an expired version 1 over an
// expired version 2 to version 3: only the last one's expiry counts.
func TestSleeperWalksOverExpiredRoots(t *testing.T) {
	k := newKeyring(t)
	second := k.reseal(t, func(r *release.Root) { r.Expires = t0.AddDate(1, 1, 0) })
	third := k.reseal(t, func(r *release.Root) { r.Version, r.Expires = 3, t0.AddDate(5, 0, 0) })
	now := t0.AddDate(3, 0, 0)
	if err := k.trust.CheckFresh(now); !errors.Is(err, release.ErrExpired) {
		t.Fatal(err)
	}
	last, err := release.OpenChain([][]byte{k.envelope, second, third}, k.trust.Digest())
	if err != nil {
		t.Fatal(err)
	}
	if err := last.CheckFresh(now); err != nil {
		t.Fatal(err)
	}
	if _, err := release.OpenChain([][]byte{k.envelope, third}, k.trust.Digest()); !errors.Is(err, release.ErrRootVersion) {
		t.Fatal(err)
	}
}

func FuzzOpen(f *testing.F) {
	k := newKeyring(f)
	f.Add(k.envelope)
	f.Add(k.seal(f, generation(1)))
	f.Add([]byte(`{"payloadType":"application/vnd.fleet.generation.v1+json","payload":"e30=","signatures":[]}`))
	s, pub := newSigner(f)
	if env, err := release.SealReport(fleet.Report{}, s); err == nil {
		f.Add(env)
	}
	f.Fuzz(func(t *testing.T, env []byte) {
		if g, err := k.trust.OpenGeneration(env); err == nil {
			if err := g.Doc.Validate(); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = k.trust.OpenSecrets(env)
		_, _ = k.trust.OpenLoosening(env)
		_, _ = k.trust.Next(env)
		_, _ = release.OpenReport(env, pub)
	})
}

// FuzzPayload signs whatever comes, as a publisher gone wrong would.
func FuzzPayload(f *testing.F) {
	k := newKeyring(f)
	f.Add(`{}`)
	f.Add(`{"type":"generation","fleet":"first","critical":["x"]}`)
	f.Fuzz(func(t *testing.T, payload string) {
		for docType, signers := range map[string][]release.Signer{
			fleet.TypeGeneration: k.release, fleet.TypeLoosening: k.release,
			fleet.TypeSecrets: k.secrets, fleet.TypeRoot: k.root,
		} {
			env, _, err := release.Seal(docType, rawJSON(payload), signers...)
			if err != nil {
				return
			}
			_, _ = k.trust.OpenGeneration(env)
			_, _ = k.trust.OpenSecrets(env)
			_, _ = k.trust.OpenLoosening(env)
			_, _ = k.trust.Next(env)
		}
	})
}

type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }
