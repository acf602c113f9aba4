package generator

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"strings"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/bech32"
)

func ageKeyKind() Kind {
	k := Kind{Name: "age-key", Summary: "an age key: one line each, without a newline, as clan keeps machines' keys"}
	return newKind(k, struct{}{}, func(string, struct{}) (*Generator, error) {
		return &Generator{
			Files: []File{secret("age.key"), public("age.pub")},
			run: func(_ context.Context, random io.Reader, _ Inputs) (Files, error) {
				seed, err := draw(random, 32)
				if err != nil {
					return nil, err
				}
				defer clear(seed)
				text := bech32.Encode("AGE-SECRET-KEY-", seed)
				// What age itself reads of it says the public half.
				id, err := age.ParseX25519Identity(string(text))
				if err != nil {
					clear(text)
					return nil, errors.New("age does not take the key that was made")
				}
				return Files{"age.key": NewValue(text), "age.pub": NewValue([]byte(id.Recipient().String()))}, nil
			},
		}, nil
	})
}

func wireguardKeyKind() Kind {
	k := Kind{Name: "wireguard-key", Summary: "a WireGuard key pair, as wg genkey and wg pubkey print it", Clan: "wireguard-keys-INSTANCE"}
	return newKind(k, struct{}{}, func(string, struct{}) (*Generator, error) {
		return &Generator{
			Files: []File{secret("privatekey"), public("publickey")},
			run: func(_ context.Context, random io.Reader, _ Inputs) (Files, error) {
				private, err := draw(random, 32)
				if err != nil {
					return nil, err
				}
				defer clear(private)
				clamp(private)
				key, err := ecdh.X25519().NewPrivateKey(private)
				if err != nil {
					return nil, errors.New("no key for X25519 was drawn")
				}
				line := func(b []byte) Value {
					return NewValue(append(base64.StdEncoding.AppendEncode(make([]byte, 0, 45), b), '\n'))
				}
				return Files{"privatekey": line(private), "publickey": line(key.PublicKey().Bytes())}, nil
			},
		}, nil
	})
}

// clamp makes a scalar of Curve25519's of random bytes.
func clamp(b []byte) {
	b[0] &= 248
	b[31] = b[31]&63 | 64
}

type tokenSettings struct {
	File     string `json:"file" doc:"name of the file"`
	Bytes    int    `json:"bytes" doc:"how many random bytes, 8 bits each, 16 to 1024"`
	Encoding string `json:"encoding" doc:"hex, base64 (in one line) or raw"`
	Newline  bool   `json:"newline" doc:"end hex and base64 with a newline, as openssl rand does"`
}

func tokenKind() Kind {
	k := Kind{Name: "token", Summary: "random bytes, as openssl rand prints them"}
	return newKind(k, tokenSettings{File: "token", Bytes: 32, Encoding: "hex", Newline: true}, func(_ string, s tokenSettings) (*Generator, error) {
		err := errors.Join(fileName("file", s.File), between("bytes", s.Bytes, 16, 1024), oneOf("encoding", s.Encoding, "hex", "base64", "raw"))
		if err != nil {
			return nil, err
		}
		return &Generator{
			Files:       []File{secret(s.File)},
			EntropyBits: float64(8 * s.Bytes),
			run: func(_ context.Context, random io.Reader, _ Inputs) (Files, error) {
				drawn, err := draw(random, s.Bytes)
				if err != nil {
					return nil, err
				}
				if s.Encoding == "raw" {
					return Files{s.File: NewValue(drawn)}, nil
				}
				defer clear(drawn)
				text := make([]byte, 0, 2*s.Bytes+1)
				if s.Encoding == "hex" {
					text = hex.AppendEncode(text, drawn)
				} else {
					text = base64.StdEncoding.AppendEncode(text, drawn)
				}
				if s.Newline {
					text = append(text, '\n')
				}
				return Files{s.File: NewValue(text)}, nil
			},
		}, nil
	})
}

type onionSettings struct {
	SecretHostname bool `json:"secret_hostname" doc:"keep the name secret as well: who knows it can reach the service"`
}

func torOnionKind() Kind {
	k := Kind{Name: "tor-onion", Summary: "the identity of a tor v3 onion service; no tor is started", Clan: "tor_INSTANCE"}
	return newKind(k, onionSettings{SecretHostname: true}, func(machine string, s onionSettings) (*Generator, error) {
		hostname := secret("hostname")
		hostname.Secret = s.SecretHostname
		return &Generator{
			Files: []File{secret("hs_ed25519_secret_key"), hostname},
			run: func(_ context.Context, random io.Reader, _ Inputs) (Files, error) {
				seed, err := draw(random, ed25519.SeedSize)
				if err != nil {
					return nil, err
				}
				defer clear(seed)
				key := ed25519.NewKeyFromSeed(seed)
				defer clear(key)
				// Tor keeps the key as what signing makes of the seed.
				expanded := sha512.Sum512(seed)
				defer clear(expanded[:])
				clamp(expanded[:32])
				file := make([]byte, 32, 96)
				copy(file, "== ed25519v1-secret: type0 ==")
				return Files{
					"hs_ed25519_secret_key": NewValue(append(file, expanded[:]...)),
					"hostname":              NewValue([]byte(onionName(key.Public().(ed25519.PublicKey)) + "\n")),
				}, nil
			},
		}, wantMachine(machine)
	})
}

// onionName is the address of a version 3 service (rend-spec-v3, section 6).
func onionName(public ed25519.PublicKey) string {
	const version = 3
	sum := sha3.Sum256(bytes.Join([][]byte{[]byte(".onion checksum"), public, {version}}, nil))
	name := append(append(bytes.Clone(public), sum[:2]...), version)
	return strings.ToLower(base32.StdEncoding.EncodeToString(name)) + ".onion"
}
