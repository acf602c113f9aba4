package sshca

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func seeded(n byte) io.Reader { return mathrand.NewChaCha8([32]byte{n}) }

// command runs a program, which must succeed, and returns what it prints.
func command(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", argv, err, out)
	}
	return string(out)
}

func write(t *testing.T, path string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newKey(t *testing.T, seed byte) Pair {
	t.Helper()
	p, err := NewKey(seeded(seed), "")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// From the seed and the mark in a key of ssh-keygen's, both of its files come
// again to the byte.
func TestKeysAreSSHKeygens(t *testing.T) {
	for _, comment := range []string{"", "root@m1", "a longer comment with spaces"} {
		file := filepath.Join(t.TempDir(), "key")
		command(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", file)
		private := read(t, file)
		parsed, err := ssh.ParseRawPrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		blob := markOf(t, private)
		p, err := NewKey(bytes.NewReader(append(parsed.(*ed25519.PrivateKey).Seed(), blob...)), comment)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p.Private, private) {
			t.Errorf("with the comment %q: the private key is\n%s, ssh-keygen's\n%s", comment, p.Private, private)
		}
		if public := read(t, file+".pub"); !bytes.Equal(p.Public, public) {
			t.Errorf("with the comment %q: the public key is %q, ssh-keygen's %q", comment, p.Public, public)
		}
	}
}

// markOf finds the two equal numbers before the private part.
func markOf(t *testing.T, private []byte) []byte {
	t.Helper()
	blob := decodeArmor(t, private)
	at := bytes.LastIndex(blob, []byte("\x00\x00\x00\x0bssh-ed25519"))
	mark := blob[at-4 : at]
	if !bytes.Equal(mark, blob[at-8:at-4]) {
		t.Fatal("no mark is there")
	}
	return mark
}

func decodeArmor(t *testing.T, text []byte) []byte {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	blob, err := base64.StdEncoding.DecodeString(strings.Join(lines[1:len(lines)-1], ""))
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func TestRSAKeysAreSSHKeygens(t *testing.T) {
	dir := t.TempDir()
	p, err := NewRSAKey(2048, "c")
	if err != nil {
		t.Fatal(err)
	}
	ours := write(t, filepath.Join(dir, "ours"), p.Private)
	if got := command(t, "ssh-keygen", "-y", "-f", ours); got != string(p.Public) {
		t.Errorf("ssh-keygen reads of our key %q, want %q", got, p.Public)
	}
	// ssh-keygen writes what it read again, with marks of its own.
	theirs := filepath.Join(dir, "theirs")
	write(t, theirs, p.Private)
	command(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "", "-f", theirs)
	a, b := decodeArmor(t, p.Private), decodeArmor(t, read(t, theirs))
	at := bytes.LastIndex(a, []byte("\x00\x00\x00\x07ssh-rsa"))
	if len(a) != len(b) || !bytes.Equal(a[:at-8], b[:at-8]) || !bytes.Equal(a[at:], b[at:]) {
		t.Error("ssh-keygen writes our key in another way")
	}
	key, err := ssh.ParseRawPrivateKey(p.Private)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.(*rsa.PrivateKey).Validate(); err != nil {
		t.Error(err)
	}
	for _, bits := range []int{0, 1024, 2047, 8193} {
		if _, err := NewRSAKey(bits, ""); err == nil || !strings.Contains(err.Error(), "2048 to 8192") {
			t.Errorf("%d bits: %v", bits, err)
		}
	}
}

// What ssh-keygen makes of the same keys, but for the nonce and what follows from it.
func TestHostCertificateIsSSHKeygens(t *testing.T) {
	dir := t.TempDir()
	ca, host := newKey(t, 1), newKey(t, 2)
	line, err := HostCertificate(seeded(3), ca.Private, host.Public, Host{ID: "m1", Principals: []string{"m1.zt", "m1.example.org"}}, "ssh.id_ed25519.pub")
	if err != nil {
		t.Fatal(err)
	}
	caFile, hostFile := write(t, filepath.Join(dir, "ca"), ca.Private), write(t, filepath.Join(dir, "ssh.id_ed25519.pub"), host.Public)
	command(t, "ssh-keygen", "-q", "-s", caFile, "-I", "m1", "-h", "-n", "m1.zt,m1.example.org", hostFile)
	theirFile := filepath.Join(dir, "ssh.id_ed25519-cert.pub")
	theirs := certificate(t, read(t, theirFile))
	ours := certificate(t, line)
	ours.Nonce, ours.Signature = theirs.Nonce, theirs.Signature
	if !bytes.Equal(ours.Marshal(), theirs.Marshal()) {
		t.Errorf("ours is\n%+v, ssh-keygen's\n%+v", ours, theirs)
	}
	ourFile := write(t, filepath.Join(dir, "ours-cert.pub"), line)
	strip := func(s string) string { _, rest, _ := strings.Cut(s, "\n"); return rest }
	got, want := strip(command(t, "ssh-keygen", "-L", "-f", ourFile)), strip(command(t, "ssh-keygen", "-L", "-f", theirFile))
	if got != want || !strings.Contains(got, "Valid: forever") || !strings.Contains(got, "m1.example.org") {
		t.Errorf("ssh-keygen -L says\n%s, of its own\n%s", got, want)
	}
	if !strings.HasSuffix(string(line), " ssh.id_ed25519.pub\n") {
		t.Errorf("the line is %q", line)
	}
}

func certificate(t *testing.T, line []byte) *ssh.Certificate {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate)
}

func TestUserCertificate(t *testing.T) {
	ca, person := newKey(t, 1), newKey(t, 2)
	from := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	u := User{
		ID: "alice", Principals: []string{"root", "deploy"}, Serial: 1<<63 + 7, From: from, Until: from.Add(8 * time.Hour),
		Permit: []string{"permit-pty", "permit-agent-forwarding"}, ForceCommand: "/bin/true",
		SourceAddresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::1/128")},
	}
	line, err := UserCertificate(seeded(3), ca.Private, person.Public, u, "alice")
	if err != nil {
		t.Fatal(err)
	}
	cert := write(t, filepath.Join(t.TempDir(), "cert.pub"), line)
	cmd := exec.CommandContext(t.Context(), "ssh-keygen", "-L", "-f", cert)
	cmd.Env = append(os.Environ(), "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"user certificate", `Key ID: "alice"`, "Serial: 9223372036854775815", "Valid: from 2026-11-30T12:00:00 to 2026-11-30T20:00:00",
		"root", "deploy", "force-command /bin/true", "source-address 10.0.0.0/8,fd00::1/128", "permit-pty", "permit-agent-forwarding",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("ssh-keygen -L does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(string(out), "X11") {
		t.Errorf("more is permitted than was said:\n%s", out)
	}
}

// An RSA key as CA signs with SHA-512: sshd takes no SHA-1.
func TestRSACA(t *testing.T) {
	ca, err := NewRSAKey(2048, "")
	if err != nil {
		t.Fatal(err)
	}
	line, err := HostCertificate(rand.Reader, ca.Private, newKey(t, 2).Public, Host{ID: "m1", Principals: []string{"m1.zt"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := certificate(t, line).Signature.Format; got != ssh.KeyAlgoRSASHA512 {
		t.Errorf("signed with %s", got)
	}
}

func TestRefusals(t *testing.T) {
	ca, key := newKey(t, 1), newKey(t, 2)
	cert, err := HostCertificate(seeded(3), ca.Private, key.Public, Host{ID: "m1", Principals: []string{"m1.zt"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	locked := write(t, filepath.Join(dir, "locked"), ca.Private)
	command(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "passphrase", "-f", locked)
	many := make([]string, MaxPrincipals+1)
	for i := range many {
		many[i] = fmt.Sprint("p", i)
	}
	good := Host{ID: "m1", Principals: []string{"m1.zt"}}
	tests := []struct {
		name       string
		ca, public []byte
		host       Host
		comment    string
		says       string
	}{
		{name: "no principals", host: Host{ID: "m1"}, says: "no principals"},
		{name: "too many principals", host: Host{ID: "m1", Principals: many}, says: "257 principals"},
		{name: "a principal twice", host: Host{ID: "m1", Principals: []string{"a", "b", "a"}}, says: "twice"},
		{name: "a list as principal", host: Host{ID: "m1", Principals: []string{"a,b"}}, says: "','"},
		{name: "a pattern as principal", host: Host{ID: "m1", Principals: []string{"*.zt"}}, says: "'*'"},
		{name: "an empty principal", host: Host{ID: "m1", Principals: []string{""}}, says: "principal \"\""},
		{name: "no id", host: Host{Principals: []string{"m1.zt"}}, says: "id \"\""},
		{name: "a newline in the comment", host: good, comment: "a\nssh-ed25519 AAAA", says: "control character"},
		{name: "no CA", host: good, ca: []byte("AAAA"), says: "no private SSH key"},
		{name: "a public CA", host: good, ca: ca.Public, says: "no private SSH key"},
		{name: "a long CA", host: good, ca: make([]byte, maxLineBytes+1), says: "at most"},
		{name: "a CA with a passphrase", host: good, ca: read(t, locked), says: "passphrase"},
		{name: "no key", host: good, public: []byte("ssh-ed25519 AAAA"), says: "no public SSH key"},
		{name: "a private key", host: good, public: key.Private, says: "no public SSH key"},
		{name: "two keys", host: good, public: append(bytes.Clone(key.Public), ca.Public...), says: "more than one line"},
		{name: "a long key", host: good, public: make([]byte, maxLineBytes+1), says: "at most"},
		{name: "a certificate", host: good, public: cert, says: "is a certificate"},
		{name: "the CA itself", host: good, public: ca.Public, says: "must differ"},
	}
	for _, tt := range tests {
		if tt.ca == nil {
			tt.ca = ca.Private
		}
		if tt.public == nil {
			tt.public = key.Public
		}
		if _, err := HostCertificate(seeded(3), tt.ca, tt.public, tt.host, tt.comment); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.says)
		}
	}
	if _, err := HostCertificate(strings.NewReader(""), ca.Private, key.Public, good, ""); !errors.Is(err, io.EOF) {
		t.Errorf("no random bytes: %v", err)
	}
	if _, err := NewKey(strings.NewReader("short"), ""); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("no random bytes: %v", err)
	}
	if _, err := NewKey(rand.Reader, strings.Repeat("x", 1025)); err == nil {
		t.Error("a long comment is taken")
	}

	now := time.Unix(1_800_000_000, 0)
	for says, u := range map[string]User{
		"want a time":  {From: now, Until: now},
		"extension":    {From: now, Until: now.Add(time.Hour), Permit: []string{"permit-everything"}},
		"prefix":       {From: now, Until: now.Add(time.Hour), SourceAddresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}},
		"no principal": {From: now, Until: now.Add(time.Hour)},
	} {
		u.ID = "alice"
		if says != "no principal" {
			u.Principals = []string{"root"}
		}
		if _, err := UserCertificate(seeded(3), ca.Private, key.Public, u, ""); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want an error with %q", err, says)
		}
	}
}

// A real sshd with our host key and certificate, and a real ssh that knows the CA
// only, with our user certificate.
func TestRealSSH(t *testing.T) {
	sshd, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("sshd is missing: install openssh-server")
		}
		t.Log("sshd is not installed: ssh-keygen's reading of certificates has to do")
		return
	}
	if os.Geteuid() == 0 {
		// Debian makes it when the service starts.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, content []byte) string { return write(t, filepath.Join(dir, name), content) }
	ca, otherCA, host, person := newKey(t, 1), newKey(t, 9), newKey(t, 2), newKey(t, 3)
	certify := func(signer Pair, principal string) []byte {
		line, err := HostCertificate(rand.Reader, signer.Private, host.Public, Host{ID: "m1", Principals: []string{principal}}, "")
		if err != nil {
			t.Fatal(err)
		}
		return line
	}
	now := time.Now()
	admit := func(signer Pair, principal string, until time.Time, forced string) []byte {
		u := User{ID: "alice", Principals: []string{principal}, From: now.Add(-time.Hour), Until: until, Permit: Extensions, ForceCommand: forced}
		line, err := UserCertificate(rand.Reader, signer.Private, person.Public, u, "")
		if err != nil {
			t.Fatal(err)
		}
		return line
	}
	soon := now.Add(time.Hour)
	file("host", host.Private)
	file("ca.pub", ca.Public)
	key := file("id", person.Private)
	known := file("known", append([]byte("@cert-authority *.zt "), ca.Public...))
	config := file("sshd_config", fmt.Appendf(nil, `HostKey %[1]s/host
HostCertificate %[1]s/host-cert.pub
TrustedUserCAKeys %[1]s/ca.pub
AuthorizedKeysFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin yes
PidFile none
LogLevel QUIET
`, dir))
	tests := []struct {
		name       string
		host, user []byte
		want       string // what ssh prints, or complains of
		ok         bool
	}{
		{"all is well", certify(ca, "m1.zt"), admit(ca, me.Username, soon, ""), "it is me", true},
		{"a forced command", certify(ca, "m1.zt"), admit(ca, me.Username, soon, "echo forced"), "forced", true},
		{"another host's certificate", certify(ca, "m2.zt"), admit(ca, me.Username, soon, ""), "verification failed", false},
		{"a host of another CA", certify(otherCA, "m1.zt"), admit(ca, me.Username, soon, ""), "verification failed", false},
		{"another account's certificate", certify(ca, "m1.zt"), admit(ca, "somebody", soon, ""), "Permission denied", false},
		{"a person of another CA", certify(ca, "m1.zt"), admit(otherCA, me.Username, soon, ""), "Permission denied", false},
		{"a certificate that has ended", certify(ca, "m1.zt"), admit(ca, me.Username, now.Add(-time.Minute), ""), "Permission denied", false},
	}
	for _, tt := range tests {
		file("host-cert.pub", tt.host)
		file("id-cert.pub", tt.user)
		cmd := exec.CommandContext(t.Context(), "ssh", "-F", "none", "-i", key, "-o", "CertificateFile="+key+"-cert.pub", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
			"-o", "UserKnownHostsFile="+known, "-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
			"-o", "ProxyCommand="+sshd+" -i -f "+config, me.Username+"@m1.zt", "echo it is me")
		out, err := cmd.CombinedOutput()
		if (err == nil) != tt.ok || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: %v\n%s", tt.name, err, out)
		}
	}
}

func FuzzCertificates(f *testing.F) {
	ca, err := NewKey(seeded(1), "")
	if err != nil {
		f.Fatal(err)
	}
	key, err := NewKey(seeded(2), "")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.Private, key.Public, "m1", "m1.zt", "comment")
	f.Fuzz(func(t *testing.T, ca, public []byte, id, principal, comment string) {
		line, err := HostCertificate(seeded(3), ca, public, Host{ID: id, Principals: []string{principal}}, comment)
		if err != nil {
			return
		}
		key, _, _, rest, err := ssh.ParseAuthorizedKey(line)
		if err != nil || len(rest) != 0 || bytes.Count(line, []byte("\n")) != 1 {
			t.Fatalf("%q is no line of a certificate: %v", line, err)
		}
		c := key.(*ssh.Certificate)
		if c.KeyId != id || len(c.ValidPrincipals) != 1 || c.ValidPrincipals[0] != principal || binary.BigEndian.Uint64(c.Nonce) == 0 {
			t.Errorf("it says %q, %q", c.KeyId, c.ValidPrincipals)
		}
	})
}
