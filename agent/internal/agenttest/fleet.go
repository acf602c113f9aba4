// Package agenttest is what an agent's tests need of the world: a fleet's keys
// and documents, and a coordinator that does what a test tells it.
package agenttest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// Names in the tests' fleet.
const (
	FleetID = fleet.FleetID("test")
	Machine = fleet.MachineName("pyrite")
)

// Fleet is a fleet's keys.
type Fleet struct {
	T       testing.TB
	CA      *pki.CA
	Release release.Signer
	Secrets release.Signer
	// Stranger is a key that no root names.
	Stranger release.Signer
	RootKeys []release.Signer
	Root     release.Root
	// Roots are the envelopes of all trust roots, oldest first.
	Roots [][]byte
	// RootPin is the digest of the first.
	RootPin fleet.Digest
	// Issued is the time of documents.
	Issued time.Time
	// Now is the fleet's wall time, whatever the host's may be.
	Now func() time.Time

	newKey func() (ed25519.PrivateKey, error)
}

// NewFleet makes keys and the first trust root.
func NewFleet(t testing.TB) *Fleet {
	t.Helper()
	return newFleet(t, &Fleet{T: t, Now: time.Now, newKey: pki.NewKey}) //nolint:forbidigo // Injected from here on.
}

// FixedFleet is a fleet whose keys that sign and whose time are the same in each
// process: a fuzzer's seeds are made in one and tried in others, where those of
// another fleet would not even be known keys.
func FixedFleet(t testing.TB) *Fleet {
	t.Helper()
	n := 0
	return newFleet(t, &Fleet{
		T: t, Now: func() time.Time { return time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC) },
		newKey: func() (ed25519.PrivateKey, error) {
			n++
			seed := sha256.Sum256(fmt.Appendf(nil, "key %d", n))
			return ed25519.NewKeyFromSeed(seed[:]), nil
		},
	})
}

func newFleet(t testing.TB, f *Fleet) *Fleet {
	t.Helper()
	now := f.Now().Add(-time.Minute).UTC().Truncate(time.Second)
	f.Issued = now
	var err error
	f.CA, err = pki.NewCA(FleetID, now)
	f.must(err)
	f.Root = release.Root{
		Type: fleet.TypeRoot, Fleet: FleetID, Version: 1, Epoch: 1,
		Issued: now, Expires: now.Add(365 * 24 * time.Hour),
		Keys: map[string]release.Key{}, Roles: map[release.RoleName]release.RoleKeys{},
	}
	for _, role := range release.Roles() {
		s := f.AddKey(role)
		switch role {
		case release.RoleRoot:
			f.RootKeys = append(f.RootKeys, s)
		case release.RoleRelease:
			f.Release = s
		case release.RoleSecrets:
			f.Secrets = s
		case release.RoleApprover, release.RoleBuilder, release.RoleFreshness:
		}
	}
	key, err := f.newKey()
	f.must(err)
	f.Stranger = release.NewSigner(key)
	env, digest, err := release.Seal(fleet.TypeRoot, f.Root, f.RootKeys...)
	f.must(err)
	f.Roots, f.RootPin = [][]byte{env}, digest
	return f
}

// AddKey makes a key and gives it a role in the next root to be sealed.
func (f *Fleet) AddKey(role release.RoleName) release.Signer {
	key, err := f.newKey()
	f.must(err)
	return f.GiveKey(role, key)
}

// GiveKey gives a key a role in the next root to be sealed.
func (f *Fleet) GiveKey(role release.RoleName, key ed25519.PrivateKey) release.Signer {
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		f.T.Fatal("no public key")
	}
	id, k := release.NewKey(pub)
	f.Root.Keys[id] = k
	f.Root.Roles[role] = release.RoleKeys{Threshold: 1, KeyIDs: append(f.Root.Roles[role].KeyIDs, id)}
	return release.NewSigner(key)
}

// NextRoot seals version N+1 with what was changed in Root.
func (f *Fleet) NextRoot() {
	f.Root.Version++
	env, _, err := release.Seal(fleet.TypeRoot, f.Root, f.RootKeys...)
	f.must(err)
	f.Roots = append(f.Roots, env)
}

// Join makes a join string for the machine.
func (f *Fleet) Join(addresses ...string) pki.Join {
	j, err := pki.NewJoin(pki.Join{
		Fleet: FleetID, Machine: Machine, Addresses: addresses,
		CA: fleet.DigestOf(f.CA.Cert.Raw), Root: f.RootPin, Issued: f.Issued,
	})
	f.must(err)
	return j
}

