package sshca

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// MaxPrincipals is how many names a certificate may have: sshd reads no more.
const MaxPrincipals = 256

// Host is what a host certificate says.
type Host struct {
	// ID is what logs call it: the machine's name.
	ID string
	// Principals are the names that clients may know the host by. There must be
	// one: without any a certificate would be for every name.
	Principals []string
}

// User is what a user certificate says.
type User struct {
	// ID is what sshd logs: the operator's name.
	ID string
	// Principals are the accounts that may be logged into. There must be one.
	Principals []string
	// Serial is what a revocation list names it by.
	Serial uint64
	// From is when it begins to hold, Until when it ends to, in whole seconds.
	From, Until time.Time
	// Permit are extensions such as permit-pty. Without one there is a command,
	// and nothing else.
	Permit []string
	// SourceAddresses are prefixes that it may be used from; empty: anywhere.
	SourceAddresses []netip.Prefix
	// ForceCommand is run instead of what was asked for, where it is not empty.
	ForceCommand string
}

// Extensions are those that a user certificate may have.
var Extensions = []string{"permit-X11-forwarding", "permit-agent-forwarding", "permit-port-forwarding", "permit-pty", "permit-user-rc"}

// HostCertificate is the line of a -cert.pub file for the host whose .pub line
// public is, signed by the key whose file ca is. It is ssh-keygen -s CA -I ID -h
// -n PRINCIPALS: serial 0, for ever, no options. comment ends the line, as the
// path of the key ends ssh-keygen's. random must be cryptographically secure.
func HostCertificate(random io.Reader, ca, public []byte, h Host, comment string) ([]byte, error) {
	line, err := sign(random, ca, public, comment, &ssh.Certificate{
		CertType: ssh.HostCert, KeyId: h.ID, ValidPrincipals: h.Principals, ValidBefore: ssh.CertTimeInfinity,
	})
	if err != nil {
		return nil, fmt.Errorf("making an SSH host certificate: %w", err)
	}
	return line, nil
}

// UserCertificate is the line of a -cert.pub file for the person whose .pub line
// public is, signed by the key whose file ca is.
func UserCertificate(random io.Reader, ca, public []byte, u User, comment string) ([]byte, error) {
	cert, err := u.certificate()
	if err == nil {
		var line []byte
		if line, err = sign(random, ca, public, comment, cert); err == nil {
			return line, nil
		}
	}
	return nil, fmt.Errorf("making an SSH user certificate: %w", err)
}

func (u User) certificate() (*ssh.Certificate, error) {
	from, until := u.From.Unix(), u.Until.Unix()
	if from < 0 || until <= from {
		return nil, fmt.Errorf("it would hold from %s until %s: want a time in which it does", u.From.UTC().Format(time.RFC3339), u.Until.UTC().Format(time.RFC3339))
	}
	p := ssh.Permissions{CriticalOptions: map[string]string{}, Extensions: map[string]string{}}
	for _, name := range u.Permit {
		if !slices.Contains(Extensions, name) {
			return nil, fmt.Errorf("no extension is called %q: want some of %s", name, strings.Join(Extensions, ", "))
		}
		p.Extensions[name] = ""
	}
	var sources []string
	for _, prefix := range u.SourceAddresses {
		if !prefix.IsValid() || prefix != prefix.Masked() {
			return nil, fmt.Errorf("%s is no prefix of addresses: want one such as %s", prefix, prefix.Masked())
		}
		sources = append(sources, prefix.String())
	}
	if sources != nil {
		p.CriticalOptions["source-address"] = strings.Join(sources, ",")
	}
	if u.ForceCommand != "" {
		p.CriticalOptions["force-command"] = u.ForceCommand
	}
	return &ssh.Certificate{
		CertType: ssh.UserCert, KeyId: u.ID, ValidPrincipals: u.Principals, Serial: u.Serial,
		ValidAfter: uint64(from), ValidBefore: uint64(until), Permissions: p, //nolint:gosec // Neither is negative.
	}, nil
}

// sign completes a certificate and writes its line.
func sign(random io.Reader, ca, public []byte, comment string, c *ssh.Certificate) ([]byte, error) {
	if err := checkNames(c.KeyId, c.ValidPrincipals); err != nil {
		return nil, err
	}
	if err := checkComment(comment); err != nil {
		return nil, err
	}
	signer, err := parseSigner(ca)
	if err != nil {
		return nil, fmt.Errorf("the CA's key: %w", err)
	}
	if c.Key, err = parsePublic(public); err != nil {
		return nil, fmt.Errorf("the key to certify: %w", err)
	}
	if _, is := c.Key.(*ssh.Certificate); is {
		return nil, errors.New("the key to certify is a certificate: want the .pub file that it was made of")
	}
	if bytes.Equal(c.Key.Marshal(), signer.PublicKey().Marshal()) {
		return nil, errors.New("the key to certify is the CA's own: they must differ")
	}
	// SHA-1, which x/crypto/ssh still has for RSA first, is refused by sshd.
	if signer.PublicKey().Type() == ssh.KeyAlgoRSA {
		algorithms, ok := signer.(ssh.AlgorithmSigner)
		if !ok {
			return nil, errors.New("the CA's RSA key can't sign with SHA-512")
		}
		if signer, err = ssh.NewSignerWithAlgorithms(algorithms, []string{ssh.KeyAlgoRSASHA512}); err != nil {
			return nil, err
		}
	}
	if err := c.SignCert(random, signer); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return publicLine(c, comment), nil
}

func checkNames(id string, principals []string) error {
	if err := checkName("id", id); err != nil {
		return err
	}
	if len(principals) == 0 {
		return errors.New("no principals: a certificate without any would be for every name")
	}
	if len(principals) > MaxPrincipals {
		return fmt.Errorf("%d principals: sshd reads at most %d", len(principals), MaxPrincipals)
	}
	seen := map[string]bool{}
	for _, p := range principals {
		if err := checkName("principal", p); err != nil {
			return err
		}
		seen[p] = true
	}
	if len(seen) != len(principals) {
		return fmt.Errorf("a principal is there twice: %s", strings.Join(slices.Sorted(maps.Keys(seen)), ", "))
	}
	return nil
}

// checkName refuses what sshd, its lists and its logs take for more than a name.
func checkName(what, name string) error {
	if name == "" || len(name) > 255 {
		return fmt.Errorf("the %s %q: want a name of at most 255 characters", what, name)
	}
	for _, r := range name {
		if r <= ' ' || r == 0x7f || r == ',' || r == '*' || r == '?' || r == '!' || r == '"' {
			return fmt.Errorf("the %s %q has %q in it, which is not of a name", what, name, r)
		}
	}
	return nil
}
