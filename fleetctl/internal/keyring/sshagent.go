package keyring

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// AgentPrefix begins the name of a key in an ssh-agent; its fingerprint, as
// "ssh-add -l" prints it, follows.
const AgentPrefix = "ssh-agent:"

// Sentinels that errors of this package wrap.
var (
	// ErrAgent is an ssh-agent that can't be asked, or that does not sign.
	ErrAgent = errors.New("the ssh-agent does not help")
	// ErrKeyType is an SSH key that can't sign for a fleet.
	ErrKeyType = errors.New("only ed25519 keys can sign, and security keys of that type")
)

const (
	// agentTimeout bounds one answer of the agent, in which a person may have to
	// confirm, or to touch a security key.
	agentTimeout = 2 * time.Minute
	// maxAgentKeys bounds the keys that are looked at.
	maxAgentKeys = 256
)

// SSHKey is the public part of an SSH key that can sign for a fleet.
type SSHKey struct {
	// ID and Key as a trust root has them.
	ID  string
	Key release.Key
	// Fingerprint as ssh-keygen prints it, Comment as it was given to the key.
	Fingerprint, Comment string

	public ssh.PublicKey
}

// Line is the key as OpenSSH writes public keys, without a newline.
func (k *SSHKey) Line() string {
	return strings.TrimSpace(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.public))) + " " + k.Comment)
}

// NeedsTouch says whether the key is in hardware that wants to be touched.
func (k *SSHKey) NeedsTouch() bool { return k.Key.Scheme == release.SchemeSecurityKey }

// ParseSSHKey reads the first line of an OpenSSH public key file.
func ParseSSHKey(line []byte) (*SSHKey, error) {
	pub, comment, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, ui.WithHint(fmt.Errorf("reading an SSH public key: %w", err), "it is a line that begins with ssh-ed25519 or "+release.SchemeSecurityKey)
	}
	return newSSHKey(pub, comment)
}

// SSHKeyOf describes a plain ed25519 key as an SSH key.
func SSHKeyOf(pub ed25519.PublicKey, comment string) (*SSHKey, error) {
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("describing a key: %w", err)
	}
	return newSSHKey(key, comment)
}

func newSSHKey(pub ssh.PublicKey, comment string) (*SSHKey, error) {
	k := &SSHKey{public: pub, Fingerprint: ssh.FingerprintSHA256(pub), Comment: oneLine(comment)}
	known, ok := pub.(ssh.CryptoPublicKey)
	if !ok {
		return nil, notEd25519(pub.Type())
	}
	raw, ok := known.CryptoPublicKey().(ed25519.PublicKey)
	if !ok || len(raw) != ed25519.PublicKeySize {
		return nil, notEd25519(pub.Type())
	}
	switch pub.Type() {
	case ssh.KeyAlgoED25519:
		k.ID, k.Key = release.NewKey(raw)
	case ssh.KeyAlgoSKED25519:
		// What the package keeps to itself is at the end of the key's own form.
		var wire struct {
			Name, Public string
			Application  string
		}
		err := ssh.Unmarshal(pub.Marshal(), &wire)
		if err == nil {
			k.ID, k.Key, err = release.NewSecurityKey(raw, wire.Application)
		}
		if err != nil {
			return nil, fmt.Errorf("reading a security key: %w", err)
		}
	default:
		return nil, notEd25519(pub.Type())
	}
	return k, nil
}

func notEd25519(kind string) error {
	return ui.WithHint(fmt.Errorf("%w: it is of type %.40q", ErrKeyType, kind), "make one with ssh-keygen -t ed25519, or -t ed25519-sk")
}

// oneLine keeps a comment short and in its line.
func oneLine(s string) string {
	const most = 80
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// AgentKeys lists the keys in the operator's ssh-agent that can sign for a
// fleet, plain ones first. Where there is no agent, there are none.
func (k *Keyring) AgentKeys() ([]*SSHKey, error) {
	if k.agentSocket == "" {
		return nil, nil
	}
	a, done, err := k.dialAgent()
	if err != nil {
		return nil, err
	}
	defer done()
	list, err := a.List()
	if err != nil {
		return nil, agentError(err)
	}
	var out []*SSHKey
	for _, e := range list[:min(len(list), maxAgentKeys)] {
		pub, err := ssh.ParsePublicKey(e.Blob)
		if err != nil {
			continue // Of a kind that is of no use here.
		}
		if key, err := newSSHKey(pub, e.Comment); err == nil {
			out = append(out, key)
		}
	}
	slices.SortStableFunc(out, func(a, b *SSHKey) int { return strings.Compare(a.Key.Scheme, b.Key.Scheme) })
	return out, nil
}

// AgentKey finds a key of the ssh-agent by "ssh-agent:FINGERPRINT".
func (k *Keyring) AgentKey(name string) (*SSHKey, error) {
	want := strings.TrimPrefix(name, AgentPrefix)
	keys, err := k.AgentKeys()
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if key.Fingerprint == want {
			return key, nil
		}
	}
	if k.agentSocket == "" {
		return nil, ui.WithHint(fmt.Errorf("looking for %s: %w: SSH_AUTH_SOCK is not set", want, ErrAgent), "start one: eval $(ssh-agent)")
	}
	return nil, ui.WithHint(fmt.Errorf("looking for %s: %w: it has no such ed25519 key", want, ErrAgent), "see ssh-add -l for what it has, and add the key with ssh-add")
}

