package release_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

var t0 = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// keyring is a trust root with its private keys: two root keys of which two
// must sign, one release key, two approvers, one secrets key.
type keyring struct {
	root, release, approver, secrets []release.Signer
	doc                              release.Root
	envelope                         []byte
	trust                            *release.Trust
}

func newSigner(t testing.TB) (release.Signer, ed25519.PublicKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return release.NewSigner(key), pub
}

func newKeyring(t testing.TB) *keyring {
	t.Helper()
	k := &keyring{doc: release.Root{
		Type: fleet.TypeRoot, Fleet: "first", Version: 1, Epoch: 1,
		Issued: t0, Expires: t0.AddDate(1, 0, 0),
		Keys: map[string]release.Key{}, Roles: map[release.RoleName]release.RoleKeys{},
	}}
	fill := func(role release.RoleName, n, threshold int) []release.Signer {
		var out []release.Signer
		rk := release.RoleKeys{Threshold: threshold}
		for i := range n {
			// The same keys in each process, so that what fuzzing found is found again.
			seed := sha256.Sum256(fmt.Append(nil, role, i))
			private := ed25519.NewKeyFromSeed(seed[:])
			pub, _ := private.Public().(ed25519.PublicKey)
			s := release.NewSigner(private)
			id, key := release.NewKey(pub)
			k.doc.Keys[id] = key
			rk.KeyIDs = append(rk.KeyIDs, id)
			out = append(out, s)
		}
		k.doc.Roles[role] = rk
		return out
	}
	k.root = fill(release.RoleRoot, 2, 2)
	k.release = fill(release.RoleRelease, 1, 1)
	k.approver = fill(release.RoleApprover, 2, 1)
	k.secrets = fill(release.RoleSecrets, 1, 1)
	env, digest, err := release.Seal(fleet.TypeRoot, k.doc, k.root...)
	if err != nil {
		t.Fatal(err)
	}
	k.envelope = env
	if k.trust, err = release.OpenRoot(env, digest); err != nil {
		t.Fatal(err)
	}
	return k
}

func generation(seq uint64) fleet.Generation {
	return fleet.Generation{
		Type: fleet.TypeGeneration, Fleet: "first", Machine: "cinnabar", Profile: fleet.System,
		Number: fleet.Number{Epoch: 1, Seq: seq}, Release: "r1", Issued: t0, Expires: t0.Add(fleet.DefaultExpiry),
		Source: fleet.Source{Driver: "bundle", Bundle: &fleet.BundleSource{Digest: fleet.DigestOf([]byte("b")), Size: 1}},
	}
}

