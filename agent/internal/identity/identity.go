// Package identity keeps who a host is: its keys, made on the host before
// enrolment and never sent anywhere, its certificate, and what it was enrolled
// with. Everything is below one directory that only the agent's user may read.
package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// Errors of identities.
var (
	// ErrNotEnrolled says that this host has no identity yet.
	ErrNotEnrolled = errors.New("not enrolled")
	// ErrOtherHost says that a join string is for another fleet or machine
	// than the one that the state directory belongs to.
	ErrOtherHost = errors.New("the join string is for another host")
	// ErrCertificate is wrapped by errors about a certificate that can't be this
	// host's.
	ErrCertificate = errors.New("certificate refused")
)

// Files below the directory.
const (
	hostKeyFile   = "host.key"
	reportKeyFile = "report.key"
	ageKeyFile    = "age.key"
	certFile      = "host.crt" // leaf first, then the CAs to trust
	bindingFile   = "binding.json"
	joinFile      = "join"
	instanceFile  = "instance"
	maxFileBytes  = 256 << 10
)

// Binding is what a host was enrolled with: all of it public.
type Binding struct {
	Fleet   fleet.FleetID     `json:"fleet"`
	Machine fleet.MachineName `json:"machine"`
	// Addresses of the coordinator, host:port, tried in order.
	Addresses []string `json:"addresses"`
	// CA is the digest of the CA certificate that enrolment pins.
	CA fleet.Digest `json:"ca"`
	// CABefore is the one in whose place CA came, by a trust root.
	CABefore fleet.Digest `json:"ca_before,omitempty"`
	// Root is the digest of the trust root that the host starts from.
	Root fleet.Digest `json:"root"`
	// Issued bounds the host's clock from below.
	Issued time.Time `json:"issued"`
	// HostKeysMAC authenticates the host's keys to the fleet's repository.
	HostKeysMAC []byte `json:"host_keys_mac,omitempty"`
}

// Store is an identity on disk. It is safe for concurrent use.
type Store struct {
	dir      string
	host     ed25519.PrivateKey
	report   ed25519.PrivateKey
	age      []age.Identity
	ageOwn   string // recipient of the key made here; empty where one was given
	instance string
	trusted  func() []*x509.Certificate

	mu      sync.Mutex
	binding Binding
	next    *Binding // of a join string that the enrolled host enrols with again
	leaf    *x509.Certificate
	cert    *tls.Certificate
	cas     []*x509.Certificate
}

// Options open an identity.
type Options struct {
	// Dir is the identity's own directory; made if missing.
	Dir string
	// AgeIdentity is a file with the age identities that the inventory knows
	// the machine by, or an SSH private key, the host's say; empty: one is made here and
	// sent at enrolment.
	AgeIdentity string
	// Trusted returns the CAs that the newest trust root lists; where there are none
	// the one that the join string pinned counts. nil for none.
	Trusted func() []*x509.Certificate
}

// Open reads the identity, and makes the keys that are missing: they exist,
// durable, before anything that depends on them is sent.
func Open(o Options) (*Store, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening identity: %w", err)
	}
	s := &Store{dir: o.Dir, trusted: o.Trusted}
	if s.trusted == nil {
		s.trusted = func() []*x509.Certificate { return nil }
	}
	for _, f := range []func() error{
		func() (err error) { s.host, err = s.key(hostKeyFile); return err },
		func() (err error) { s.report, err = s.key(reportKeyFile); return err },
		func() error { return s.openAge(o.AgeIdentity) },
		s.openInstance,
		s.load,
	} {
		if err := f(); err != nil {
			return nil, fmt.Errorf("opening identity: %w", err)
		}
	}
	return s, nil
}

// key reads a private key in PKCS #8 DER, or makes one.
func (s *Store) key(name string) (ed25519.PrivateKey, error) {
	der, err := atomicfile.ReadAtMost(s.path(name), maxFileBytes)
	if errors.Is(err, os.ErrNotExist) {
		key, err := pki.NewKey()
		if err != nil {
			return nil, err
		}
		if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			return nil, fmt.Errorf("encoding key: %w", err)
		}
		return key, atomicfile.WriteFile(s.path(name), der, 0o600)
	}
	if err != nil {
		return nil, err
	}
	signer, err := pki.ParseKey(der)
	if err != nil {
		return nil, s.damaged(name, err)
	}
	key, ok := signer.(ed25519.PrivateKey)
	if !ok {
		return nil, s.damaged(name, errors.New("want an ed25519 key"))
	}
	return key, nil
}

func (s *Store) openAge(given string) error {
	if given != "" {
		text, err := atomicfile.ReadAtMost(given, maxFileBytes)
		if err != nil {
			return fmt.Errorf("reading age identity: %w", err)
		}
		defer clear(text)
		ids, err := sops.ParseIdentities(text, nil)
		if err != nil {
			return fmt.Errorf("reading age identity %s: %w", given, err)
		}
		for _, id := range ids {
			s.age = append(s.age, id.Identity)
		}
		return nil
	}
	b, err := atomicfile.ReadAtMost(s.path(ageKeyFile), maxFileBytes)
	if errors.Is(err, os.ErrNotExist) {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			return fmt.Errorf("making age identity: %w", err)
		}
		s.age, s.ageOwn = []age.Identity{id}, id.Recipient().String()
		return atomicfile.WriteFile(s.path(ageKeyFile), []byte(id.String()+"\n"), 0o600)
	}
	if err != nil {
		return err
	}
	id, err := age.ParseX25519Identity(string(trimNewline(b)))
	if err != nil {
		return s.damaged(ageKeyFile, errors.New("it is no age identity")) // The cause repeats the key.
	}
	s.age, s.ageOwn = []age.Identity{id}, id.Recipient().String()
	return nil
}

