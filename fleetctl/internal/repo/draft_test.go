package repo

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// FuzzParseDraft: a draft comes from another operator's machine, through version
// control. What is read follows the trust root that is there.
func FuzzParseDraft(f *testing.F) {
	// The key is the same in each run, so that inputs that were found stay useful.
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	signer := release.NewSigner(key)
	id, public := release.NewKey(key.Public().(ed25519.PublicKey))
	role := release.RoleKeys{Threshold: 1, KeyIDs: []string{id}}
	issued := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	root := release.Root{
		Type: fleet.TypeRoot, Fleet: "first", Version: 1, Epoch: 1,
		Issued: issued, Expires: issued.AddDate(1, 0, 0),
		Keys: map[string]release.Key{id: public},
		Roles: map[release.RoleName]release.RoleKeys{
			release.RoleRoot: role, release.RoleRelease: role, release.RoleApprover: role, release.RoleSecrets: role,
		},
	}
	envelope, digest, err := release.Seal(fleet.TypeRoot, root, signer)
	if err != nil {
		f.Fatal(err)
	}
	trust, err := release.OpenRoot(envelope, digest)
	if err != nil {
		f.Fatal(err)
	}
	root.Version = 2
	next, _, err := release.Seal(fleet.TypeRoot, root, signer)
	if err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(Draft{
		Base: digest, Envelope: next,
		Changes: []DraftChange{{Time: issued, Operator: "ada", Change: "renew"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	if _, opened, err := ParseDraft(trust, good); err != nil || !opened.Complete() {
		f.Fatalf("the seed is not a draft: %v", err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(digest), []byte(fleet.DigestOf(nil)), 1))
	f.Add([]byte("<<<<<<< ours"))
	f.Add([]byte(`{"base":"","changes":null,"envelope":"e30="}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, opened, err := ParseDraft(trust, data)
		if err != nil {
			return
		}
		if d.Base != digest || opened == nil || len(d.Changes) > maxChanges {
			t.Errorf("read %+v", d)
		}
	})
}
