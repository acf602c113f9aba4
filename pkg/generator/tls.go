package generator

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Files of the TLS generators, named as step-ca's and clan's are.
const (
	tlsCAKey, tlsCACert = "ca.key", "ca.crt"
	tlsKey, tlsCert     = "tls.key", "tls.crt"
)

// Blocks of PEM.
const (
	pemKey  = "EC PRIVATE KEY"
	pemCert = "CERTIFICATE"
)

// tlsBackdate is how much earlier a certificate begins to hold than it is made.
const tlsBackdate = 12 * time.Hour

// maxPEMBytes bounds what is read of a key or certificate.
const maxPEMBytes = 64 << 10

type tlsCASettings struct {
	CommonName string   `json:"common_name" doc:"name of the CA"`
	Days       int      `json:"days" doc:"how long it holds, 1 to 7300"`
	Domains    []string `json:"domains" doc:"it may only sign for these and what is below them, and for addresses; without any, for all names"`
	Depth      int      `json:"depth" doc:"how many CAs may be below it, 0 to 3"`
}

func tlsCAKind() Kind {
	k := Kind{Name: "tls-ca", Summary: "a CA for TLS (X.509, ECDSA P-256); no machine gets its key", Clan: "step-ca"}
	defaults := tlsCASettings{CommonName: "Clan Root CA", Days: 365, Depth: 1}
	return newKind(k, defaults, func(_ string, s tlsCASettings) (*Generator, error) {
		err := errors.Join(commonName(s.CommonName), between("days", s.Days, 1, 7300), between("depth", s.Depth, 0, 3), between("domains", len(s.Domains), 0, 256))
		for _, d := range s.Domains {
			err = errors.Join(err, domainName("domains", d))
		}
		if err != nil {
			return nil, err
		}
		return &Generator{
			Files: []File{kept(secret(tlsCAKey)), public(tlsCACert)},
			run: func(_ context.Context, random io.Reader, in Inputs) (Files, error) {
				t, err := template(random, s.CommonName, in.Now, s.Days)
				if err != nil {
					return nil, err
				}
				t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
				t.MaxPathLen, t.MaxPathLenZero = s.Depth, s.Depth == 0
				t.PermittedDNSDomains, t.PermittedDNSDomainsCritical = s.Domains, len(s.Domains) > 0
				return issue(random, t, nil, tlsCAKey, tlsCACert)
			},
		}, nil
	})
}

type tlsCertificateSettings struct {
	Names []string `json:"names" doc:"domain names, *.DOMAIN, and IP addresses; there must be one"`
	Days  int      `json:"days" doc:"how long it holds, 1 to 825, but no longer than the CA"`
	Usage string   `json:"usage" doc:"server, client or both"`
	CA    string   `json:"ca" doc:"the generator of the CA, a tls-ca"`
	Owner string   `json:"owner" doc:"who reads the key on the host"`
	Group string   `json:"group" doc:"group of the key on the host; root's where it is not given"`
}

func tlsCertificateKind() Kind {
	k := Kind{Name: "tls-certificate", Summary: "a key for TLS (ECDSA P-256) and its certificate by a tls-ca"}
	defaults := tlsCertificateSettings{Days: 90, Usage: "server", CA: "step-ca", Owner: "root"}
	return newKind(k, defaults, func(_ string, s tlsCertificateSettings) (*Generator, error) {
		err := errors.Join(between("names", len(s.Names), 1, 256), between("days", s.Days, 1, 825), oneOf("usage", s.Usage, "server", "client", "both"),
			fileName("ca", s.CA), fileName("owner", s.Owner))
		if s.Group != "" {
			err = errors.Join(err, fileName("group", s.Group))
		}
		var domains []string
		var addresses []net.IP
		for _, name := range s.Names {
			if a, parseErr := netip.ParseAddr(name); parseErr == nil && a.Zone() == "" {
				addresses = append(addresses, a.AsSlice())
				continue
			}
			domains = append(domains, name)
			wild := name
			if len(name) > 2 && name[:2] == "*." {
				wild = name[2:]
			}
			err = errors.Join(err, domainName("names", wild))
		}
		if err != nil {
			return nil, err
		}
		key := secret(tlsKey)
		key.Owner, key.Group = s.Owner, s.Group
		caKey, caCert := Read{s.CA, tlsCAKey}, Read{s.CA, tlsCACert}
		return &Generator{
			Files: []File{key, public(tlsCert)},
			Reads: []Read{caKey, caCert},
			run: func(_ context.Context, random io.Reader, in Inputs) (Files, error) {
				ca, err := readCA(in.read(caKey), in.read(caCert), in.Now)
				if err != nil {
					return nil, fmt.Errorf("the CA of %s: %w", s.CA, err)
				}
				if err := ca.permits(domains); err != nil {
					return nil, err
				}
				t, err := template(random, s.Names[0], in.Now, s.Days)
				if err != nil {
					return nil, err
				}
				if t.NotAfter.After(ca.cert.NotAfter) {
					t.NotAfter = ca.cert.NotAfter
				}
				t.DNSNames, t.IPAddresses = domains, addresses
				t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, usages[s.Usage]
				return issue(random, t, ca, tlsKey, tlsCert)
			},
		}, nil
	})
}

