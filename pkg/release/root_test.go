package release_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
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
func (k *keyring) reseal(t testing.TB, change func(*release.Root), more ...release.Signer) []byte {
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

// everySigner adds keys for the roles that newKeyring leaves empty.
func everySigner(t testing.TB, k *keyring) (builder, freshness release.Signer) {
	t.Helper()
	env := k.reseal(t, func(r *release.Root) {
		for i, role := range []release.RoleName{release.RoleBuilder, release.RoleFreshness} {
			seed := sha256.Sum256([]byte(role))
			private := ed25519.NewKeyFromSeed(seed[:])
			pub, _ := private.Public().(ed25519.PublicKey)
			id, key := release.NewKey(pub)
			r.Keys[id] = key
			r.Roles[role] = release.RoleKeys{Threshold: 1, KeyIDs: []string{id}}
			*[]*release.Signer{&builder, &freshness}[i] = release.NewSigner(private)
		}
	})
	next, err := k.trust.Next(env)
	if err != nil {
		t.Fatal(err)
	}
	k.trust = next
	return builder, freshness
}

// FuzzOpen: what is opened is valid, and among what was signed.
func FuzzOpen(f *testing.F) {
	k := newKeyring(f)
	builder, freshness := everySigner(f, k)
	second := k.trust
	third := k.reseal(f, func(r *release.Root) { *r = *second.Root(); r.Version++ })
	seed := sha256.Sum256([]byte("a host, and an operator"))
	own := ed25519.NewKeyFromSeed(seed[:])
	pub, _ := own.Public().(ed25519.PublicKey)
	signed := map[fleet.Digest]bool{}
	// open opens an envelope as all that it may be, and counts as how many it is.
	open := func(t testing.TB, env []byte) int {
		t.Helper()
		check := func(what string, digest fleet.Digest, err, invalid error) {
			t.Helper()
			if err == nil && (invalid != nil || !signed[digest]) {
				t.Errorf("%s with digest %s: %v; signed: %t", what, digest, invalid, signed[digest])
			}
		}
		opened := 0
		if d, err := second.OpenGeneration(env); err == nil {
			opened++
			check("a generation", d.Digest, err, d.Doc.Validate())
		}
		if d, err := second.OpenSecrets(env); err == nil {
			opened++
			check("a secrets manifest", d.Digest, err, d.Doc.Validate())
		}
		if d, err := second.OpenLoosening(env); err == nil {
			opened++
			check("a loosening", d.Digest, err, d.Doc.Validate())
		}
		if d, err := second.OpenFreshness(env); err == nil {
			opened++
			check("a statement", d.Digest, err, d.Doc.Validate())
		}
		if d, err := second.OpenClosure(env); err == nil {
			opened++
			check("a closure", d.Digest, err, d.Doc.Validate())
		}
		if d, err := second.Next(env); err == nil {
			opened++
			check("a trust root", d.Digest(), err, nil)
		}
		if d, err := release.OpenReport(env, pub); err == nil {
			opened++
			if d.Acked != 3 || d.Machine != "cinnabar" {
				t.Errorf("nobody signed the report %+v", d)
			}
		}
		if d, err := release.OpenLook(env, pub); err == nil {
			opened++
			if d.Validate() != nil || d.Operator != "ann" {
				t.Errorf("nobody signed the look %+v", d)
			}
		}
		return opened
	}
	add := func(docType string, doc any, signers ...release.Signer) {
		env, digest, err := release.Seal(docType, doc, signers...)
		if err != nil {
			f.Fatal(err)
		}
		signed[digest] = true
		if n := open(f, env); n != 1 {
			f.Errorf("a %s is opened as %d kinds of documents", docType, n)
		}
		f.Add(env)
	}
	f.Add(k.envelope)
	f.Add(third)
	if next, err := second.Next(third); err != nil {
		f.Fatal(err)
	} else {
		signed[next.Digest()] = true
	}
	day := t0.Add(24 * time.Hour)
	g := generation(1)
	ref := fleet.Ref{Number: g.Number, Digest: fleet.DigestOf([]byte("g")), Release: "r1"}
	add(fleet.TypeGeneration, g, k.release...)
	add(fleet.TypeSecrets, fleet.SecretsManifest{
		Type: fleet.TypeSecrets, Fleet: "first", Machine: "cinnabar", Profile: fleet.System, Issued: t0, Expires: day,
		Entries: []fleet.SecretEntry{{Name: "token", Version: 1, Path: "web/token", Mode: 0o400, Digest: ref.Digest, Size: 1}},
	}, k.secrets...)
	add(fleet.TypeLoosening, fleet.Loosening{
		Type: fleet.TypeLoosening, Fleet: "first", Machine: "cinnabar", Profile: fleet.System, Action: fleet.LoosenRetry, Digest: ref.Digest, Issued: t0, Expires: day,
	}, k.release...)
	add(fleet.TypeFreshness, fleet.Freshness{
		Type: fleet.TypeFreshness, Fleet: "first", Machine: "cinnabar", Issued: t0, Expires: day, Root: 1,
		Highest: map[fleet.ProfileName]fleet.Ref{fleet.System: ref},
	}, freshness)
	const path = "/nix/store/l4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-a"
	add(fleet.TypeClosure, fleet.ClosureManifest{
		Type: fleet.TypeClosure, Fleet: "first", Issued: t0, Root: path,
		Paths: []fleet.ClosurePath{{Path: path, NarHash: "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", NarSize: 120, References: []string{path}}},
	}, builder)
	add(fleet.TypeReport, fleet.Report{
		Type: fleet.TypeReport, Fleet: "first", Machine: "cinnabar", InstanceID: "i", BootID: "b", Time: t0, Mode: fleet.ModeManage, Acked: 3,
		LogHeads: []fleet.KeptHead{{LogHead: fleet.LogHead{Seq: 3, Hash: strings.Repeat("ab", 32)}, Time: t0}},
	}, release.NewSigner(own))
	add(fleet.TypeLook, fleet.Look{
		Type: fleet.TypeLook, Fleet: "first", Operator: "ann", Time: t0, Head: fleet.LogHead{Seq: 3, Hash: strings.Repeat("ab", 32)},
	}, release.NewSigner(own))
	f.Add([]byte(`{"payloadType":"application/vnd.fleet.generation.v1+json","payload":"e30=","signatures":[]}`))
	// Of a key that no role has, of another role's, and changed since.
	f.Add(k.seal(f, generation(2), release.NewSigner(own)))
	f.Add(k.seal(f, generation(2), k.secrets...))
	var env map[string]any
	if err := json.Unmarshal(k.seal(f, g), &env); err != nil {
		f.Fatal(err)
	}
	env["payload"] = base64.StdEncoding.EncodeToString([]byte(`{"type":"generation"}`))
	changed, err := json.Marshal(env)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(changed)
	f.Fuzz(func(t *testing.T, env []byte) {
		if n := open(t, env); n > 1 {
			t.Errorf("it is %d kinds of documents at once", n)
		}
	})
}

// FuzzPayload signs whatever comes, as a publisher gone wrong would: it opens as
// what it was signed as, or not at all, and is valid.
func FuzzPayload(f *testing.F) {
	k := newKeyring(f)
	builder, freshness := everySigner(f, k)
	for _, doc := range []any{
		generation(1),
		fleet.Freshness{Type: fleet.TypeFreshness, Fleet: "first", Machine: "cinnabar", Issued: t0, Expires: t0.Add(time.Hour), Root: 1},
		fleet.ClosureManifest{Type: fleet.TypeClosure, Fleet: "first", Issued: t0, Root: "/nix/store/l4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-a"},
		k.doc,
	} {
		b, err := json.Marshal(doc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add(`{}`)
	f.Add(`{"type":"generation","fleet":"first","critical":["x"]}`)
	f.Fuzz(func(t *testing.T, payload string) {
		for docType, signers := range map[string][]release.Signer{
			fleet.TypeGeneration: k.release, fleet.TypeLoosening: k.release,
			fleet.TypeSecrets: k.secrets, fleet.TypeRoot: k.root,
			fleet.TypeClosure: {builder}, fleet.TypeFreshness: {freshness},
		} {
			env, _, err := release.Seal(docType, rawJSON(payload), signers...)
			if err != nil {
				return
			}
			check := func(is string, err, invalid error) {
				t.Helper()
				if err == nil && (is != docType || invalid != nil) {
					t.Errorf("signed as %s, opened as %s: %v", docType, is, invalid)
				}
			}
			if d, err := k.trust.OpenGeneration(env); err == nil {
				check(fleet.TypeGeneration, err, d.Doc.Validate())
			}
			if d, err := k.trust.OpenSecrets(env); err == nil {
				check(fleet.TypeSecrets, err, d.Doc.Validate())
			}
			if d, err := k.trust.OpenLoosening(env); err == nil {
				check(fleet.TypeLoosening, err, d.Doc.Validate())
			}
			if d, err := k.trust.OpenClosure(env); err == nil {
				check(fleet.TypeClosure, err, d.Doc.Validate())
			}
			if d, err := k.trust.OpenFreshness(env); err == nil {
				check(fleet.TypeFreshness, err, d.Doc.Validate())
			}
			if _, err := k.trust.Next(env); err == nil {
				check(fleet.TypeRoot, err, nil)
			}
		}
	})
}

type rawJSON string

func (r rawJSON) MarshalJSON() ([]byte, error) { return []byte(r), nil }

// TestCAs: a root lists CAs that are ones, each once, and not too many.
func TestCAs(t *testing.T) {
	k := newKeyring(t)
	authority := func() *pki.CA {
		t.Helper()
		ca, err := pki.NewCA("first", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	a, b := authority(), authority()
	leaf, err := a.Issue(pki.HostIdentity("first", "pyrite"), a.Key.Public(), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	forged := slices.Clone(a.Cert.Raw)
	forged[len(forged)-1] ^= 1
	for name, c := range map[string]struct {
		cas  [][]byte
		want error
	}{
		"none":         {nil, nil},
		"two":          {[][]byte{a.Cert.Raw, b.Cert.Raw}, nil},
		"twice":        {[][]byte{a.Cert.Raw, a.Cert.Raw}, release.ErrMalformed},
		"garbage":      {[][]byte{[]byte("x")}, release.ErrMalformed},
		"empty":        {[][]byte{{}}, release.ErrMalformed},
		"a leaf":       {[][]byte{leaf}, release.ErrMalformed},
		"forged":       {[][]byte{forged}, release.ErrMalformed},
		"a large one":  {[][]byte{make([]byte, 5<<10)}, release.ErrTooLarge},
		"five of them": {[][]byte{a.Cert.Raw, b.Cert.Raw, authority().Cert.Raw, authority().Cert.Raw, authority().Cert.Raw}, release.ErrTooLarge},
	} {
		next, err := k.trust.Next(k.reseal(t, func(r *release.Root) { r.CAs = c.cas }))
		if !errors.Is(err, c.want) || err == nil && len(next.CAs()) != len(c.cas) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