func (k *keyring) seal(t testing.TB, g fleet.Generation, signers ...release.Signer) []byte {
	t.Helper()
	if signers == nil {
		signers = k.release
	}
	env, _, err := release.Seal(fleet.TypeGeneration, g, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func (k *keyring) open(t testing.TB, g fleet.Generation) *release.Signed[fleet.Generation] {
	t.Helper()
	s, err := k.trust.OpenGeneration(k.seal(t, g))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var host = release.Host{Fleet: "first", Machine: "cinnabar", Profile: fleet.System}

// rewrite changes the JSON of an envelope.
func rewrite(t testing.TB, env []byte, change func(map[string]any)) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(env, &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestGenerationRefusals(t *testing.T) {
	k := newKeyring(t)
	stranger, _ := newSigner(t)
	with := func(change func(*fleet.Generation)) []byte {
		g := generation(5)
		change(&g)
		return k.seal(t, g)
	}
	raw := func(payload string) []byte {
		env, _, err := release.Seal(fleet.TypeGeneration, json.RawMessage(payload), k.release...)
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	good, err := json.Marshal(generation(5))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		env  []byte
		want error
	}{
		{"unknown key", k.seal(t, generation(5), stranger), release.ErrUnknownKey},
		{"key of another role", k.seal(t, generation(5), k.root...), release.ErrUnknownKey},
		{"not signed", rewrite(t, k.seal(t, generation(5)), func(m map[string]any) { m["signatures"] = []any{} }), release.ErrUnknownKey},
		{"one key twice", k.seal(t, generation(5), k.release[0], k.release[0]), release.ErrDuplicateKey},
		{"another payload", rewrite(t, k.seal(t, generation(5)), func(m map[string]any) {
			m["payload"] = base64.StdEncoding.EncodeToString(bytes.Replace(good, []byte("cinnabar"), []byte("electrum"), 1))
		}), release.ErrSignature},
		{"another document type", rewrite(t, k.seal(t, generation(5)), func(m map[string]any) {
			m["payloadType"] = "application/vnd.fleet.secrets.v1+json"
		}), release.ErrMalformed},
		{"other fleet", with(func(g *fleet.Generation) { g.Fleet = "second" }), release.ErrWrongFleet},
		{"unknown critical field", with(func(g *fleet.Generation) { g.Critical = []string{"policy.windows"} }), release.ErrCritical},
		{"unknown critical field with content", raw(`{"critical":["gate"],"gate":{"x":1},` + string(good[1:])), release.ErrCritical},
		{"unknown probe kind", with(func(g *fleet.Generation) { g.Probes = []fleet.Probe{{Name: "p", Kind: "icmp"}} }), release.ErrMalformed},
		{"number from 0", with(func(g *fleet.Generation) { g.Number.Seq = 0 }), release.ErrMalformed},
		{"machine with a slash", with(func(g *fleet.Generation) { g.Machine = "a/b" }), release.ErrMalformed},
		{"profile with dots", with(func(g *fleet.Generation) { g.Profile = "home/.." }), release.ErrMalformed},
		{"machine with NUL", with(func(g *fleet.Generation) { g.Machine = "a\x00" }), release.ErrMalformed},
		{"revert_to a later one", with(func(g *fleet.Generation) {
			g.RevertTo = []fleet.Ref{{Number: fleet.Number{Epoch: 1, Seq: 6}, Digest: fleet.DigestOf(nil)}}
		}), release.ErrMalformed},
		{"duplicate key in payload", raw(`{"machine":"electrum",` + string(good[1:])), release.ErrMalformed},
		{"key in another case", raw(`{"Machine":"electrum",` + string(good[1:])), release.ErrMalformed},
		{"something behind", append(k.seal(t, generation(5)), "{}"...), release.ErrMalformed},
		{"cut", k.seal(t, generation(5))[:200], release.ErrMalformed},
		{"empty", nil, release.ErrMalformed},
		{"huge", bytes.Repeat([]byte(" "), 1<<20), release.ErrTooLarge},
		{"many signatures", rewrite(t, k.seal(t, generation(5)), func(m map[string]any) {
			m["signatures"] = make([]map[string]string, 100)
		}), release.ErrTooLarge},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s, err := k.trust.OpenGeneration(tc.env)
			if !errors.Is(err, tc.want) || s != nil {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if r := release.ReasonOf(err); r.Code == fleet.ReasonInternal || r.Hint == "" {
				t.Errorf("no named reason with a hint: %+v", r)
			}
		})
	}
}

func TestUnknownFieldIsIgnoredUnlessCritical(t *testing.T) {
	k := newKeyring(t)
	good, err := json.Marshal(generation(5))
	if err != nil {
		t.Fatal(err)
	}
	env, _, err := release.Seal(fleet.TypeGeneration, json.RawMessage(`{"later":1,"critical":["policy.mode","source.bundle.size"],`+string(good[1:])), k.release...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.trust.OpenGeneration(env); err != nil {
		t.Fatal(err)
	}
}

// TestOneByteAltered flips every bit of every byte of an envelope: it is
// refused, or still says exactly what was signed.
func TestOneByteAltered(t *testing.T) {
	k := newKeyring(t)
	env := k.seal(t, generation(5))
	want, err := k.trust.OpenGeneration(env)
	if err != nil {
		t.Fatal(err)
	}
	for i := range env {
		for bit := range 8 {
			bad := bytes.Clone(env)
			bad[i] ^= 1 << bit
			if got, err := k.trust.OpenGeneration(bad); err == nil && got.Digest != want.Digest {
				t.Fatalf("byte %d bit %d: another document was accepted", i, bit)
			}
		}
	}
}

func TestThreshold(t *testing.T) {
	k := newKeyring(t)
	next := k.doc
	next.Version = 2
	one, _, err := release.Seal(fleet.TypeRoot, next, k.root[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.trust.Next(one); !errors.Is(err, release.ErrThreshold) {
		t.Fatalf("one of two: %v", err)
	}
	both, _, err := release.Seal(fleet.TypeRoot, next, k.root...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.trust.Next(both); err != nil {
		t.Fatal(err)
	}
	// The one key again under another id.
	twice := rewrite(t, one, func(m map[string]any) {
		sigs, _ := m["signatures"].([]any)
		sig, _ := sigs[0].(map[string]any)
		m["signatures"] = append(sigs, map[string]any{"keyid": k.root[1].KeyID(), "sig": sig["sig"]})
	})
	if _, err := k.trust.Next(twice); !errors.Is(err, release.ErrSignature) {
		t.Fatalf("one key under two ids: %v", err)
	}
}

func manifest() fleet.SecretsManifest {
	return fleet.SecretsManifest{
		Type: fleet.TypeSecrets, Fleet: "first", Machine: "cinnabar", Profile: fleet.System,
		Issued: t0, Expires: t0.Add(fleet.DefaultExpiry),
		Entries: []fleet.SecretEntry{{Name: "db", Version: 1, Digest: fleet.DigestOf([]byte("c")), Size: 1, Path: "db/password", Mode: 0o400}},
	}
}

func TestSecretsBinding(t *testing.T) {
	k := newKeyring(t)
	seal := func(m fleet.SecretsManifest, s ...release.Signer) ([]byte, fleet.Digest) {
		env, d, err := release.Seal(fleet.TypeSecrets, m, s...)
		if err != nil {
			t.Fatal(err)
		}
		return env, d
	}
	env, digest := seal(manifest(), k.secrets...)
	good, err := k.trust.OpenSecrets(env)
	if err != nil {
		t.Fatal(err)
	}
	g := generation(6)
	g.Secrets = &fleet.SecretsRef{Digest: digest}
	if err := k.trust.Admit(host, k.open(t, g), good, t0); err != nil {
		t.Fatal(err)
	}
	foreign := manifest()
	foreign.Machine = "electrum"
	fenv, fdigest := seal(foreign, k.secrets...)
	fs, err := k.trust.OpenSecrets(fenv)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.trust.Admit(host, k.open(t, g), fs, t0); !errors.Is(err, release.ErrSecretsMismatch) {
		t.Fatalf("another machine's manifest: %v", err)
	}
	g.Secrets.Digest = fdigest
	if err := k.trust.Admit(host, k.open(t, g), fs, t0); !errors.Is(err, release.ErrSecretsMismatch) {
		t.Fatalf("another machine's manifest, named by the generation: %v", err)
	}
	byRelease, _ := seal(manifest(), k.release...)
	if _, err := k.trust.OpenSecrets(byRelease); !errors.Is(err, release.ErrUnknownKey) {
		t.Fatalf("signed by the release role: %v", err)
	}
	for _, path := range []string{"/etc/passwd", "../x", "a/../../x", ".", "", "a//b", "a\x00b"} {
		m := manifest()
		m.Entries[0].Path = path
		penv, _ := seal(m, k.secrets...)
		if _, err := k.trust.OpenSecrets(penv); !errors.Is(err, release.ErrMalformed) {
			t.Errorf("path %q: %v", path, err)
		}
	}
}

func TestLoosening(t *testing.T) {
	k := newKeyring(t)
	l := fleet.Loosening{
		Type: fleet.TypeLoosening, Fleet: "first", Machine: "cinnabar", Profile: fleet.System,
		Action: fleet.LoosenRetry, Digest: fleet.DigestOf(nil), Issued: t0, Expires: t0.Add(time.Hour),
	}
	env, _, err := release.Seal(fleet.TypeLoosening, l, k.release...)
	if err != nil {
		t.Fatal(err)
	}
	s, err := k.trust.OpenLoosening(env)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.trust.AdmitLoosening(host, s, t0); err != nil {
		t.Fatal(err)
	}
	if err := k.trust.AdmitLoosening(host, s, t0.Add(2*time.Hour)); !errors.Is(err, release.ErrExpired) {
		t.Fatal(err)
	}
	h := host
	h.Machine = "electrum"
	if err := k.trust.AdmitLoosening(h, s, t0); !errors.Is(err, release.ErrWrongMachine) {
		t.Fatal(err)
	}
	l.Action = "anything"
	if env, _, err = release.Seal(fleet.TypeLoosening, l, k.release...); err != nil {
		t.Fatal(err)
	}
	if _, err := k.trust.OpenLoosening(env); !errors.Is(err, release.ErrMalformed) {
		t.Fatal(err)
	}
}

func TestReport(t *testing.T) {
	s, pub := newSigner(t)
	_, other := newSigner(t)
	env, err := release.SealReport(fleet.Report{Fleet: "first", Machine: "cinnabar", Time: t0}, s)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := release.OpenReport(env, pub); err != nil || r.Machine != "cinnabar" {
		t.Fatal(r, err)
	}
	if _, err := release.OpenReport(env, other); !errors.Is(err, release.ErrUnknownKey) {
		t.Fatal(err)
	}
	many, err := release.SealReport(fleet.Report{Transitions: make([]fleet.Transition, fleet.MaxTransitions+1)}, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := release.OpenReport(many, pub); !errors.Is(err, release.ErrMalformed) {
		t.Fatal(err)
	}
}

func ExampleReasonOf() {
	r := release.ReasonOf(fmt.Errorf("generation 1.4 for cinnabar: %w: 1.5", release.ErrLowerNumber))
	fmt.Println(r.Code)
	fmt.Println(r.Hint)
	// Output:
	// lower-number
	// publish again: numbers only go upwards
}

// TestFloors: what a manifest revokes is bounded, does not contradict the manifest itself,
// and is nothing that an agent may pass over.
func TestFloors(t *testing.T) {
	k := newKeyring(t)
	many := map[fleet.SecretName]uint64{}
	for i := range fleet.MaxFloors + 1 {
		many[fleet.SecretName(fmt.Sprintf("s%d", i))] = 1
	}
	all := []string{fleet.CriticalFloors, fleet.CriticalRevokedBefore}
	for name, tt := range map[string]struct {
		edit func(*fleet.SecretsManifest)
		want error
	}{
		"floors":              {func(m *fleet.SecretsManifest) { m.Floors = map[fleet.SecretName]uint64{"db": 1, "gone": 9} }, nil},
		"no entries":          {func(m *fleet.SecretsManifest) { m.Entries = []fleet.SecretEntry{}; m.RevokedBefore = m.Issued }, nil},
		"entry below":         {func(m *fleet.SecretsManifest) { m.Floors = map[fleet.SecretName]uint64{"db": 2} }, release.ErrMalformed},
		"floor 0":             {func(m *fleet.SecretsManifest) { m.Floors = map[fleet.SecretName]uint64{"db": 0} }, release.ErrMalformed},
		"no name":             {func(m *fleet.SecretsManifest) { m.Floors = map[fleet.SecretName]uint64{"../x": 1} }, release.ErrMalformed},
		"too many":            {func(m *fleet.SecretsManifest) { m.Floors = many }, release.ErrMalformed},
		"revokes itself":      {func(m *fleet.SecretsManifest) { m.RevokedBefore = m.Issued.Add(time.Second) }, release.ErrMalformed},
		"floors not critical": {func(m *fleet.SecretsManifest) { m.Floors, m.Critical = map[fleet.SecretName]uint64{"db": 1}, nil }, release.ErrMalformed},
		"time not critical":   {func(m *fleet.SecretsManifest) { m.RevokedBefore, m.Critical = m.Issued, nil }, release.ErrMalformed},
	} {
		m := manifest()
		m.Critical = all
		tt.edit(&m)
		env, _, err := release.Seal(fleet.TypeSecrets, m, k.secrets...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.trust.OpenSecrets(env); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}
