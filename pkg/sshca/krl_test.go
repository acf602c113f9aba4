package sshca_test

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/sshca"
)

// TestRevocationList: the real ssh-keygen finds in a list just what is revoked.
func TestRevocationList(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Fatalf("OpenSSH's client is needed: %v", err)
	}
	key := func() sshca.Pair {
		p, err := sshca.NewKey(rand.Reader, "x")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ca, otherCA, mine, yours := key(), key(), key(), key()
	now := time.Now()
	cert := func(by, of sshca.Pair, serial uint64) []byte {
		line, err := sshca.UserCertificate(rand.Reader, by.Private, of.Public, sshca.User{
			ID: "me", Principals: []string{"root"}, Serial: serial, From: now.Add(-time.Hour), Until: now.Add(time.Hour),
		}, "x")
		if err != nil {
			t.Fatal(err)
		}
		return line
	}
	list, err := sshca.RevocationList(sshca.Revoked{CA: ca.Public, Serials: []uint64{9, 3, 9, 1 << 60}, Keys: [][]byte{yours.Public, cert(ca, yours, 4), yours.Public}}, 7, now, "fleet")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "krl")
	if err := os.WriteFile(file, list, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		line    []byte
		revoked bool
	}{
		"its serial":                {cert(ca, mine, 3), true},
		"a large serial":            {cert(ca, mine, 1<<60), true},
		"another serial":            {cert(ca, mine, 4), false},
		"the serial of another CA":  {cert(otherCA, mine, 3), false},
		"a key":                     {yours.Public, true},
		"a certificate of that key": {cert(otherCA, yours, 1), true},
		"another key":               {mine.Public, false},
		"the key of the CA":         {ca.Public, false},
	} {
		pub := filepath.Join(dir, "key.pub")
		if err := os.WriteFile(pub, tt.line, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(keygen, "-Q", "-f", file, pub).CombinedOutput()
		if (err != nil) != tt.revoked || strings.Contains(string(out), "REVOKED") != tt.revoked {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
	if _, err := sshca.RevocationList(sshca.Revoked{}, 1, now, ""); err != nil {
		t.Errorf("nothing revoked: %v", err)
	}
	for name, r := range map[string]sshca.Revoked{
		"serial 0":   {CA: ca.Public, Serials: []uint64{0, 1}},
		"no CA":      {Serials: []uint64{1}},
		"no key":     {Keys: [][]byte{[]byte("ssh-ed25519 x")}},
		"a long one": {Keys: [][]byte{make([]byte, 1<<20)}},
	} {
		if _, err := sshca.RevocationList(r, 1, now, ""); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	a, errA := sshca.Fingerprint(mine.Public)
	b, errB := sshca.Fingerprint(cert(ca, mine, 3))
	if errA != nil || errB != nil || a != b || !strings.HasPrefix(a, "SHA256:") {
		t.Errorf("%q, %q, %v, %v", a, b, errA, errB)
	}
}
