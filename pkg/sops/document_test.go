package sops_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
)

var now = time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t testing.TB, data []byte) *sops.Document {
	t.Helper()
	d, err := sops.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func encrypt(t testing.TB, value string, to ...sops.Recipient) *sops.Document {
	t.Helper()
	d, err := sops.Encrypt([]byte(value), to, now)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestVectors(t *testing.T) {
	admin := sopstest.KeyOf(t, string(vector(t, "identity-admin.txt")))
	machine := sopstest.KeyOf(t, string(vector(t, "identity-machine.txt")))
	other := sopstest.KeyOf(t, string(vector(t, "identity-other.txt")))
	for name, want := range map[string]struct {
		plain string
		who   []sopstest.Key
		not   sopstest.Key
	}{
		"text.secret":                        {"text.plain", []sopstest.Key{admin, machine}, other},
		"binary.secret":                      {"binary.plain", []sopstest.Key{admin, machine}, other},
		"empty.secret":                       {"empty.plain", []sopstest.Key{admin, machine}, other},
		"text.updatekeys-admin+other.secret": {"text.plain", []sopstest.Key{admin, other}, machine},
	} {
		t.Run(name, func(t *testing.T) {
			data, plain := vector(t, name), vector(t, want.plain)
			d := parse(t, data)
			if !bytes.Equal(d.Bytes(), data) {
				t.Error("written again it is another file")
			}
			if d.Size() != len(plain) {
				t.Errorf("size %d, want %d", d.Size(), len(plain))
			}
			var recipients []string
			for _, k := range want.who {
				recipients = append(recipients, k.Public)
				got, err := d.Decrypt(k.Identity)
				if err != nil || !bytes.Equal(got, plain) {
					t.Errorf("as %s: got %d bytes, %v", k.Public, len(got), err)
				}
			}
			if !slices.Equal(slices.Sorted(slices.Values(d.Recipients())), slices.Sorted(slices.Values(recipients))) {
				t.Errorf("got recipients %q", d.Recipients())
			}
			if got, err := d.Decrypt(want.not.Identity); !errors.Is(err, sops.ErrNoIdentity) || got != nil {
				t.Errorf("a stranger: got %q, %v", got, err)
			}
		})
	}
	if _, err := sops.Parse(vector(t, "bad-extra-key.secret")); !errors.Is(err, sops.ErrFormat) || !strings.Contains(err.Error(), "x_unencrypted") {
		t.Errorf("a key more: %v", err)
	}
	if _, err := parse(t, vector(t, "bad-lastmodified.secret")).Decrypt(admin.Identity); !errors.Is(err, sops.ErrTampered) {
		t.Errorf("another time: %v", err)
	}
}

// values are what secrets are made of.
func values(t testing.TB) map[string]string {
	t.Helper()
	random := make([]byte, 3000)
	_, _ = rand.Read(random)
	return map[string]string{
		"text": "correct horse\n", "empty": "", "one byte": "x", "no text": string(random),
		"looks sealed": "ENC[AES256_GCM,data:,iv:,tag:,type:str]", "JSON": `{"data":"<&>"}`, "newlines only": "\n\r\n",
	}
}

func TestRealSopsReadsOurs(t *testing.T) {
	a, b, stranger := sopstest.NewKey(t), sopstest.NewKey(t), sopstest.NewKey(t)
	dir := t.TempDir()
	for name, value := range values(t) {
		file := filepath.Join(dir, "secret")
		if err := os.WriteFile(file, encrypt(t, value, b.Recipient, a.Recipient, b.Recipient).Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, k := range []sopstest.Key{a, b} {
			got, stderr, err := sopstest.Run(t, dir, k.Private, nil, "decrypt", "--input-type", "binary", "--output-type", "binary", file)
			if err != nil || string(got) != value {
				t.Errorf("%s: sops says %q, %v\n%s", name, got, err, stderr)
			}
		}
		if _, _, err := sopstest.Run(t, dir, stranger.Private, nil, "decrypt", "--input-type", "binary", "--output-type", "binary", file); err == nil {
			t.Errorf("%s: sops opens it with a stranger's key", name)
		}
	}
}

// sealed matches what differs between two encryptions of a value.
var sealed = regexp.MustCompile(`(data|iv|tag):[^,]*|BEGIN AGE[^"]*|lastmodified": "[^"]*`)

func TestWeReadRealSops(t *testing.T) {
	a, b, stranger := sopstest.NewKey(t), sopstest.NewKey(t), sopstest.NewKey(t)
	dir := t.TempDir()
	both := strings.Join(slices.Sorted(slices.Values([]string{a.Public, b.Public})), ",")
	for name, value := range values(t) {
		data, stderr, err := sopstest.Run(t, dir, "", []byte(value), "encrypt", "--age", both,
			"--input-type", "binary", "--output-type", "binary", "--filename-override", "secret")
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, stderr)
		}
		d := parse(t, data)
		if !bytes.Equal(d.Bytes(), data) {
			t.Errorf("%s: written again it is another file", name)
		}
		for _, k := range []sopstest.Key{a, b} {
			if got, err := d.Decrypt(k.Identity); err != nil || string(got) != value {
				t.Errorf("%s: got %q, %v", name, got, err)
			}
		}
		if _, err := d.Decrypt(stranger.Identity); !errors.Is(err, sops.ErrNoIdentity) {
			t.Errorf("%s: a stranger: %v", name, err)
		}
		ours := encrypt(t, value, a.Recipient, b.Recipient).Bytes()
		if got, want := sealed.ReplaceAllString(string(ours), "…"), sealed.ReplaceAllString(string(data), "…"); got != want {
			t.Errorf("%s: ours has another shape:\n%s\nsops's:\n%s", name, got, want)
		}
	}
}

func TestRewrapAsUpdatekeysDoes(t *testing.T) {
	a, b, c := sopstest.NewKey(t), sopstest.NewKey(t), sopstest.NewKey(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	d := encrypt(t, "value", a.Recipient, b.Recipient)

	same, err := d.Rewrap(nil, []sops.Recipient{b.Recipient, a.Recipient})
	if err != nil || !bytes.Equal(same.Bytes(), d.Bytes()) {
		t.Errorf("for the same recipients it is another: %v", err)
	}
	if _, err := d.Rewrap([]sops.Identity{c.Identity}, []sops.Recipient{c.Recipient}); !errors.Is(err, sops.ErrNoIdentity) {
		t.Errorf("a stranger lets himself in: %v", err)
	}
	if _, err := d.Rewrap([]sops.Identity{a.Identity}, nil); err == nil {
		t.Error("it is for nobody")
	}
	ours, err := d.Rewrap([]sops.Identity{a.Identity}, []sops.Recipient{c.Recipient, a.Recipient})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Decrypt(b.Identity); !errors.Is(err, sops.ErrNoIdentity) {
		t.Errorf("who was removed opens it: %v", err)
	}

	// The real one does the same, and each reads the other's.
	if err := os.WriteFile(file, d.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	to := slices.Sorted(slices.Values([]string{a.Public, c.Public}))
	rules := "creation_rules: [{age: \"" + strings.Join(to, ",") + "\"}]\n"
	if err := os.WriteFile(filepath.Join(dir, ".sops.yaml"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, err := sopstest.Run(t, dir, a.Private, nil, "updatekeys", "-y", "--input-type", "binary", file); err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	theirs, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wrapped := regexp.MustCompile(`BEGIN AGE[^"]*`)
	if got, want := wrapped.ReplaceAllString(string(ours.Bytes()), "…"), wrapped.ReplaceAllString(string(theirs), "…"); got != want {
		t.Errorf("ours:\n%s\nsops's:\n%s", got, want)
	}
	if got, err := parse(t, theirs).Decrypt(c.Identity); err != nil || string(got) != "value" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := os.WriteFile(file, ours.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, stderr, err := sopstest.Run(t, dir, c.Private, nil, "decrypt", "--input-type", "binary", "--output-type", "binary", file)
	if err != nil || string(got) != "value" {
		t.Errorf("sops says %q, %v\n%s", got, err, stderr)
	}
}

// What is not known here stays, in its order, and so do recipients of other kinds.
func TestRewrapKeepsWhatItDoesNotKnow(t *testing.T) {
	a, b := sopstest.NewKey(t), sopstest.NewKey(t)
	text := string(encrypt(t, "value", a.Recipient).Bytes())
	text = strings.Replace(text, "\t\"sops\": {\n", "\t\"sops\": {\n\t\t\"kms\": null,\n\t\t\"zeta\": [\n\t\t\t1.50,\n\t\t\t{}\n\t\t],\n\t\t\"pgp\": [\n\t\t\t{\n\t\t\t\t\"fp\": \"ABCD\",\n\t\t\t\t\"enc\": \"\\u003c\"\n\t\t\t}\n\t\t],\n", 1)
	d := parse(t, []byte(text))
	if string(d.Bytes()) != text {
		t.Errorf("written again it is another file:\n%s", d.Bytes())
	}
	if got := d.OtherRecipients(); !slices.Equal(got, []string{"pgp ABCD"}) {
		t.Errorf("got others %q", got)
	}
	d, err := d.Rewrap([]sops.Identity{a.Identity}, []sops.Recipient{a.Recipient, b.Recipient})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"\"kms\": null,\n\t\t\"zeta\": [\n\t\t\t1.50,\n\t\t\t{}\n\t\t],\n\t\t\"pgp\"", `"\u003c"`, `"unencrypted_suffix": "_unencrypted"`} {
		if !strings.Contains(string(d.Bytes()), part) {
			t.Errorf("%q is gone:\n%s", part, d.Bytes())
		}
	}
	if got, err := d.Decrypt(b.Identity); err != nil || string(got) != "value" {
		t.Errorf("got %q, %v", got, err)
	}
}

// Keys of SSH, in each direction.
func TestSSHKeys(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.PrivateKey{"ed25519": ed, "RSA": rsaKey} {
		block, err := ssh.MarshalPrivateKey(key, "someone@somewhere")
		if err != nil {
			t.Fatal(err)
		}
		k := sopstest.KeyOf(t, string(pem.EncodeToMemory(block)))
		dir := t.TempDir()
		private, file := filepath.Join(dir, "id"), filepath.Join(dir, "secret")
		if err := os.WriteFile(private, []byte(k.Private), 0o600); err != nil {
			t.Fatal(err)
		}
		commented, err := sops.ParseRecipient(k.Public+" someone@somewhere", nil)
		if err != nil {
			t.Fatal(err)
		}
		d := encrypt(t, name, commented)
		if err := os.WriteFile(file, d.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if same, err := d.Rewrap(nil, []sops.Recipient{k.Recipient}); err != nil || same != d {
			t.Errorf("%s: a comment makes it another recipient: %v", name, err)
		}
		cmd := []string{"decrypt", "--input-type", "binary", "--output-type", "binary", file}
		t.Setenv("SOPS_AGE_SSH_PRIVATE_KEY_FILE", private)
		if got, stderr, err := sopstest.Run(t, dir, "", nil, cmd...); err != nil || string(got) != name {
			t.Errorf("%s: sops says %q, %v\n%s", name, got, err, stderr)
		}
		data, stderr, err := sopstest.Run(t, dir, "", []byte(name), "encrypt", "--age", k.Public,
			"--input-type", "binary", "--output-type", "binary", "--filename-override", "secret")
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, stderr)
		}
		if got, err := parse(t, data).Decrypt(k.Identity); err != nil || string(got) != name {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

// The wrapped data key is a file of age: Debian's opens it.
func TestAgeOpensTheDataKey(t *testing.T) {
	k := sopstest.NewKey(t)
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte(k.Private), 0o600); err != nil {
		t.Fatal(err)
	}
	var file struct {
		Sops struct{ Age []struct{ Enc string } }
	}
	if err := json.Unmarshal(encrypt(t, "value", k.Recipient).Bytes(), &file); err != nil {
		t.Fatal(err)
	}
	got, stderr, err := sopstest.Age(t, dir, []byte(file.Sops.Age[0].Enc), "--decrypt", "--identity", key)
	if err != nil || len(got) != 32 {
		t.Errorf("age says %d bytes, %v\n%s", len(got), err, stderr)
	}
}
