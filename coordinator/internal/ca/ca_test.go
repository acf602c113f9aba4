package ca_test

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/ca"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// TestServerRenewsItself runs a coordinator for twenty-one years without
// anybody touching it.
func TestServerRenewsItself(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	authority, err := pki.NewCA("first", now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id := pki.CoordinatorIdentity("first", "cinnabar")
	der, err := authority.Issue(id, key.Public(), now, 365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ca.New(ca.Options{CA: authority, Identity: id, Cert: der, Key: key, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	end := authority.Cert.NotAfter
	renewed := 0
	var last *x509.Certificate
	for ; now.Before(end.Add(-time.Hour)); now = now.Add(5 * 24 * time.Hour) {
		c, err := a.Server()
		if err != nil {
			t.Fatal(err)
		}
		if now.After(c.Leaf.NotAfter) || now.Before(c.Leaf.NotBefore) {
			t.Fatalf("%s: the certificate is from %s to %s", now, c.Leaf.NotBefore, c.Leaf.NotAfter)
		}
		if c.Leaf.NotAfter.After(end) {
			t.Fatalf("the certificate outlives the CA, until %s", c.Leaf.NotAfter)
		}
		if len(c.Certificate) != 2 {
			t.Fatal("the CA is missing in the chain: enrolling hosts can't compare it with their pin")
		}
		if last != nil && !last.Equal(c.Leaf) {
			renewed++
		}
		last = c.Leaf
	}
	if renewed < 100 {
		t.Errorf("renewed %d times", renewed)
	}
	now = end.Add(time.Hour)
	if _, err := a.Server(); err == nil {
		t.Error("a certificate after the CA's end")
	}
	if _, err := a.Host("galena", key.Public()); err == nil {
		t.Error("a host identity after the CA's end")
	}
}

func TestNewRefuses(t *testing.T) {
	now := time.Now()
	authority, err := pki.NewCA("first", now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id := pki.CoordinatorIdentity("first", "cinnabar")
	good, err := authority.Issue(id, key.Public(), now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	host, err := authority.Issue(pki.HostIdentity("first", "cinnabar"), key.Public(), now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.New(ca.Options{CA: authority, Identity: id, Cert: good, Key: other, Now: time.Now}); err == nil {
		t.Error("another key")
	}
	if _, err := ca.New(ca.Options{CA: authority, Identity: id, Cert: host, Key: key, Now: time.Now}); err == nil {
		t.Error("a host's certificate")
	}
	if _, err := ca.New(ca.Options{CA: authority, Identity: id, Cert: good[:20], Key: key, Now: time.Now}); err == nil {
		t.Error("a cut certificate")
	}
	next, err := pki.NewCA("first", now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.New(ca.Options{CA: next, Identity: id, Cert: good, Key: key, Now: time.Now}); err == nil {
		t.Error("a certificate of a CA that is not in the kit")
	}
}

// TestTwoCAs: while the CA is replaced, the coordinator shows its certificate of the
// one before, with that CA beside it for those who pinned it, as long as that lasts;
// what it issues is of the new one.
func TestTwoCAs(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	before, err := pki.NewCA("first", now)
	if err != nil {
		t.Fatal(err)
	}
	next, err := pki.NewCA("first", now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id := pki.CoordinatorIdentity("first", "cinnabar")
	own, err := before.Issue(id, key.Public(), now, pki.OperatorTTL)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ca.New(ca.Options{
		CA: next, Others: []*x509.Certificate{before.Cert}, Identity: id, Cert: own, Key: key, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	shows := func(want *pki.CA) {
		t.Helper()
		c, err := a.Server()
		if err != nil || c.Leaf.CheckSignatureFrom(want.Cert) != nil || len(c.Certificate) != 2 || !bytes.Equal(c.Certificate[1], want.Cert.Raw) {
			t.Errorf("shows another certificate: %v", err)
		}
	}
	shows(before)
	host, err := a.Host("pyrite", key.Public())
	if err != nil || host.CheckSignatureFrom(next.Cert) != nil {
		t.Errorf("issued by another CA: %v", err)
	}
	old, err := x509.ParseCertificate(own)
	if err != nil || !a.Issues(host) || a.Issues(old) {
		t.Errorf("it is not told which CA issues: %v", err)
	}
	if got := a.DER(); len(got) != 2 || len(a.CAs()) != 2 {
		t.Errorf("%d CAs come along", len(got))
	}
	now = now.Add(pki.OperatorTTL - 9*24*time.Hour)
	shows(next)
}
