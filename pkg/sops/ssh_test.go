package sops_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cameronraysmith/fleet/pkg/bech32"
	"github.com/cameronraysmith/fleet/pkg/sops"
)

// montgomery is the other form of an Ed25519 public key, u = (1 + y) / (1 - y) (RFC 7748,
// 4.1), by another way than the code's, which has only the private half.
func montgomery(public ed25519.PublicKey) []byte {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	le := slices.Clone(public)
	le[31] &= 0x7f
	slices.Reverse(le)
	y, one := new(big.Int).SetBytes(le), big.NewInt(1)
	u := new(big.Int).ModInverse(new(big.Int).Mod(new(big.Int).Sub(one, y), p), p)
	u.Mul(u, new(big.Int).Add(one, y)).Mod(u, p)
	out := u.FillBytes(make([]byte, 32))
	slices.Reverse(out)
	return out
}

// TestSSHKeyIsAgeKey: a document for the age key that ssh-to-age makes of a host's public
// key opens with the host's private key, and so does one for the SSH key itself.
func TestSSHKeyIsAgeKey(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "root@host")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := sops.ParseIdentities(pem.EncodeToMemory(block), nil)
	if err != nil || len(ids) != 2 {
		t.Fatalf("%d identities, %v", len(ids), err)
	}
	if want := strings.ToLower(string(bech32.Encode("AGE", montgomery(public)))); ids[1].Recipient != want {
		t.Errorf("the age key is %s, want %s", ids[1].Recipient, want)
	}
	for _, id := range ids {
		to, err := sops.ParseRecipient(id.Recipient, nil)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := sops.Encrypt([]byte("s3cret"), []sops.Recipient{to}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := doc.Decrypt(ids...); err != nil || string(plain) != "s3cret" {
			t.Errorf("for %s: %q, %v", id.Recipient, plain, err)
		}
	}
}