func (k *Keyring) dialAgent() (agent.ExtendedAgent, func(), error) {
	conn, err := (&net.Dialer{Timeout: agentTimeout}).Dial("unix", k.agentSocket) //nolint:noctx // The timeout bounds it.
	if err != nil {
		return nil, nil, agentError(err)
	}
	done := func() { _ = conn.Close() }                                    // Nothing is pending.
	if err := conn.SetDeadline(time.Now().Add(agentTimeout)); err != nil { //nolint:forbidigo // The socket's own time.
		done()
		return nil, nil, agentError(err)
	}
	return agent.NewClient(conn), done, nil
}

func agentError(err error) error {
	return ui.WithHint(fmt.Errorf("%w: %w", ErrAgent, err), "is it running, and does SSH_AUTH_SOCK name its socket? ssh-add -l tells")
}

// agentSigner signs with a key of the ssh-agent.
type agentSigner struct {
	keys *Keyring
	key  *SSHKey
}

// KeyID is the id of the key.
func (s *agentSigner) KeyID() string { return s.key.ID }

// Sign has the agent sign.
func (s *agentSigner) Sign(msg []byte) ([]byte, error) {
	a, done, err := s.keys.dialAgent()
	if err != nil {
		return nil, err
	}
	defer done()
	if s.key.NeedsTouch() && s.keys.Notify != nil {
		s.keys.Notify("touch the security key " + s.key.Fingerprint + " " + s.key.Comment)
	}
	sig, err := a.Sign(s.key.public, msg)
	if err != nil {
		return nil, ui.WithHint(fmt.Errorf("%w: it refuses to sign with %s: %w", ErrAgent, s.key.Fingerprint, err), "touch or unlock the key when it asks, then run this again")
	}
	if sig.Format != s.key.public.Type() {
		return nil, fmt.Errorf("%w: it signed with another type of key: %.40q", ErrAgent, sig.Format)
	}
	return bytes.Join([][]byte{sig.Blob, sig.Rest}, nil), nil
}

// AgentSigners returns signers for those of the named keys that the ssh-agent
// has. An agent that can't be asked has none, and says why.
func (k *Keyring) AgentSigners(ids []string) ([]release.Signer, error) {
	if k.only != "" && !strings.HasPrefix(k.only, AgentPrefix) {
		return nil, nil
	}
	keys, err := k.AgentKeys()
	if err != nil {
		return nil, err
	}
	var out []release.Signer
	for _, key := range keys {
		if slices.Contains(ids, key.ID) && (k.only == "" || k.only == AgentPrefix+key.Fingerprint) {
			out = append(out, &agentSigner{k, key})
		}
	}
	return out, nil
}

// Only restricts signing to one key: "ssh-agent:FINGERPRINT", or the path of an
// age-encrypted key file. Empty lifts it.
func (k *Keyring) Only(key string) { k.only = key }

// UsesFile says whether a key file may be used for signing.
func (k *Keyring) UsesFile(path string) bool { return k.only == "" || sameFile(k.only, path) }

// tlsSigner is a key of the ssh-agent as TLS and X.509 use keys.
type tlsSigner struct {
	agentSigner
	public ed25519.PublicKey
}

// AgentTLS returns a plain key of the ssh-agent for certificates: TLS signs with
// ed25519 what an agent signs as it is. Security keys sign something else.
func (k *Keyring) AgentTLS(name string) (crypto.Signer, error) {
	key, err := k.AgentKey(name)
	if err != nil {
		return nil, err
	}
	pub, ok := key.public.(ssh.CryptoPublicKey).CryptoPublicKey().(ed25519.PublicKey)
	if !ok || key.NeedsTouch() {
		return nil, ui.WithHint(fmt.Errorf("%w: a security key cannot sign for a connection", ErrKeyType), "use a plain ed25519 key; security keys sign releases and trust roots")
	}
	return &tlsSigner{agentSigner{k, key}, pub}, nil
}

// Public is the public key.
func (s *tlsSigner) Public() crypto.PublicKey { return s.public }

// Sign has the agent sign a message, as ed25519 does: not its hash.
func (s *tlsSigner) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != 0 {
		return nil, fmt.Errorf("%w: it signs messages, not their hashes", ErrKeyType)
	}
	return s.agentSigner.Sign(message)
}
