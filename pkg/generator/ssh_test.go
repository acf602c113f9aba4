package generator

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func certificate(t *testing.T, v Value) *ssh.Certificate {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey(v.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate)
}

// What pkg/sshca's own tests compare with ssh-keygen's is here with clan's arguments.
func TestSSHGenerators(t *testing.T) {
	made := tree(t, 1)
	for name, want := range map[string]string{
		"openssh/ssh.id_ed25519.pub": " \n", "openssh-rsa/ssh.id_rsa.pub": " \n", "openssh-ca/id_ed25519.pub": " \n",
		"ssh-user-key/id_ed25519.pub": " root@m1\n", "openssh-cert/ssh.id_ed25519-cert.pub": " ssh.id_ed25519.pub\n",
	} {
		g, f, _ := strings.Cut(name, "/")
		if got := string(made[g][f].Bytes()); !strings.HasSuffix(got, want) || strings.Count(got, "\n") != 1 || strings.Count(got, " ") != 2 {
			t.Errorf("%s: %q, want one line that ends in %q", name, got, want)
		}
		if pub, is := strings.CutSuffix(f, ".pub"); is && !strings.Contains(f, "-cert") {
			if _, err := ssh.ParsePrivateKey(made[g][pub].Bytes()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}

	c := certificate(t, made["openssh-cert"]["ssh.id_ed25519-cert.pub"])
	if want := []string{"m1.zt", "m1.example.org"}; !slices.Equal(c.ValidPrincipals, want) || c.CertType != ssh.HostCert || c.KeyId != "m1" || c.Serial != 0 || c.ValidBefore != ssh.CertTimeInfinity {
		t.Errorf("%+v", c)
	}
	caKey, _, _, _, err := ssh.ParseAuthorizedKey(made["openssh-ca"]["id_ed25519.pub"].Bytes())
	if err != nil {
		t.Fatal(err)
	}
	checker := ssh.CertChecker{IsHostAuthority: func(auth ssh.PublicKey, _ string) bool { return slices.Equal(auth.Marshal(), caKey.Marshal()) }}
	if err := checker.CheckHostKey("m1.zt:22", nil, c); err != nil {
		t.Error(err)
	}

	g, err := New("ssh-host-certificate", "cinnabar", []byte(`{"domains": ["zt"]}`))
	if err != nil {
		t.Fatal(err)
	}
	// The one of which clan's tree has the hash b4efca7b8f21….
	if b, err := json.Marshal(g.Validation); err != nil || string(b) != `{"domains":{"zt":"zt"},"name":"cinnabar"}` {
		t.Errorf("%s, %v", b, err)
	}

	u := certificate(t, made["user-cert"]["id_ed25519-cert.pub"])
	from, until := time.Unix(int64(u.ValidAfter), 0), time.Unix(int64(u.ValidBefore), 0)
	if u.CertType != ssh.UserCert || u.KeyId != "alice" || u.Serial == 0 || !from.Equal(now.Add(-5*time.Minute)) || !until.Equal(now.Add(8*time.Hour)) || len(u.Extensions) != 2 {
		t.Errorf("%+v", u)
	}
	deps := Inputs{Dependencies: made}
	u = certificate(t, generated(t, seeded(1), deps, "ssh-user-certificate", "", `{"id": "a", "principals": ["b"], "serial": 0, "hours": 1, "permit": [], "source_addresses": ["fd00::1/128"], "force_command": "x"}`)["id_ed25519-cert.pub"])
	if u.Serial != 0 || len(u.Extensions) != 0 || u.CriticalOptions["force-command"] != "x" || u.CriticalOptions["source-address"] != "fd00::1/128" {
		t.Errorf("%+v", u)
	}
}
