package release_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// securityKey plays a FIDO key as OpenSSH's PROTOCOL.u2f describes it.
type securityKey struct {
	key         ed25519.PrivateKey
	application string
	flags       byte
	counter     uint32
	// alter changes what it returns.
	alter func([]byte) []byte
}

func (k *securityKey) public() ed25519.PublicKey { return k.key.Public().(ed25519.PublicKey) }

func (k *securityKey) KeyID() string { return release.KeyID(k.public()) }

func (k *securityKey) Sign(msg []byte) ([]byte, error) {
	k.counter++
	app, sum := sha256.Sum256([]byte(k.application)), sha256.Sum256(msg)
	signed := slices.Concat(app[:], []byte{k.flags, byte(k.counter >> 24), byte(k.counter >> 16), byte(k.counter >> 8), byte(k.counter)}, sum[:])
	out := release.SecurityKeySignature(ed25519.Sign(k.key, signed), k.flags, k.counter)
	if k.alter != nil {
		out = k.alter(out)
	}
	return out, nil
}

func newSecurityKey(t testing.TB, application string) *securityKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &securityKey{key: key, application: application, flags: 1, counter: 0xfffffffe}
}

func TestSecurityKeySignatures(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*securityKey)
		want   error
	}{
		"touched":              {func(*securityKey) {}, nil},
		"touched and verified": {func(k *securityKey) { k.flags = 5 }, nil},
		"backed up":            {func(k *securityKey) { k.flags = 1 | 1<<3 | 1<<4 }, nil},
		"not touched":          {func(k *securityKey) { k.flags = 4 }, release.ErrSignature},
		"with extensions":      {func(k *securityKey) { k.flags = 1 | 1<<7 }, release.ErrSignature},
		"with attested data":   {func(k *securityKey) { k.flags = 1 | 1<<6 }, release.ErrSignature},
		"other application":    {func(k *securityKey) { k.application = "ssh:other" }, release.ErrSignature},
		"flags altered":        {func(k *securityKey) { k.alter = func(b []byte) []byte { b[64] |= 4; return b } }, release.ErrSignature},
		"counter altered":      {func(k *securityKey) { k.alter = func(b []byte) []byte { b[68]++; return b } }, release.ErrSignature},
		"signature altered":    {func(k *securityKey) { k.alter = func(b []byte) []byte { b[0]++; return b } }, release.ErrSignature},
		"cut":                  {func(k *securityKey) { k.alter = func(b []byte) []byte { return b[:68] } }, release.ErrSignature},
		"longer":               {func(k *securityKey) { k.alter = func(b []byte) []byte { return append(b, 0) } }, release.ErrSignature},
		"as a plain key":       {func(k *securityKey) { k.alter = func(b []byte) []byte { return b[:64] } }, release.ErrSignature},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeyring(t)
			sk := newSecurityKey(t, "ssh:fleet")
			id, key, err := release.NewSecurityKey(sk.public(), "ssh:fleet")
			if err != nil {
				t.Fatal(err)
			}
			next, err := k.trust.Next(k.reseal(t, func(r *release.Root) {
				r.Keys[id] = key
				r.Roles[release.RoleRelease] = release.RoleKeys{Threshold: 1, KeyIDs: []string{id}}
			}))
			if err != nil {
				t.Fatal(err)
			}
			tc.change(sk)
			if _, err := next.OpenGeneration(k.seal(t, generation(1), sk)); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// TestSecurityKeyVector is an example of PROTOCOL.u2f, computed by hand: the
// application "ssh:", a touch, counter 7, and the message "fleet".
func TestSecurityKeyVector(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	sk := &securityKey{key: key, application: "ssh:", flags: 1, counter: 6}
	got, err := sk.Sign([]byte("fleet"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := hex.DecodeString("e30610e8a162115960fe1ec223e6529c9f4b6e80200dcb5e5c321c8af1e2b1bf" + // SHA-256 of "ssh:"
		"01" + "00000007" + hexOf(sha256.Sum256([]byte("fleet"))))
	if err != nil {
		t.Fatal(err)
	}
	if !ed25519.Verify(sk.public(), signed, got[:64]) || hex.EncodeToString(got[64:]) != "0100000007" {
		t.Errorf("got %x", got)
	}
}

func hexOf(b [32]byte) string { return hex.EncodeToString(b[:]) }

func TestSecurityKeyInRoot(t *testing.T) {
	k := newKeyring(t)
	sk := newSecurityKey(t, "ssh:")
	id, key, err := release.NewSecurityKey(sk.public(), "ssh:")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		key  release.Key
		id   string
		want error
	}{
		"good":                         {key, id, nil},
		"no application":               {release.Key{Scheme: key.Scheme, Public: key.Public}, id, release.ErrMalformed},
		"a web site's":                 {release.Key{Scheme: key.Scheme, Public: key.Public, Application: "https://example.org"}, id, release.ErrMalformed},
		"control characters":           {release.Key{Scheme: key.Scheme, Public: key.Public, Application: "ssh:\n"}, id, release.ErrMalformed},
		"long application":             {release.Key{Scheme: key.Scheme, Public: key.Public, Application: "ssh:" + string(make([]byte, 200))}, id, release.ErrMalformed},
		"plain key with application":   {release.Key{Scheme: release.SchemeEd25519, Public: key.Public, Application: "ssh:"}, id, release.ErrMalformed},
		"short":                        {release.Key{Scheme: key.Scheme, Public: base64.StdEncoding.EncodeToString([]byte("short")), Application: "ssh:"}, id, release.ErrMalformed},
		"under another id":             {key, fleet.DigestOf(nil).Hex(), release.ErrDuplicateKey},
		"a scheme of tomorrow's":       {release.Key{Scheme: "sk-ml-dsa", Public: key.Public}, id, release.ErrCritical},
		"the same key, as a plain one": {release.Key{Scheme: release.SchemeEd25519, Public: key.Public}, id, nil},
	} {
		t.Run(name, func(t *testing.T) {
			env := k.reseal(t, func(r *release.Root) { r.Keys[tc.id] = tc.key })
			if _, err := k.trust.Next(env); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	for _, bad := range []string{"", "ssh", "https://ssh:", "ssh:ü"} {
		if _, _, err := release.NewSecurityKey(sk.public(), bad); !errors.Is(err, release.ErrApplication) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestDraftCollectsSignatures(t *testing.T) {
	k := newKeyring(t)
	fresh, pub := newSigner(t)
	id, key := release.NewKey(pub)
	r := k.doc
	r.Version++
	r.Keys = map[string]release.Key{id: key}
	maps.Copy(r.Keys, k.doc.Keys)
	r.Roles = maps.Clone(k.doc.Roles)
	r.Roles[release.RoleRoot] = release.RoleKeys{Threshold: 1, KeyIDs: []string{id}}
	env, _, err := release.Seal(fleet.TypeRoot, r)
	if err != nil {
		t.Fatal(err)
	}
	want := func(by, own int, complete bool) {
		t.Helper()
		d, err := k.trust.OpenDraft(env)
		if err != nil {
			t.Fatal(err)
		}
		if len(d.By.Signed) != by || len(d.Own.Signed) != own || d.Complete() != complete {
			t.Errorf("by %v, own %v, complete %t", d.By, d.Own, d.Complete())
		}
		if _, err := k.trust.Next(env); (err == nil) != complete {
			t.Errorf("Next says %v", err)
		}
	}
	add := func(s ...release.Signer) {
		t.Helper()
		if env, err = release.AddSignatures(fleet.TypeRoot, env, s...); err != nil {
			t.Fatal(err)
		}
	}
	want(0, 0, false)
	add(fresh)
	want(0, 1, false)
	add(fresh) // Once more changes nothing.
	want(0, 1, false)
	add(k.root...)
	want(len(k.root), 1, true)

	bad, err := release.AddSignatures(fleet.TypeRoot, env, liar{fresh})
	if err != nil || string(bad) != string(env) {
		t.Errorf("a key that signed signs again: %v", err)
	}
	bare, _, err := release.Seal(fleet.TypeRoot, r, liar{fresh})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.trust.OpenDraft(bare); !errors.Is(err, release.ErrSignature) {
		t.Errorf("a signature that does not fit: %v", err)
	}
	r.Version++
	skipped, _, err := release.Seal(fleet.TypeRoot, r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.trust.OpenDraft(skipped); !errors.Is(err, release.ErrRootVersion) {
		t.Errorf("version skipped: %v", err)
	}
}

// liar signs something else.
type liar struct{ release.Signer }

func (l liar) Sign([]byte) ([]byte, error) { return l.Signer.Sign([]byte("else")) }

func FuzzOpenDraft(f *testing.F) {
	k := newKeyring(f)
	f.Add(k.envelope)
	f.Add([]byte(`{"payloadType":"application/vnd.fleet.root.v1+json","payload":"e30=","signatures":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := k.trust.OpenDraft(b)
		if err != nil {
			return
		}
		if _, err := k.trust.Next(b); (err == nil) != d.Complete() {
			t.Errorf("the draft is complete: %t, Next says %v", d.Complete(), err)
		}
	})
}