var usages = map[string][]x509.ExtKeyUsage{
	"server": {x509.ExtKeyUsageServerAuth},
	"client": {x509.ExtKeyUsageClientAuth},
	"both":   {x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
}

func commonName(name string) error {
	if name == "" || len(name) > 64 {
		return fmt.Errorf("common_name: %q: want 1 to 64 characters", name)
	}
	return nil
}

func template(random io.Reader, name string, now time.Time, days int) (*x509.Certificate, error) {
	if now.IsZero() {
		return nil, errors.New("the time of now is missing")
	}
	serial, err := draw(random, 16)
	if err != nil {
		return nil, err
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and of 16 bytes
	if len(name) > 64 {
		name = "" // Longer than a common name may be; the names themselves count.
	}
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-tlsBackdate), NotAfter: now.AddDate(0, 0, days),
	}, nil
}

// authority is a CA that signs.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// permits refuses names that nobody would believe this CA.
func (a *authority) permits(names []string) error {
	permitted := a.cert.PermittedDNSDomains
	for _, name := range names {
		below := func(domain string) bool {
			domain = strings.TrimPrefix(domain, ".")
			return name == domain || strings.HasSuffix(name, "."+domain)
		}
		if len(permitted) > 0 && !slices.ContainsFunc(permitted, below) {
			return fmt.Errorf("names: the CA may only sign for %s and below, and not for %s", strings.Join(permitted, ", "), name)
		}
	}
	return nil
}

// issue makes a key and its certificate, signed by ca, or by itself without one.
func issue(random io.Reader, t *x509.Certificate, ca *authority, keyFile, certFile string) (Files, error) {
	key, err := newP256(random)
	if err != nil {
		return nil, err
	}
	if ca == nil {
		ca = &authority{key, t}
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(point)
	t.SubjectKeyId = id[:20]
	cert, err := x509.CreateCertificate(rand.Reader, t, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, errors.New("encoding the key failed")
	}
	defer clear(der)
	return Files{
		keyFile:  NewValue(pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})),
		certFile: NewValue(pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: cert})),
	}, nil
}

// newP256 draws a key; numbers that are none are drawn again.
func newP256(random io.Reader) (*ecdsa.PrivateKey, error) {
	for range 8 {
		b, err := draw(random, 32)
		if err != nil {
			return nil, err
		}
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b)
		clear(b)
		if err == nil {
			return key, nil
		}
	}
	return nil, errors.New("the source of random bytes yields no key")
}

// readCA reads what tls-ca made, or step.
func readCA(keyPEM, certPEM []byte, now time.Time) (*authority, error) {
	if len(keyPEM) > maxPEMBytes || len(certPEM) > maxPEMBytes {
		return nil, fmt.Errorf("its key or certificate is longer than %d bytes", maxPEMBytes)
	}
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != pemCert {
		return nil, fmt.Errorf("%s holds no certificate in PEM", tlsCACert)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tlsCACert, err)
	}
	if !cert.IsCA {
		return nil, fmt.Errorf("%s is not the certificate of a CA", tlsCACert)
	}
	if now.Before(cert.NotBefore) || !now.Before(cert.NotAfter) {
		return nil, fmt.Errorf("%s holds from %s until %s: generate the CA again", tlsCACert, cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339))
	}
	key, err := readECKey(keyPEM)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s", tlsCAKey, tlsCACert)
	}
	return &authority{key, cert}, nil
}

func readECKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key in PEM", tlsCAKey)
	}
	defer clear(block.Bytes)
	var key any
	var err error
	switch block.Type {
	case pemKey:
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("%s holds a %.40q: want an unencrypted EC key", tlsCAKey, block.Type)
	}
	if ec, ok := key.(*ecdsa.PrivateKey); err == nil && ok {
		return ec, nil
	}
	return nil, fmt.Errorf("%s holds no EC key that can be read", tlsCAKey) // The cause may quote.
}
