package pki_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var t0 = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func newCA(t testing.TB, f fleet.FleetID) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(f, t0)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t testing.TB, ca *pki.CA, id pki.Identity, ttl time.Duration) func() (*tls.Certificate, error) {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(id, key.Public(), t0, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return func() (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{der, ca.Cert.Raw}, PrivateKey: key}, nil
	}
}

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

func cas(c ...*pki.CA) func() []*x509.Certificate {
	var out []*x509.Certificate
	for _, ca := range c {
		out = append(out, ca.Cert)
	}
	return func() []*x509.Certificate { return out }
}

// handshake connects client to server and returns what the server sees.
func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error, error) {
	t.Helper()
	a, b := net.Pipe()
	s, c := tls.Server(a, server), tls.Client(b, client)
	serverErr := make(chan error, 1)
	go func() {
		err := s.Handshake()
		if err == nil {
			// TLS 1.3: the client learns of a refusal when it reads.
			_, err = s.Write([]byte("x"))
		}
		_ = a.Close()
		serverErr <- err
	}()
	err := c.Handshake()
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	_ = b.Close()
	return s.ConnectionState(), <-serverErr, err
}

func TestMutualTLS(t *testing.T) {
	ca, foreign, sameName := newCA(t, "first"), newCA(t, "second"), newCA(t, "first")
	coordinator := issue(t, ca, pki.CoordinatorIdentity("first", "cinnabar"), pki.CATTL)
	host := issue(t, ca, pki.HostIdentity("first", "pyrite"), pki.HostTTL)
	none := func() (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	end := t0.Add(pki.HostTTL)
	tests := []struct {
		name         string
		server       func() (*tls.Certificate, error)
		client       func() (*tls.Certificate, error)
		serverNow    time.Time
		clientNow    time.Time
		serverErr    error
		clientErr    error
		wantExpired  bool
		wantNoClient bool
	}{
		{name: "good", server: coordinator, client: host, serverNow: t0, clientNow: t0},
		{name: "no client certificate", server: coordinator, client: none, serverNow: t0, clientNow: t0, wantNoClient: true},
		{name: "ended yesterday", server: coordinator, client: host, serverNow: end.Add(24 * time.Hour), clientNow: t0, wantExpired: true},
		{name: "ended beyond the grace", server: coordinator, client: host, serverNow: end.Add(pki.RenewGrace + time.Hour), clientNow: t0, serverErr: pki.ErrExpiredIdentity},
		{name: "server's clock ten years back", server: coordinator, client: host, serverNow: t0.AddDate(-10, 0, 0), clientNow: t0, serverErr: pki.ErrNotYetValid},
		{name: "client's clock ten years back", server: coordinator, client: host, serverNow: t0, clientNow: t0.AddDate(-10, 0, 0), clientErr: pki.ErrNotYetValid},
		{name: "client's clock fifty years on", server: coordinator, client: host, serverNow: t0, clientNow: t0.AddDate(50, 0, 0), clientErr: pki.ErrExpiredIdentity},
		{name: "client of another fleet's CA", server: coordinator, client: issue(t, foreign, pki.HostIdentity("second", "pyrite"), pki.HostTTL), serverNow: t0, clientNow: t0, serverErr: pki.ErrUnknownCA},
		{name: "client of another CA with the same name", server: coordinator, client: issue(t, sameName, pki.HostIdentity("first", "pyrite"), pki.HostTTL), serverNow: t0, clientNow: t0, serverErr: pki.ErrUnknownCA},
		{name: "client of another fleet, same CA", server: coordinator, client: issue(t, ca, pki.HostIdentity("second", "pyrite"), pki.HostTTL), serverNow: t0, clientNow: t0, serverErr: pki.ErrIdentity},
		{name: "server of another CA", server: issue(t, sameName, pki.CoordinatorIdentity("first", "cinnabar"), pki.CATTL), client: host, serverNow: t0, clientNow: t0, clientErr: pki.ErrUnknownCA},
		{name: "server is only a host", server: issue(t, ca, pki.HostIdentity("first", "cinnabar"), pki.HostTTL), client: host, serverNow: t0, clientNow: t0, clientErr: pki.ErrIdentity},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := pki.ServerTLS(pki.ServerConfig{Certificate: tc.server, CAs: cas(ca), Fleet: "first", Now: at(tc.serverNow), Grace: pki.RenewGrace})
			c := pki.ClientTLS(pki.ClientConfig{Certificate: tc.client, CAs: cas(ca), Fleet: "first", Now: at(tc.clientNow)})
			cs, serverErr, clientErr := handshake(t, s, c)
			switch {
			case tc.serverErr != nil:
				if !errors.Is(serverErr, tc.serverErr) {
					t.Fatalf("server: got %v, want %v", serverErr, tc.serverErr)
				}
				return
			case tc.clientErr != nil:
				if !errors.Is(clientErr, tc.clientErr) {
					t.Fatalf("client: got %v, want %v", clientErr, tc.clientErr)
				}
				return
			case serverErr != nil || clientErr != nil:
				t.Fatal(serverErr, clientErr)
			}
			p, ok, err := pki.PeerOf(cs, tc.serverNow)
			if err != nil || ok == tc.wantNoClient {
				t.Fatal(p, ok, err)
			}
			if ok && (p.Expired != tc.wantExpired || p.Path() != "host/pyrite") {
				t.Fatalf("got %+v", p)
			}
		})
	}
}

