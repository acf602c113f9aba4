//go:build linux

// Package setup is what the programs of the benchmark share: a throw-away
// fleet with its keys, and clocks that several processes read alike.
package setup

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// Names within the throw-away fleet.
const (
	Fleet    = fleet.FleetID("bench")
	Operator = fleet.OperatorName("bench")
	Server   = fleet.MachineName("coordinator")
)

// Setup is a throw-away fleet. It holds private keys and is written to a
// temporary directory only.
type Setup struct {
	// Kit lists no machines, so that reading it costs every server the same.
	Kit kit.Kit `json:"kit"`
	// ReleaseKey signs generations.
	ReleaseKey ed25519.PrivateKey `json:"release_key"`
}

// Leaf is a client's certificate in DER, with its key.
type Leaf struct {
	Cert []byte             `json:"cert"`
	Key  ed25519.PrivateKey `json:"key"`
}

// Machine is the name of agent i.
func Machine(i int) fleet.MachineName { return fleet.MachineName(fmt.Sprintf("m%05d", i)) }

// New makes a fleet.
func New(now time.Time) (*Setup, error) {
	ca, err := pki.NewCA(Fleet, now)
	if err != nil {
		return nil, err
	}
	caKey, err := ca.MarshalKey()
	if err != nil {
		return nil, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	leaf, err := ca.Issue(pki.CoordinatorIdentity(Fleet, Server), key.Public(), now, pki.CATTL)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	s := &Setup{Kit: kit.Kit{
		Format: kit.Format, Fleet: Fleet, Name: string(Server), CACert: ca.Cert.Raw, CAKey: caKey, Cert: leaf, Key: pkcs8,
		Operators: []kit.Operator{{Name: Operator, Role: fleet.RoleAdmin}},
	}}
	return s, s.root(now)
}

// root makes a trust root with one key for each role.
func (s *Setup) root(now time.Time) error {
	doc := release.Root{
		Type: fleet.TypeRoot, Fleet: Fleet, Version: 1, Epoch: 1, Issued: now, Expires: now.AddDate(1, 0, 0),
		Keys: map[string]release.Key{}, Roles: map[release.RoleName]release.RoleKeys{},
	}
	var signers []release.Signer
	for _, role := range release.Roles() {
		pub, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return err
		}
		id, described := release.NewKey(pub)
		doc.Keys[id] = described
		doc.Roles[role] = release.RoleKeys{Threshold: 1, KeyIDs: []string{id}}
		switch role {
		case release.RoleRoot:
			signers = append(signers, release.NewSigner(key))
		case release.RoleRelease:
			s.ReleaseKey = key
		case release.RoleApprover, release.RoleSecrets, release.RoleBuilder, release.RoleFreshness:
		}
	}
	envelope, digest, err := release.Seal(fleet.TypeRoot, doc, signers...)
	if err != nil {
		return err
	}
	s.Kit.Roots, s.Kit.RootPin = [][]byte{envelope}, digest
	return nil
}

// Issue makes a certificate with a key of its own.
func (s *Setup) Issue(id pki.Identity, now time.Time) (Leaf, error) {
	ca, err := s.CA()
	if err != nil {
		return Leaf{}, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return Leaf{}, err
	}
	cert, err := ca.Issue(id, key.Public(), now, pki.HostTTL)
	return Leaf{Cert: cert, Key: key}, err
}

// Write writes v for the other processes.
func Write(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// Read reads what Write wrote.
func Read[T any](path string) (T, error) {
	var v T
	b, err := os.ReadFile(path)
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(b, &v)
}

// CA is the fleet's certificate authority.
func (s *Setup) CA() (*pki.CA, error) { return pki.ParseCA(s.Kit.CACert, s.Kit.CAKey) }

// ServerTLS is the server's side, the same for both servers.
func (s *Setup) ServerTLS() (*tls.Config, error) {
	ca, err := s.CA()
	if err != nil {
		return nil, err
	}
	key, err := pki.ParseKey(s.Kit.Key)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: [][]byte{s.Kit.Cert, s.Kit.CACert}, PrivateKey: key}
	cas := []*x509.Certificate{ca.Cert}
	return pki.ServerTLS(pki.ServerConfig{
		Certificate: func() (*tls.Certificate, error) { return cert, nil },
		CAs:         func() []*x509.Certificate { return cas },
		Fleet:       Fleet, Now: time.Now, Grace: pki.RenewGrace,
	}), nil
}

// ClientTLS is the side of a client.
func (s *Setup) ClientTLS(leaf Leaf) (*tls.Config, error) {
	ca, err := x509.ParseCertificate(s.Kit.CACert)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: [][]byte{leaf.Cert}, PrivateKey: leaf.Key}
	cas := []*x509.Certificate{ca}
	return pki.ClientTLS(pki.ClientConfig{
		Certificate: func() (*tls.Certificate, error) { return cert, nil },
		CAs:         func() []*x509.Certificate { return cas },
		Fleet:       Fleet, Now: time.Now,
	}), nil
}

// Clock is nanoseconds of the machine's monotonic clock: the same in every
// process.
func Clock() int64 { return clock(unix.CLOCK_MONOTONIC) }

// CPU is the processor time that process pid has used up to now, all of its
// threads, user and system: in nanoseconds, where /proc/PID/stat counts ticks
// of ten milliseconds. Zero when the process is gone.
func CPU(pid int) time.Duration {
	// See clock_getcpuclockid(3): the kernel's encoding of a process's clock.
	const cpuclockSched = 2
	return time.Duration(clock(int32(^pid<<3 | cpuclockSched)))
}

func clock(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}

// RaiseFiles lets this process and its children open n files.
func RaiseFiles(n uint64) error {
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return fmt.Errorf("reading the limit of open files: %w", err)
	}
	want := unix.Rlimit{Cur: max(n, have.Cur), Max: max(n, have.Max)}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &want); err != nil {
		return fmt.Errorf("raising the limit of open files from %d to %d: %w: raise the hard limit (ulimit -Hn), or measure fewer agents with -n", have.Max, n, err)
	}
	return nil
}
