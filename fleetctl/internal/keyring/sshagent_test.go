package keyring

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/cameronraysmith/fleet/fleetctl/internal/fakeagent"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func withAgent(t *testing.T) (*Keyring, *fakeagent.Agent) {
	t.Helper()
	a := fakeagent.Start(t)
	return &Keyring{agentSocket: a.Socket}, a
}

// TestAgentSigns signs a trust root with both kinds of keys of an ssh-agent:
// its verification is that of every host.
func TestAgentSigns(t *testing.T) {
	k, a := withAgent(t)
	a.AddPlain(t, "plain")
	a.AddSecurityKey(t, "ssh:fleet", "token")
	touched := ""
	k.Notify = func(s string) { touched += s }
	keys, err := k.AgentKeys()
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	root := release.Root{
		Type: fleet.TypeRoot, Fleet: "first", Version: 1, Epoch: 1, Issued: when, Expires: when.AddDate(1, 0, 0),
		Keys: map[string]release.Key{}, Roles: map[release.RoleName]release.RoleKeys{},
	}
	ids := []string{keys[0].ID, keys[1].ID}
	for _, key := range keys {
		root.Keys[key.ID] = key.Key
	}
	for _, role := range release.Roles() {
		root.Roles[role] = release.RoleKeys{Threshold: 2, KeyIDs: ids}
	}
	signers, err := k.AgentSigners(ids)
	if err != nil || len(signers) != 2 {
		t.Fatalf("%d signers, %v", len(signers), err)
	}
	env, pin, err := release.Seal(fleet.TypeRoot, root, signers...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := release.OpenRoot(env, pin); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(touched, "touch") || !strings.Contains(touched, "token") {
		t.Errorf("nobody was told to touch the key: %q", touched)
	}

	k.Only(AgentPrefix + keys[1].Fingerprint)
	if only, err := k.AgentSigners(ids); err != nil || len(only) != 1 || only[0].KeyID() != keys[1].ID {
		t.Errorf("only one key may sign: %v, %v", only, err)
	}
	k.Only("some/file.age")
	if none, err := k.AgentSigners(ids); err != nil || len(none) != 0 {
		t.Errorf("no key of the agent may sign: %v, %v", none, err)
	}
	k.Only("")
	a.Locked = true
	if _, _, err := release.Seal(fleet.TypeRoot, root, signers...); !errors.Is(err, ErrAgent) || ui.HintOf(err) == "" {
		t.Errorf("a locked agent: %v", err)
	}
}

func TestAgentKey(t *testing.T) {
	k, a := withAgent(t)
	pub := a.AddPlain(t, "plain\x1b[2J")
	got, err := k.AgentKey(AgentPrefix + ssh.FingerprintSHA256(pub))
	if err != nil || got.Comment != "plain[2J" {
		t.Fatalf("%+v, %v", got, err)
	}
	again, err := ParseSSHKey([]byte(got.Line()))
	if err != nil || again.ID != got.ID {
		t.Errorf("%+v, %v", again, err)
	}
	if _, err := k.AgentKey(AgentPrefix + "SHA256:nothing"); !errors.Is(err, ErrAgent) || ui.HintOf(err) == "" {
		t.Errorf("unknown: %v", err)
	}
	k.agentSocket = filepath.Join(t.TempDir(), "gone")
	if _, err := k.AgentKeys(); !errors.Is(err, ErrAgent) || ui.HintOf(err) == "" {
		t.Errorf("gone: %v", err)
	}
	k.agentSocket = ""
	if keys, err := k.AgentKeys(); err != nil || keys != nil {
		t.Errorf("none: %v, %v", keys, err)
	}
	if _, err := k.AgentKey(AgentPrefix + "x"); !errors.Is(err, ErrAgent) {
		t.Errorf("none: %v", err)
	}
}

func TestParseSSHKeyRefusals(t *testing.T) {
	_, a := withAgent(t)
	web := string(ssh.MarshalAuthorizedKey(a.AddSecurityKey(t, "https://example.org", "")))
	for name, tc := range map[string]struct {
		line string
		want error
	}{
		"nothing":        {"", nil},
		"text":           {"hello", nil},
		"rsa":            {"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC4wKiAkNYGVJbXZCcCQp3dZFmFnTM8nC1VqAFeFDxNVRm9hYGFq6zLKzgrYZ2yIzb3U1ZgFgXL0gHYtZcHVLhNfDd8S2mpVfKqkM4Ug6w0sbf3YgB6fD7S9yvK0h0YvCq1c8R3v5xJ9u0g7yQb2hL6M2W0cXl1m2v9Tn3cQ8eT7w== x", nil},
		"a web site's":   {web, release.ErrApplication},
		"several fields": {"ssh-ed25519 AAAA", nil},
	} {
		if _, err := ParseSSHKey([]byte(tc.line)); err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseSSHKey(f *testing.F) {
	f.Add([]byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHxCRbNvTTgVDHhM1Q1HhVw3BtuRPZgVNrSCn0jvhBAw me"))
	f.Add([]byte("sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIHxCRbNvTTgVDHhM1Q1HhVw3BtuRPZgVNrSCn0jvhBAwAAAABHNzaDo= me"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseSSHKey(b)
		if err != nil {
			return
		}
		again, err := ParseSSHKey([]byte(k.Line()))
		if err != nil || again.ID != k.ID || again.Key != k.Key {
			t.Errorf("%q becomes %+v, then %+v, %v", b, k, again, err)
		}
	})
}

func TestPluginIdentities(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.txt")
	native := identity(t, "")
	const plugin = "AGE-PLUGIN-YUBIKEY-1QQPQQQYS2T2JC"
	if err := os.WriteFile(file, []byte("# a comment\n"+native.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func() (*Keyring, error) {
		return Load(Places{Explicit: file, Getenv: func(string) string { return "" }})
	}
	if k, err := load(); err != nil || len(k.Identities()) != 1 {
		t.Fatalf("%v", err)
	}
	if err := os.WriteFile(file, []byte(plugin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(); err == nil || ui.HintOf(err) == "" {
		t.Errorf("a plugin's identity with a wrong checksum: %v", err)
	}
}