func (s *Store) openInstance() error {
	id := make([]byte, 16)
	b, err := atomicfile.ReadAtMost(s.path(instanceFile), maxFileBytes)
	switch {
	case err == nil:
		s.instance = string(trimNewline(b))
		if id, err := hex.DecodeString(s.instance); err != nil || len(id) == 0 {
			return s.damaged(instanceFile, errors.New("it is no instance id"))
		}
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if _, err := rand.Read(id); err != nil {
		return fmt.Errorf("making instance id: %w", err)
	}
	s.instance = hex.EncodeToString(id)
	return atomicfile.WriteFile(s.path(instanceFile), []byte(s.instance+"\n"), 0o600)
}

// damaged says what to do about a file that does not hold what was written.
func (s *Store) damaged(name string, err error) error {
	return damaged(s.dir, name, err)
}

func damaged(dir, name string, err error) error {
	return fmt.Errorf("%s is damaged: %w; restore it from a backup, or move %s away and enrol again with a new join string",
		filepath.Join(dir, name), err, dir)
}

// load reads binding and certificate, where there are any.
func (s *Store) load() error {
	var err error
	s.binding, err = ReadBinding(s.dir)
	switch {
	case errors.Is(err, ErrNotEnrolled):
		return nil
	case err != nil:
		return err
	}
	b, err := atomicfile.ReadAtMost(s.path(certFile), maxFileBytes)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	leaf, cas, err := decodeCertificates(b)
	if err == nil {
		err = s.whole(b, leaf, cas)
	}
	if err != nil {
		return s.damaged(certFile, err)
	}
	if err := s.fits(leaf, cas); err != nil {
		return s.damaged(bindingFile, err)
	}
	s.use(leaf, cas)
	return nil
}

// ReadBinding reads the binding of an identity without opening, or making, it.
func ReadBinding(dir string) (Binding, error) {
	var b Binding
	path := filepath.Join(dir, bindingFile)
	data, err := atomicfile.ReadAtMost(path, maxFileBytes)
	if errors.Is(err, os.ErrNotExist) {
		return b, ErrNotEnrolled
	}
	if err != nil {
		return b, err
	}
	if b, err = decodeBinding(data); err != nil {
		return Binding{}, damaged(dir, bindingFile, err)
	}
	return b, nil
}

// ReadExpiry reads until when the certificate of an identity is good, without opening, or
// making, it. The binding is there before one is: ErrNotEnrolled says that there is none.
func ReadExpiry(dir string) (time.Time, error) {
	data, err := atomicfile.ReadAtMost(filepath.Join(dir, certFile), maxFileBytes)
	if errors.Is(err, os.ErrNotExist) {
		return time.Time{}, ErrNotEnrolled
	}
	if err != nil {
		return time.Time{}, err
	}
	leaf, _, err := decodeCertificates(data)
	if err != nil {
		return time.Time{}, damaged(dir, certFile, err)
	}
	return leaf.NotAfter, nil
}

// decodeBinding reads what encodeBinding writes. A name that rot turned into
// another one must not pass for a value that isn't there.
func decodeBinding(data []byte) (Binding, error) {
	var b Binding
	if err := strictjson.Unmarshal(data, maxFileBytes, &b); err != nil {
		return b, err //nolint:wrapcheck // The caller names the file.
	}
	_, err := fleet.ParseFleetID(string(b.Fleet))
	if err == nil {
		_, err = fleet.ParseMachineName(string(b.Machine))
	}
	for _, d := range []fleet.Digest{b.CA, b.Root} {
		if err == nil {
			_, err = fleet.ParseDigest(string(d))
		}
	}
	if err == nil && len(b.Addresses) == 0 {
		err = errors.New("it has no addresses")
	}
	for _, a := range b.Addresses {
		if _, port, aerr := net.SplitHostPort(a); err == nil && (aerr != nil || port == "") {
			err = fmt.Errorf("address %.80q: want host:port", a)
		}
	}
	return b, err
}

// encodeBinding is the form on disk.
func encodeBinding(b Binding) ([]byte, error) {
	data, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding binding: %w", err)
	}
	return append(data, '\n'), nil
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// InstanceID tells this state directory from a copy of the host's identity
// that runs elsewhere.
func (s *Store) InstanceID() string { return s.instance }

// ReportSigner signs reports.
func (s *Store) ReportSigner() release.Signer { return release.NewSigner(s.report) }

// AgeIdentities decrypt the host's secrets.
func (s *Store) AgeIdentities() []age.Identity { return s.age }

// Binding returns what the host was, or is being, enrolled with.
func (s *Store) Binding() (Binding, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.binding.Machine == "" {
		return Binding{}, ErrNotEnrolled
	}
	return s.binding, nil
}

// HostKeys are the host's public keys in the encoding that is authenticated.
func (s *Store) HostKeys(m fleet.MachineName) ([]byte, error) {
	pub, ok := s.report.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("host keys: report key has no public part")
	}
	return pki.NewHostKeys(m, pub, s.ageOwn).Marshal()
}

func trimNewline(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return b
}