func TestEnrolTLSPinsTheCA(t *testing.T) {
	ca, other := newCA(t, "first"), newCA(t, "first")
	server := func(from *pki.CA) *tls.Config {
		return pki.ServerTLS(pki.ServerConfig{
			Certificate: issue(t, from, pki.CoordinatorIdentity("first", "cinnabar"), pki.CATTL),
			CAs:         cas(from), Fleet: "first", Now: at(t0),
		})
	}
	pin := fleet.DigestOf(ca.Cert.Raw)
	if _, serr, cerr := handshake(t, server(ca), pki.EnrolTLS("first", pin, at(t0))); serr != nil || cerr != nil {
		t.Fatal(serr, cerr)
	}
	if _, _, err := handshake(t, server(other), pki.EnrolTLS("first", pin, at(t0))); !errors.Is(err, pki.ErrUnknownCA) {
		t.Fatalf("wrong CA: %v", err)
	}
	// The pinned CA in the chain, over a leaf of another one.
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := other.Issue(pki.CoordinatorIdentity("first", "cinnabar"), key.Public(), t0, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	mixed := server(ca)
	mixed.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{leaf, ca.Cert.Raw}, PrivateKey: key}, nil
	}
	if _, _, err := handshake(t, mixed, pki.EnrolTLS("first", pin, at(t0))); !errors.Is(err, pki.ErrUnknownCA) {
		t.Fatalf("pinned CA over a foreign leaf: %v", err)
	}
}