// Bundle packs a bundle of files; names that begin with no dot and hold a
// script ("#!") are executable.
func (f *Fleet) Bundle(files map[string]string) (fleet.Source, []byte) {
	dir := f.T.TempDir()
	for name, content := range files {
		mode := os.FileMode(0o644)
		if len(content) > 1 && content[:2] == "#!" {
			mode = 0o755
		}
		path := filepath.Join(dir, name)
		f.must(os.MkdirAll(filepath.Dir(path), 0o755)) //nolint:gosec // What bundles have.
		f.must(os.WriteFile(path, []byte(content), mode))
		f.must(os.Chmod(path, mode))
	}
	var buf bytes.Buffer
	src, err := bundle.Pack(dir, &buf)
	f.must(err)
	return fleet.Source{Driver: "bundle", Bundle: &src}, buf.Bytes()
}

// Generation is a generation of the machine's system profile with fast
// deadlines; it expires in a day.
func (f *Fleet) Generation(seq uint64, src fleet.Source) fleet.Generation {
	return fleet.Generation{
		Type: fleet.TypeGeneration, Fleet: FleetID, Machine: Machine, Profile: fleet.System,
		Number: fleet.Number{Epoch: 1, Seq: seq}, Release: "r", Issued: f.Issued,
		Expires: f.Issued.Add(24 * time.Hour), Source: src,
		Policy: fleet.Policy{
			ActivationDeadline: fleet.Duration(20 * time.Second), VerifyDeadline: fleet.Duration(10 * time.Second),
		},
	}
}

// Seal signs a generation with the release key, or the signers given.
func (f *Fleet) Seal(g fleet.Generation, signers ...release.Signer) (envelope []byte, ref fleet.Ref) {
	if len(signers) == 0 {
		signers = []release.Signer{f.Release}
	}
	env, digest, err := release.Seal(fleet.TypeGeneration, g, signers...)
	f.must(err)
	return env, fleet.Ref{Number: g.Number, Digest: digest, Release: g.Release}
}

// SealSecrets encrypts values by path for a recipient, and signs the manifest, after edits.
func (f *Fleet) SealSecrets(recipient age.Recipient, values map[string]string, edits ...func(*fleet.SecretsManifest)) (envelope []byte, ref *fleet.SecretsRef, blobs [][]byte) {
	m := fleet.SecretsManifest{
		Type: fleet.TypeSecrets, Fleet: FleetID, Machine: Machine, Profile: fleet.System,
		Issued: f.Issued, Expires: f.Issued.Add(24 * time.Hour),
	}
	for _, path := range slices.Sorted(maps.Keys(values)) {
		v := values[path]
		var buf bytes.Buffer
		w, err := age.Encrypt(&buf, recipient)
		f.must(err)
		_, err = w.Write([]byte(v))
		f.must(err)
		f.must(w.Close())
		blobs = append(blobs, buf.Bytes())
		m.Entries = append(m.Entries, fleet.SecretEntry{
			Name: fleet.SecretName(strings.ReplaceAll(path, "/", "-")), Version: 1, Path: path, Mode: 0o400,
			Digest: fleet.DigestOf(buf.Bytes()), Size: uint64(buf.Len()), //nolint:gosec // Not negative.
		})
	}
	for _, edit := range edits {
		edit(&m)
	}
	env, digest, err := release.Seal(fleet.TypeSecrets, m, f.Secrets)
	f.must(err)
	return env, &fleet.SecretsRef{Digest: digest}, blobs
}

// SealRetry signs a loosening that has a generation tried again.
func (f *Fleet) SealRetry(d fleet.Digest) []byte {
	env, _, err := release.Seal(fleet.TypeLoosening, fleet.Loosening{
		Type: fleet.TypeLoosening, Fleet: FleetID, Machine: Machine, Profile: fleet.System,
		Action: fleet.LoosenRetry, Digest: d, Issued: f.Issued, Expires: f.Issued.Add(time.Hour),
	}, f.Release)
	f.must(err)
	return env
}

// Rewrite changes the payload of an envelope without signing it again.
func (f *Fleet) Rewrite(envelope []byte, change func(payload []byte) []byte) []byte {
	var env map[string]json.RawMessage
	f.must(json.Unmarshal(envelope, &env))
	var payload []byte
	f.must(json.Unmarshal(env["payload"], &payload))
	b, err := json.Marshal(change(payload))
	f.must(err)
	env["payload"] = b
	out, err := json.Marshal(env)
	f.must(err)
	return out
}

func (f *Fleet) must(err error) {
	f.T.Helper()
	if err != nil {
		f.T.Fatal(err)
	}
}
