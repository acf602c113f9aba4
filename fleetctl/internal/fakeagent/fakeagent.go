// Package fakeagent is an ssh-agent for tests of fleetctl: it speaks the real
// protocol over a real socket, and plays security keys in software.
package fakeagent

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Agent is the agent. Tests may change its fields while nobody asks it.
type Agent struct {
	agent.Agent
	// Socket is where it listens: the value of SSH_AUTH_SOCK.
	Socket string
	// Locked makes it refuse to sign.
	Locked bool

	mu   sync.Mutex // guards what follows
	keys []*securityKey
}

// Start serves until the test ends.
func Start(t testing.TB) *Agent {
	t.Helper()
	// Short, because a socket's path has at most 107 bytes.
	dir, err := os.MkdirTemp("", "fa")
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{Agent: agent.NewKeyring(), Socket: filepath.Join(dir, "s")}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", a.Socket)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				_ = agent.ServeAgent(a, conn) // It ends with the connection.
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wait.Wait()
		_ = os.RemoveAll(dir)
	})
	return a
}

// AddPlain makes a plain key and returns its public part.
func (a *Agent) AddPlain(t testing.TB, comment string) ssh.PublicKey {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Add(agent.AddedKey{PrivateKey: &key, Comment: comment}); err != nil {
		t.Fatal(err)
	}
	out, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// securityKey is a FIDO key in software.
type securityKey struct {
	key                  ed25519.PrivateKey
	application, comment string
	counter              uint32
	public               ssh.PublicKey
}

// AddSecurityKey makes a security key and returns its public part.
func (a *Agent) AddSecurityKey(t testing.TB, application, comment string) ssh.PublicKey {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := ssh.ParsePublicKey(ssh.Marshal(struct{ Name, Public, Application string }{ssh.KeyAlgoSKED25519, string(pub), application}))
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = append(a.keys, &securityKey{key: key, application: application, comment: comment, public: out})
	return out
}

// List lists the keys of both kinds.
func (a *Agent) List() ([]*agent.Key, error) {
	list, err := a.Agent.List()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.keys {
		list = append(list, &agent.Key{Format: k.public.Type(), Blob: k.public.Marshal(), Comment: k.comment})
	}
	return list, err
}

// Sign signs with a key of either kind.
func (a *Agent) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	if a.Locked {
		return nil, errors.New("locked")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.keys {
		if slices.Equal(k.public.Marshal(), key.Marshal()) {
			return k.sign(data), nil
		}
	}
	return a.Agent.Sign(key, data)
}

// sign signs as OpenSSH's PROTOCOL.u2f says; the key counts as touched.
func (k *securityKey) sign(data []byte) *ssh.Signature {
	k.counter++
	rest := binary.BigEndian.AppendUint32([]byte{1}, k.counter)
	app, sum := sha256.Sum256([]byte(k.application)), sha256.Sum256(data)
	return &ssh.Signature{
		Format: k.public.Type(), Rest: rest,
		Blob: ed25519.Sign(k.key, slices.Concat(app[:], rest, sum[:])),
	}
}