func TestIssueBounds(t *testing.T) {
	ca := newCA(t, "first")
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(pki.HostIdentity("first", "a"), key.Public(), ca.Cert.NotAfter.Add(-time.Hour), pki.HostTTL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if c.NotAfter.After(ca.Cert.NotAfter) {
		t.Error("outlives its CA")
	}
	if _, err := ca.Issue(pki.HostIdentity("first", "a"), key.Public(), ca.Cert.NotAfter.Add(time.Hour), pki.HostTTL); err == nil {
		t.Error("issued after the CA's end")
	}
	for _, id := range []pki.Identity{
		{},
		{Fleet: "First", Kind: pki.KindHost, Name: "a"},
		{Fleet: "first", Kind: "root", Name: "a"},
		{Fleet: "first", Kind: pki.KindHost, Name: "../operator/root"},
		{Fleet: "first", Kind: pki.KindHost, Name: "a/b"},
		{Fleet: "first", Kind: pki.KindHost, Name: ""},
		{Fleet: "first", Kind: pki.KindHost, Name: "A"},
	} {
		if _, err := ca.Issue(id, key.Public(), t0, time.Hour); !errors.Is(err, pki.ErrIdentity) {
			t.Errorf("%+v: %v", id, err)
		}
	}
}

func TestIdentityWantsOneURI(t *testing.T) {
	u := &url.URL{Scheme: "spiffe", Host: "first", Path: "/host/a"}
	if _, err := pki.IdentityOf(&x509.Certificate{URIs: []*url.URL{u, u}}); !errors.Is(err, pki.ErrIdentity) {
		t.Fatal(err)
	}
	if id, err := pki.IdentityOf(&x509.Certificate{URIs: []*url.URL{u}}); err != nil || id.String() != "spiffe://first/host/a" {
		t.Fatal(id, err)
	}
}

func TestParseCA(t *testing.T) {
	ca, other := newCA(t, "first"), newCA(t, "first")
	der, err := ca.MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.ParseCA(ca.Cert.Raw, der); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.ParseCA(other.Cert.Raw, der); err == nil {
		t.Fatal("key of another CA")
	}
}

func TestCSR(t *testing.T) {
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := pki.ParseCSR(csr)
	if err != nil || !pub.Equal(key.Public()) {
		t.Fatal(err)
	}
	csr[len(csr)-1] ^= 1
	if _, err := pki.ParseCSR(csr); err == nil {
		t.Fatal("altered signature")
	}
	if _, err := pki.ParseCSR(make([]byte, 1<<20)); err == nil {
		t.Fatal("huge")
	}
}

func newJoin(t testing.TB) pki.Join {
	t.Helper()
	j, err := pki.NewJoin(pki.Join{
		Fleet: "first", Machine: "pyrite", Addresses: []string{"cinnabar.zt:7443", "[fd00::1]:7443"},
		CA: fleet.DigestOf([]byte("ca")), Root: fleet.DigestOf([]byte("root")), Issued: t0,
	})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestJoin(t *testing.T) {
	j := newJoin(t)
	got, err := pki.ParseJoin("  " + j.String() + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(j, got); diff != "" {
		t.Fatal(diff)
	}
	keys := []byte("keys")
	if !j.CheckMAC(keys, got.MAC(keys)) || newJoin(t).CheckMAC(keys, j.MAC(keys)) || j.CheckMAC([]byte("others"), j.MAC(keys)) {
		t.Error("MAC does not tell join strings and keys apart")
	}
	if string(j.Token()) == string(j.MAC(keys)) || len(j.Token()) != 32 {
		t.Error("token")
	}
	s := j.String()
	for name, bad := range map[string]string{
		"empty": "", "other prefix": "join:" + s, "cut": s[:len(s)-9], "altered": strings.Replace(s, "eyJ", "eyK", 1),
		"huge": s + strings.Repeat("A", 1<<20), "no base64": s[:30] + "!" + s[31:],
	} {
		if _, err := pki.ParseJoin(bad); !errors.Is(err, pki.ErrJoin) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pki.NewJoin(pki.Join{Fleet: "first", Machine: "A/B"}); !errors.Is(err, pki.ErrJoin) {
		t.Error(err)
	}
}

func TestHostKeys(t *testing.T) {
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	k := pki.NewHostKeys("pyrite", key.Public().(ed25519.PublicKey), id.Recipient().String())
	b, err := k.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := pki.ParseHostKeys(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(k, got); diff != "" {
		t.Fatal(diff)
	}
	for _, bad := range []string{
		"", "{}", `{"machine":"a"}`, `{"machine":"a","report":"AA=="}`,
		strings.Replace(string(b), "age1", "age2", 1), strings.Replace(string(b), "pyrite", "../x", 1),
	} {
		if _, err := pki.ParseHostKeys([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestSealKey(t *testing.T) {
	a, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	b, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := pki.SealKey([]byte("secret"), a.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pki.OpenKey(sealed, b, a); err != nil || string(got) != "secret" {
		t.Fatal(got, err)
	}
	if _, err := pki.OpenKey(sealed, b); err == nil {
		t.Fatal("opened with another key")
	}
	if strings.Contains(string(sealed), "secret") {
		t.Fatal("not encrypted")
	}
}

func FuzzParseJoin(f *testing.F) {
	f.Add(newJoin(f).String())
	f.Add("fleet-join1:e30")
	f.Fuzz(func(t *testing.T, s string) {
		j, err := pki.ParseJoin(s)
		if err != nil {
			return
		}
		again, err := pki.ParseJoin(j.String())
		if err != nil || !cmp.Equal(j, again) {
			t.Fatal(err)
		}
	})
}

func FuzzParseHostKeys(f *testing.F) {
	f.Add([]byte(`{"machine":"a","report":"AA=="}`))
	f.Add([]byte(`{"machine":"galena","report":"` + strings.Repeat("A", 43) + `=","age":"age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := pki.ParseHostKeys(b)
		if err != nil {
			return
		}
		text, err := k.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := pki.ParseHostKeys(text); err != nil || again != k {
			t.Errorf("%q becomes %q, which is %+v, %v", b, text, again, err)
		}
	})
}

func FuzzParseCSR(f *testing.F) {
	key, err := pki.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr)
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = pki.ParseCSR(b) })
}

func TestKeyInPEM(t *testing.T) {
	der := []byte("a key")
	if got, err := pki.DecodeKey(pki.EncodeKey(der)); err != nil || !bytes.Equal(got, der) {
		t.Errorf("got %q, %v", got, err)
	}
	for _, text := range []string{"", "a key", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if got, err := pki.DecodeKey([]byte(text)); err == nil {
			t.Errorf("of %q came %q", text, got)
		}
	}
}
