package generator

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func parseCert(t *testing.T, v Value) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(v.Bytes())
	if block == nil || len(rest) != 0 {
		t.Fatalf("%q is no certificate", v.Bytes())
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestTLS(t *testing.T) {
	ca := generated(t, seeded(1), Inputs{}, "tls-ca", "", `{"domains": ["zt"], "depth": 0, "common_name": "Our CA"}`)
	deps := Inputs{Dependencies: map[string]Files{"step-ca": ca}}
	leaf := generated(t, seeded(2), deps, "tls-certificate", "m1", `{"names": ["m1.zt", "*.m1.zt", "fd00::1"], "usage": "both", "owner": "nginx", "group": "nginx"}`)
	if _, err := tls.X509KeyPair(leaf["tls.crt"].Bytes(), leaf["tls.key"].Bytes()); err != nil {
		t.Fatal(err)
	}
	root, cert := parseCert(t, ca["ca.crt"]), parseCert(t, leaf["tls.crt"])
	roots := x509.NewCertPool()
	roots.AddCert(root)
	for name, ok := range map[string]bool{"m1.zt": true, "www.m1.zt": true, "fd00::1": true, "m2.zt": false, "fd00::2": false} {
		_, err := cert.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if root.Subject.CommonName != "Our CA" || !root.IsCA || root.MaxPathLen != 0 || !root.NotBefore.Equal(now.Add(-12*time.Hour)) || !root.NotAfter.Equal(now.AddDate(1, 0, 0)) {
		t.Errorf("%+v", root)
	}
	if cert.IsCA || !cert.NotAfter.Equal(now.AddDate(0, 0, 90)) || cert.SerialNumber.BitLen() != 127 {
		t.Errorf("%+v", cert)
	}

	// Names that the CA may not sign for.
	for _, name := range []string{"example.org", "xzt", "*.example.org"} {
		g, err := New("tls-certificate", "m1", []byte(`{"names": ["m1.zt", "`+name+`"]}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Generate(t.Context(), seeded(3), Inputs{Dependencies: deps.Dependencies, Now: now}); err == nil || !strings.Contains(err.Error(), "not for "+name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Nothing holds longer than its CA.
	late := Inputs{Dependencies: deps.Dependencies, Now: now.AddDate(0, 11, 15)}
	if cert := parseCert(t, generated(t, seeded(4), late, "tls-certificate", "m1", `{"names": ["m1.zt"]}`)["tls.crt"]); !cert.NotAfter.Equal(root.NotAfter) {
		t.Errorf("it holds until %s, the CA until %s", cert.NotAfter, root.NotAfter)
	}

	if path, ok := program(t, "openssl"); ok {
		dir := t.TempDir()
		for name, v := range map[string]Value{"ca.crt": ca["ca.crt"], "tls.crt": leaf["tls.crt"], "tls.key": leaf["tls.key"]} {
			if err := os.WriteFile(filepath.Join(dir, name), v.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out := command(t, nil, path, "verify", "-x509_strict", "-attime", "1796040000", "-CAfile", filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tls.crt"))
		if !strings.Contains(out, "OK") {
			t.Errorf("openssl says %s", out)
		}
		command(t, nil, path, "ec", "-check", "-noout", "-in", filepath.Join(dir, "tls.key"))
	}
}

func TestBadCA(t *testing.T) {
	ca := generated(t, seeded(1), Inputs{}, "tls-ca", "", "")
	other := generated(t, seeded(2), Inputs{}, "tls-ca", "", "")
	leaf := generated(t, seeded(3), Inputs{Dependencies: map[string]Files{"step-ca": ca}}, "tls-certificate", "m1", `{"names": ["m1.zt"]}`)
	text := func(s string) Value { return NewValue([]byte(s)) }
	for says, files := range map[string]Files{
		"no certificate in PEM": {"ca.key": ca["ca.key"], "ca.crt": text("x")},
		"no key in PEM":         {"ca.key": text("x"), "ca.crt": ca["ca.crt"]},
		"is not the key of":     {"ca.key": other["ca.key"], "ca.crt": ca["ca.crt"]},
		"not the certificate":   {"ca.key": leaf["tls.key"], "ca.crt": leaf["tls.crt"]},
		"ENCRYPTED":             {"ca.key": text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), "ca.crt": ca["ca.crt"]},
		"no EC key that can":    {"ca.key": text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "ca.crt": ca["ca.crt"]},
		"longer than":           {"ca.key": text(strings.Repeat("x", maxPEMBytes+1)), "ca.crt": ca["ca.crt"]},
	} {
		g, err := New("tls-certificate", "m1", []byte(`{"names": ["m1.zt"]}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Generate(t.Context(), seeded(1), Inputs{Dependencies: map[string]Files{"step-ca": files}, Now: now}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want an error with %q", err, says)
		}
	}
	g, err := New("tls-certificate", "m1", []byte(`{"names": ["m1.zt"]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{now.AddDate(2, 0, 0), now.AddDate(-1, 0, 0)} {
		if _, err := g.Generate(t.Context(), seeded(1), Inputs{Dependencies: map[string]Files{"step-ca": ca}, Now: at}); err == nil || !strings.Contains(err.Error(), "generate the CA again") {
			t.Errorf("at %s: %v", at, err)
		}
	}
	root, err := New("tls-ca", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := root.Generate(t.Context(), seeded(1), Inputs{}); err == nil || !strings.Contains(err.Error(), "time") {
		t.Errorf("without a time: %v", err)
	}
}
