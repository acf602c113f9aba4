package fleetctl

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// edit changes the document in an envelope and leaves the signatures.
func edit(t *testing.T, envelope []byte, change func(*fleet.Generation)) []byte {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(e["payload"].(string))
	if err != nil {
		t.Fatal(err)
	}
	var g fleet.Generation
	if err := json.Unmarshal(payload, &g); err != nil {
		t.Fatal(err)
	}
	change(&g)
	if payload, err = json.Marshal(&g); err != nil {
		t.Fatal(err)
	}
	e["payload"] = base64.StdEncoding.EncodeToString(payload)
	out, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// strangerKey is of no role.
func strangerKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
}

func seal(t *testing.T, g *fleet.Generation, key ed25519.PrivateKey) []byte {
	t.Helper()
	env, _, err := release.Seal(fleet.TypeGeneration, g, release.NewSigner(key))
	if err != nil {
		t.Fatal(err)
	}
	return env
}
