package generator

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"filippo.io/age"
	"pgregory.net/rapid"

	"github.com/cameronraysmith/fleet/pkg/bech32"
	"github.com/cameronraysmith/fleet/pkg/zerotier"
)

// keyVectors are of wireguard-tools and of tor.
type keyVectors struct {
	Wireguard []struct{ Private, Public string }
	Tor       struct {
		SecretKey []byte `json:"secret_key"`
		PublicKey []byte `json:"public_key"`
		Hostname  string
	}
}

func TestAgeKey(t *testing.T) {
	files := generated(t, seeded(1), Inputs{}, "age-key", "m1", "")
	key := string(files["age.key"].Bytes())
	if len(key) != 74 || !strings.HasPrefix(key, "AGE-SECRET-KEY-1") {
		t.Errorf("a key of %d bytes: %q", len(key), key)
	}
	if path, ok := program(t, "age-keygen"); ok {
		if got := strings.TrimSpace(command(t, []byte(key+"\n"), path, "-y")); got != string(files["age.pub"].Bytes()) {
			t.Errorf("age-keygen -y says %s, we %s", got, files["age.pub"].Bytes())
		}
	}
	// What age writes of what it reads is what we write.
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed")
		text := string(bech32.Encode("AGE-SECRET-KEY-", seed))
		if id, err := age.ParseX25519Identity(text); err != nil || id.String() != text {
			t.Fatalf("age makes %s of %s: %v", id, text, err)
		}
	})
}

func TestWireguardVectors(t *testing.T) {
	vectors := load[keyVectors](t, "keys.json").Wireguard
	if len(vectors) != 6 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for _, v := range vectors {
		private, err := base64.StdEncoding.DecodeString(strings.TrimSpace(v.Private))
		if err != nil {
			t.Fatal(err)
		}
		files := generated(t, bytes.NewReader(private), Inputs{}, "wireguard-key", "", "")
		if got := string(files["privatekey"].Bytes()); got != v.Private {
			t.Errorf("private key %q, want %q", got, v.Private)
		}
		if got := string(files["publickey"].Bytes()); got != v.Public {
			t.Errorf("public key %q, want %q", got, v.Public)
		}
	}
	files := generated(t, seeded(1), Inputs{}, "wireguard-key", "", "")
	if path, ok := program(t, "wg"); ok {
		if got := command(t, files["privatekey"].Bytes(), path, "pubkey"); got != string(files["publickey"].Bytes()) {
			t.Errorf("wg pubkey says %q, we %q", got, files["publickey"].Bytes())
		}
	}
}

func TestToken(t *testing.T) {
	for settings, want := range map[string]string{
		`{}`:                                    "0001020304050607000102030405060700010203040506070001020304050607\n",
		`{"newline": false, "bytes": 16}`:       "00010203040506070001020304050607",
		`{"encoding": "base64", "file": "x.y"}`: "AAECAwQFBgcAAQIDBAUGBwABAgMEBQYHAAECAwQFBgc=\n",
		`{"encoding": "raw", "bytes": 16}`:      "\x00\x01\x02\x03\x04\x05\x06\x07\x00\x01\x02\x03\x04\x05\x06\x07",
	} {
		random := bytes.NewReader(bytes.Repeat([]byte{0, 1, 2, 3, 4, 5, 6, 7}, 4))
		for name, v := range generated(t, random, Inputs{}, "token", "", settings) {
			if string(v.Bytes()) != want || name != "token" && name != "x.y" {
				t.Errorf("%s: %s holds %q, want %q", settings, name, v.Bytes(), want)
			}
		}
	}
}

// The name follows from the key as tor has it, and tor's key file is of the same form.
func TestTorVector(t *testing.T) {
	v := load[keyVectors](t, "keys.json").Tor
	public := ed25519.PublicKey(v.PublicKey[32:])
	if got := onionName(public) + "\n"; got != v.Hostname {
		t.Errorf("got %q, want %q", got, v.Hostname)
	}
	files := generated(t, seeded(1), Inputs{}, "tor-onion", "m1", "")
	key, name := files["hs_ed25519_secret_key"].Bytes(), files["hostname"].Bytes()
	if len(key) != len(v.SecretKey) || !bytes.Equal(key[:32], v.SecretKey[:32]) || key[32]&7 != v.SecretKey[32]&7 || key[63]&0xc0 != v.SecretKey[63]&0xc0 {
		t.Errorf("the key is %x, one of tor's %x", key, v.SecretKey)
	}
	if len(name) != 63 {
		t.Errorf("the name is %q", name)
	}
}

// What tor 0.4.9.11 wrote as the name of a service to which it was given this key.
func TestTorTakesOurKey(t *testing.T) {
	const hostname = "df7wwi7bnsctfrvlza4pvtk6u6e34ddwwkjagnadtp5iwpjwrvq5bpad.onion"
	files := generated(t, bytes.NewReader(bytes.Repeat([]byte{42}, 32)), Inputs{}, "tor-onion", "m1", `{"secret_hostname": false}`)
	if got := string(files["hostname"].Bytes()); got != hostname+"\n" {
		t.Errorf("got %q, want %q for the key %s", got, hostname, hex.EncodeToString(files["hs_ed25519_secret_key"].Bytes()))
	}
}

func TestZerotier(t *testing.T) {
	made := tree(t, 1)
	id, err := zerotier.ParseIdentity(made["zerotier-identity-m1"]["identity-secret"].Bytes())
	if err != nil {
		t.Fatal(err)
	}
	n, err := zerotier.ParseNetworkID(string(made["zerotier-network-zerotier"]["network-id"].Bytes()))
	if err != nil || n.Controller() != id.Address() {
		t.Errorf("the network %s of %s: %v", n, id.Address(), err)
	}
	if got, want := string(made["zerotier-ip-m1-zerotier"]["ip"].Bytes()), n.RFC4193(id.Address()).Addr().String(); got != want {
		t.Errorf("address %q, want %q", got, want)
	}
	// A value of the first fleet, with public halves only: its network and the
	// address of its controller.
	n, err = zerotier.ParseNetworkID("db4344343b14b903")
	if err != nil || n.RFC4193(n.Controller()).Addr().String() != "fddb:4344:343b:14b9:399:93db:4344:343b" {
		t.Errorf("%s, %v", n, err)
	}
}
