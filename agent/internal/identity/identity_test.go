package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/crypto/ssh"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

func newJoin(t *testing.T, m fleet.MachineName) pki.Join {
	t.Helper()
	j, err := pki.NewJoin(pki.Join{
		Fleet: "test", Machine: m, Addresses: []string{"127.0.0.1:1"},
		CA: fleet.DigestOf([]byte("ca")), Root: fleet.DigestOf([]byte("root")), Issued: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeysStay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	first := open(t, dir)
	if first.Enrolled() {
		t.Error("enrolled from nothing")
	}
	if _, err := first.Certificate(); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("certificate: %v", err)
	}
	again := open(t, dir)
	k1, err1 := first.HostKeys("pyrite")
	k2, err2 := again.HostKeys("pyrite")
	if err1 != nil || err2 != nil || string(k1) != string(k2) || first.InstanceID() != again.InstanceID() {
		t.Errorf("keys changed: %s, %s (%v, %v)", k1, k2, err1, err2)
	}
	keys, err := pki.ParseHostKeys(k1)
	if err != nil || keys.Age == "" {
		t.Errorf("host keys: %+v, %v", keys, err)
	}
	fi, err := os.Stat(dir)
	if err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", fi.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), fi.Mode(), err)
		}
	}
}

func TestGivenAgeIdentity(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.txt")
	if err := os.WriteFile(file, []byte("# a comment\n"+id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Dir: t.TempDir(), AgeIdentity: file})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := s.HostKeys("pyrite")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pki.ParseHostKeys(keys); err != nil || got.Age != "" {
		t.Errorf("a key that the inventory knows is sent: %+v, %v", got, err)
	}
	if len(s.AgeIdentities()) != 1 {
		t.Errorf("%d identities", len(s.AgeIdentities()))
	}
	// The host's own SSH key, which is two: for its public line, and as an age key.
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(Options{Dir: t.TempDir(), AgeIdentity: file}); err != nil || len(s.AgeIdentities()) != 2 {
		t.Errorf("an SSH key: %v", err)
	}
	if err := os.WriteFile(file, []byte("AGE-SECRET-KEY-1SECRET\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: t.TempDir(), AgeIdentity: file}); err == nil || strings.Contains(err.Error(), "1SECRET") {
		t.Errorf("a damaged key: %v", err)
	}
	if _, err := Open(Options{Dir: t.TempDir(), AgeIdentity: "/nonexistent"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestJoin(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	j := newJoin(t, "pyrite")
	if err := s.SetJoin(j); err != nil {
		t.Fatal(err)
	}
	// A crash later, it is still there.
	s = open(t, dir)
	pending, ok, err := s.PendingJoin()
	if err != nil || !ok || pending.String() != j.String() {
		t.Errorf("pending: %v, %v", ok, err)
	}
	b, err := s.Binding()
	if err != nil || b.Machine != "pyrite" || b.Root != j.Root {
		t.Errorf("binding: %+v, %v", b, err)
	}
	// Nothing came of it yet: another one takes its place, whoever it is for.
	other := newJoin(t, "galena")
	if err := s.SetJoin(other); err != nil {
		t.Errorf("another machine's: %v", err)
	}
	s = open(t, dir)
	pending, ok, err = s.PendingJoin()
	if err != nil || !ok || pending.String() != other.String() {
		t.Errorf("pending now: %v, %v", ok, err)
	}
	if b, err := s.Binding(); err != nil || b.Machine != "galena" || b.Root != other.Root {
		t.Errorf("binding now: %+v, %v", b, err)
	}
	if same, err := s.EnrolledWith(j); same || err != nil {
		t.Errorf("enrolled with it, before there is a certificate: %v", err)
	}
}

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	now := time.Now()
	ca, err := pki.NewCA("test", now)
	if err != nil {
		t.Fatal(err)
	}
	j := newJoin(t, "pyrite")
	j.CA = fleet.DigestOf(ca.Cert.Raw)
	if err := s.SetJoin(j); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadBinding(dir); err != nil {
		t.Errorf("binding of a host that is being enrolled: %v", err)
	}
	if until, err := ReadExpiry(dir); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("expiry of a host that is being enrolled: %v, %v", until, err)
	}
	otherCA, err := pki.NewCA("test", now)
	if err != nil {
		t.Fatal(err)
	}
	otherKey, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	issue := func(ca *pki.CA, id pki.Identity, pub any) []byte {
		der, err := ca.Issue(id, pub, now, pki.HostTTL)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	own, me := s.host.Public(), pki.HostIdentity("test", "pyrite")
	for name, c := range map[string]struct {
		leaf []byte
		cas  [][]byte
	}{
		"garbage":       {[]byte("x"), [][]byte{ca.Cert.Raw}},
		"other machine": {issue(ca, pki.HostIdentity("test", "galena"), own), [][]byte{ca.Cert.Raw}},
		"operator":      {issue(ca, pki.OperatorIdentity("test", "eve"), own), [][]byte{ca.Cert.Raw}},
		"other key":     {issue(ca, me, otherKey.Public()), [][]byte{ca.Cert.Raw}},
		"other CA":      {issue(ca, me, own), [][]byte{otherCA.Cert.Raw}},
		"no CA":         {issue(ca, me, own), nil},
		"not pinned":    {issue(otherCA, me, own), [][]byte{otherCA.Cert.Raw}},
		"pinned beside": {issue(otherCA, me, own), [][]byte{ca.Cert.Raw, otherCA.Cert.Raw}},
		"leaf as CA":    {issue(ca, me, own), [][]byte{issue(ca, me, own)}},
	} {
		if err := s.Install(c.leaf, c.cas); err == nil {
			t.Errorf("%s: installed", name)
		}
	}
	if s.Enrolled() {
		t.Fatal("enrolled by what was refused")
	}
	good := issue(ca, me, own)
	if err := s.Install(good, [][]byte{ca.Cert.Raw, otherCA.Cert.Raw}); err != nil {
		t.Fatal(err)
	}
	_, until := s.Validity()
	if got, err := ReadExpiry(dir); err != nil || !got.Equal(until) {
		t.Errorf("it reads until %v, want %v (%v)", got, until, err)
	}
	rotten := t.TempDir()
	if err := os.WriteFile(filepath.Join(rotten, certFile), []byte("rot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadExpiry(rotten); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("damaged: %v", err)
	}
	s = open(t, dir)
	cert, err := s.Certificate()
	if err != nil || len(s.CAs()) != 1 || !s.CAs()[0].Equal(ca.Cert) || string(cert.Certificate[0]) != string(good) {
		t.Fatalf("after opening again: %v", err)
	}
	if pub, ok := cert.PrivateKey.(ed25519.PrivateKey); !ok || !pub.Equal(s.host) {
		t.Error("the certificate has another key")
	}
	if _, ok, err := s.PendingJoin(); ok || err != nil {
		t.Errorf("the join string is still there: %v", err)
	}
	if same, err := s.EnrolledWith(j); !same || err != nil {
		t.Errorf("not enrolled with it: %v", err)
	}
	// Enrolling again counts when it is done, not when it is tried: what fails
	// changes nothing about who the host is, and may be tried again.
	before, err := s.Binding()
	if err != nil {
		t.Fatal(err)
	}
	again := newJoin(t, "pyrite")
	again.CA = fleet.DigestOf(otherCA.Cert.Raw)
	if err := s.SetJoin(again); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if after, err := s.Binding(); err != nil || after.CA != before.CA {
		t.Errorf("the binding moved from %v to %v, %v", before, after, err)
	}
	if same, err := s.EnrolledWith(again); same || err != nil {
		t.Errorf("enrolled with what was only tried: %v", err)
	}
	if err := s.Install(good, [][]byte{ca.Cert.Raw}); err != nil {
		t.Errorf("renewing meanwhile: %v", err)
	}
	if err := s.SetJoin(again); err != nil {
		t.Fatal(err)
	}
	if err := s.Install(issue(otherCA, me, own), [][]byte{otherCA.Cert.Raw}); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if same, err := s.EnrolledWith(again); !same || err != nil {
		t.Errorf("not enrolled again: %v", err)
	}
	if err := s.Install(good, [][]byte{ca.Cert.Raw, otherCA.Cert.Raw}); err == nil {
		t.Error("the CA of before still counts")
	}
	from, until := s.Validity()
	half := from.Add(until.Sub(from) / 2)
	if at := s.RenewAt(0); !at.Equal(half) {
		t.Errorf("renewal at %s, want %s", at, half)
	}
	if at := s.RenewAt(0.999); at.Before(half) || at.After(half.Add(until.Sub(from)/10)) {
		t.Errorf("renewal with jitter at %s", at)
	}
}

// TestAnotherCA: the host changes to another CA where its trust root lists that,
// and only there; a crash in the midst leaves a whole identity.
func TestAnotherCA(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	var trusted []*x509.Certificate
	reopen := func() *Store {
		t.Helper()
		s, err := Open(Options{Dir: dir, Trusted: func() []*x509.Certificate { return trusted }})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	newCA := func() *pki.CA {
		t.Helper()
		ca, err := pki.NewCA("test", now)
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	first, second, evil := newCA(), newCA(), newCA()
	s := reopen()
	issue := func(ca *pki.CA) []byte {
		t.Helper()
		der, err := ca.Issue(pki.HostIdentity("test", "pyrite"), s.host.Public(), now, pki.HostTTL)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	both := [][]byte{first.Cert.Raw, second.Cert.Raw}
	j := newJoin(t, "pyrite")
	j.CA = fleet.DigestOf(first.Cert.Raw)
	if err := errors.Join(s.SetJoin(j), s.Install(issue(first), both)); err != nil {
		t.Fatal(err)
	}
	if err := s.Install(issue(second), both); !errors.Is(err, ErrCertificate) {
		t.Errorf("a CA that no trust root lists: %v", err)
	}
	trusted = []*x509.Certificate{first.Cert, second.Cert}
	if err := s.Install(issue(evil), append(both, evil.Cert.Raw)); !errors.Is(err, ErrCertificate) {
		t.Errorf("another than the trust root lists: %v", err)
	}
	if err := s.Install(issue(second), [][]byte{first.Cert.Raw}); !errors.Is(err, ErrCertificate) {
		t.Errorf("without its CA: %v", err)
	}
	half := s.RenewAt(0)
	// A crash between the note and the certificate.
	if err := s.noteCA(fleet.DigestOf(second.Cert.Raw)); err != nil {
		t.Fatal(err)
	}
	s = reopen()
	if !s.Enrolled() || s.leaf.CheckSignatureFrom(first.Cert) != nil {
		t.Error("the identity of before is not there any more")
	}
	if err := s.Install(issue(second), both); err != nil {
		t.Fatal(err)
	}
	s = reopen()
	if s.leaf.CheckSignatureFrom(second.Cert) != nil || len(s.CAs()) != 2 {
		t.Error("the new certificate is not in use")
	}
	// The trust root is lost to damage: the coordinator may be of either.
	trusted = nil
	if s = reopen(); len(s.CAs()) != 2 {
		t.Errorf("%d CAs count without a trust root", len(s.CAs()))
	}
	if err := s.Install(issue(first), both); !errors.Is(err, ErrCertificate) {
		t.Errorf("back to the CA of before: %v", err)
	}
	// Who has a certificate of a CA that is dropped renews at once.
	trusted = []*x509.Certificate{second.Cert}
	if at := s.RenewAt(0); !at.Equal(half) {
		t.Errorf("renews at %s, want %s", at, half)
	}
	trusted = []*x509.Certificate{evil.Cert}
	if at := s.RenewAt(0); at.After(now) {
		t.Errorf("renews at %s only", at)
	}
}

// TestEnrolWithAnotherCA: while the CA is replaced a join string pins that of the
// coordinator's certificate, and the host's own is of the next.
func TestEnrolWithAnotherCA(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	pinned, err := pki.NewCA("test", now)
	if err != nil {
		t.Fatal(err)
	}
	next, err := pki.NewCA("test", now)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: dir, Trusted: func() []*x509.Certificate { return []*x509.Certificate{pinned.Cert, next.Cert} }}
	for range 2 { // Then again, with another join string.
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		j := newJoin(t, "pyrite")
		j.CA = fleet.DigestOf(pinned.Cert.Raw)
		der, err := next.Issue(pki.HostIdentity("test", "pyrite"), s.host.Public(), now, pki.HostTTL)
		if err := errors.Join(err, s.SetJoin(j), s.Install(der, [][]byte{next.Cert.Raw, pinned.Cert.Raw})); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(o); err != nil || !s.Enrolled() {
			t.Fatalf("after opening again: %v", err)
		}
		if same, err := s.EnrolledWith(j); !same || err != nil {
			t.Errorf("not enrolled with it: %v", err)
		}
	}
}

func FuzzDecodeCertificates(f *testing.F) {
	ca, err := pki.NewCA("test", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add(ca.Cert.Raw)
	inPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw})
	f.Add(append(inPEM, inPEM...))
	f.Fuzz(func(t *testing.T, b []byte) {
		leaf, cas, err := decodeCertificates(b)
		if err == nil && (leaf == nil || len(cas) == 0) {
			t.Error("no error and no certificates")
		}
	})
}

// TestDamagedBinding: what is no binding is said to be damaged, and not taken for
// a host that is not enrolled.
func TestDamagedBinding(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	s := open(t, dir)
	if err := s.SetJoin(newJoin(t, "pyrite")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, bindingFile)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		`"root":`: `"roou":`, `"ca":`: `"cb":`, `"machine":`: `"nachine":`, `"fleet":`: `"Gleet":`, `"addresses":`: `"adresses":`,
		`"pyrite"`: `"p/rite"`, `127.0.0.1:1`: `127.0.0.1;1`, `sha256:`: `sha255:`,
	} {
		if !bytes.Contains(whole, []byte(from)) {
			t.Fatalf("no %s in %s", from, whole)
		}
		if err := os.WriteFile(file, bytes.Replace(whole, []byte(from), []byte(to), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := ReadBinding(dir); err == nil || !strings.Contains(err.Error(), "binding.json is damaged") {
			t.Errorf("with %s: %+v, %v", to, b, err)
		}
	}
}

// FuzzBinding: a binding that is taken says who the host is and where from, and
// is the same when it is written again.
func FuzzBinding(f *testing.F) {
	whole, err := encodeBinding(Binding{
		Fleet: "test", Machine: "pyrite", Addresses: []string{"127.0.0.1:1", "[::1]:8443", "c.example.org:443"},
		CA: fleet.DigestOf([]byte("ca")), Root: fleet.DigestOf([]byte("root")),
		Issued: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), HostKeysMAC: []byte("mac"),
	})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := decodeBinding(whole); err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"machine":"pyrite"}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := decodeBinding(data)
		if err != nil {
			return
		}
		if b.Machine == "" || b.Fleet == "" || len(b.Addresses) == 0 || len(b.Root) != len(b.CA) || b.Root == "" {
			t.Errorf("taken: %+v", b)
		}
		text, err := encodeBinding(b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeBinding(text)
		if err != nil || !cmp.Equal(b, again, cmpopts.EquateEmpty()) {
			t.Errorf("%+v becomes %+v, %v", b, again, err)
		}
	})
}
