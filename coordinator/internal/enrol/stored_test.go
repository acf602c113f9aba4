package enrol

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/ca"
	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// oneRecord is a store that has one record and keeps nothing.
type oneRecord struct {
	store.Store
	kv store.KV
}

func (s *oneRecord) Get(_ context.Context, key string) (store.KV, error) {
	if key == s.kv.Key {
		return s.kv, nil
	}
	return store.KV{}, store.ErrNotFound
}

func (s *oneRecord) List(context.Context, string, string, int) ([]store.KV, error) { return nil, nil }

func (s *oneRecord) Txn(_ context.Context, conds []store.Cond, ops []store.Op) (uint64, error) {
	return 2, store.CheckTxn(conds, ops)
}

// FuzzToken: whatever became of a token's record, there is a certificate only
// for the machine that the record names, in its time, and for one key.
func FuzzToken(f *testing.F) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	now := func() time.Time { return at }
	// The same key in each process: seeds are made in one, and fuzzed in others.
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	public, _ := key.Public().(ed25519.PublicKey)
	fingerprint, err := pki.KeyFingerprint(public)
	if err != nil {
		f.Fatal(err)
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		f.Fatal(err)
	}
	hostKeys, err := pki.NewHostKeys("galena", public, "").Marshal()
	if err != nil {
		f.Fatal(err)
	}
	authority := newAuthority(f, now)
	secret := bytes.Repeat([]byte{7}, tokenBytes)
	hash := sha256.Sum256(secret)
	for _, t := range []token{
		{Machine: "galena", Actor: "operator/ann", Created: at, Expires: at.Add(time.Hour)},
		{Machine: "galena", Expires: at.Add(-time.Hour)},
		{Machine: "pyrite", Expires: at.Add(time.Hour)},
		{Machine: "galena", Expires: at.Add(time.Hour), Used: fingerprint, Certificate: []byte("der")},
		{Machine: "galena", Expires: at.Add(time.Hour), Used: strings.Repeat("ab", 32), Certificate: []byte("der")},
		{Machine: "galena", Expires: at.Add(-time.Hour), Used: fingerprint, Certificate: []byte("der")},
	} {
		b, err := json.Marshal(t)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("null"))
	f.Add([]byte(`{"machine":"galena"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &oneRecord{kv: store.KV{Key: tokenKey(hash[:]), Value: data, Revision: 1}}
		quiet := slog.New(slog.DiscardHandler)
		log, err := audit.Open(t.Context(), s, now, quiet)
		if err != nil {
			t.Fatal(err)
		}
		reg, err := registry.Open(t.Context(), registry.Options{Store: s, Log: log, Actor: "coordinator/c", Now: now, Slog: quiet})
		if err != nil {
			t.Fatal(err)
		}
		e := New(Options{Store: s, Log: log, Registry: reg, Authority: authority, Now: now, Slog: quiet})
		der, err := e.Enrol(t.Context(), Request{
			Machine: "galena", Token: secret, CSR: csr, HostKeys: hostKeys, MAC: make([]byte, macBytes), Instance: "i",
		})
		if err != nil {
			return
		}
		var tok token
		if err := json.Unmarshal(data, &tok); err != nil {
			t.Fatalf("%q is taken for a token", data)
		}
		switch {
		case tok.Machine != "galena" || at.After(tok.Expires) || tok.Used != "" && tok.Used != fingerprint:
			t.Errorf("%q is good for a certificate", data)
		case tok.Used != "" && !bytes.Equal(der, tok.Certificate):
			t.Errorf("%q has another certificate", data)
		case tok.Used == "":
			leaf, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			if id, err := pki.IdentityOf(leaf); err != nil || id.Name != "galena" || !public.Equal(leaf.PublicKey) {
				t.Errorf("the certificate is of %v, %v", id, err)
			}
		}
	})
}

func newAuthority(f *testing.F, now func() time.Time) *ca.Authority {
	f.Helper()
	root, err := pki.NewCA("first", now())
	if err != nil {
		f.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	id := pki.CoordinatorIdentity("first", "c")
	cert, err := root.Issue(id, key.Public(), now(), time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	a, err := ca.New(ca.Options{CA: root, Identity: id, Cert: cert, Key: key, Now: now})
	if err != nil {
		f.Fatal(err)
	}
	return a
}
