package generator

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestWordList(t *testing.T) {
	list := words()
	if len(list) != 7772 {
		t.Errorf("%d words, want 7772: what the docs say of entropy depends on it", len(list))
	}
	for i, w := range list {
		if len(w) < 3 || len(w) > 9 || strings.Trim(w, "abcdefghijklmnopqrstuvwxyz") != "" {
			t.Errorf("%q is no word of 3 to 9 letters", w)
		}
		if i > 0 && (list[i-1] >= w || strings.HasPrefix(w, list[i-1])) {
			t.Errorf("%q after %q: not sorted, there twice, or the beginning of another", w, list[i-1])
		}
	}
}

// Hashes that mkpasswd and openssl made come again from their salts.
func TestCryptVectors(t *testing.T) {
	vectors := load[struct {
		Vectors []struct{ By, Password, Hash string }
	}](t, "crypt.json").Vectors
	if len(vectors) != 21 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for _, v := range vectors {
		if got, err := cryptPassword(setting(v.Hash), []byte(v.Password)); err != nil || string(got) != v.Hash {
			t.Errorf("%s of %q: got %s, %v, want %s", v.By, v.Password, got, err, v.Hash)
		}
	}
}

// setting is a hash without what was made of the password.
func setting(hash string) []byte { return []byte(hash[:strings.LastIndexByte(hash, '$')]) }

// The programs that are installed make the same of passwords that we draw.
func TestRealCrypt(t *testing.T) {
	made := generated(t, seeded(4), Inputs{}, "emergency-access", "m1", "")
	password := made["password"].Bytes()
	if path, ok := program(t, "mkpasswd"); ok {
		for _, method := range []string{"yescrypt", "sha-512"} {
			hash := strings.TrimSpace(command(t, password, path, "-s", "-m", method))
			if got, err := cryptPassword(setting(hash), password); err != nil || string(got) != hash {
				t.Errorf("mkpasswd -m %s makes %s, we %s, %v", method, hash, got, err)
			}
		}
	}
	hash := string(generated(t, seeded(4), Inputs{}, "emergency-access", "m1", `{"hash": "sha512"}`)["password-hash"].Bytes())
	if path, ok := program(t, "openssl"); ok {
		salt := strings.Split(hash, "$")[2]
		if got := strings.TrimSpace(command(t, password, path, "passwd", "-6", "-salt", salt, "-stdin")); got != hash {
			t.Errorf("openssl makes %s, we %s", got, hash)
		}
	}
}

func TestHashes(t *testing.T) {
	made := tree(t, 1)
	for name, prefix := range map[string]string{"emergency-access/password": "$y$j9T$", "root-password/password": "$y$j9T$", "user-password-alice/user-password": "$y$j9T$", "service/password": "$6$"} {
		g, f, _ := strings.Cut(name, "/")
		password, hash := made[g][f].Bytes(), made[g][f+"-hash"].Bytes()
		if !bytes.HasPrefix(hash, []byte(prefix)) || bytes.ContainsAny(hash, " \n:") {
			t.Errorf("%s: the hash is %q", name, hash)
		}
		if got, err := cryptPassword(setting(string(hash)), password); err != nil || !bytes.Equal(got, hash) {
			t.Errorf("%s: the hash is not the password's: %v", name, err)
		}
		if got, err := cryptPassword(setting(string(hash)), append(bytes.Clone(password), 'x')); err != nil || bytes.Equal(got, hash) {
			t.Errorf("%s: the hash is another password's, too: %v", name, err)
		}
	}
}

func TestPasswords(t *testing.T) {
	g, err := New("emergency-access", "m1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(g.EntropyBits-77.5) > 0.1 {
		t.Errorf("%f bits", g.EntropyBits)
	}
	rapid.Check(t, func(t *rapid.T) {
		s := passwordStyle{
			Style:    rapid.SampledFrom([]string{"words", "characters"}).Draw(t, "style"),
			Words:    rapid.IntRange(1, 32).Draw(t, "words"),
			Length:   rapid.IntRange(1, 256).Draw(t, "length"),
			Alphabet: rapid.SampledFrom([]string{"alphanumeric", "printable"}).Draw(t, "alphabet"),
		}
		if err := s.check(); (err == nil) != (s.entropyBits() >= leastEntropyBits) {
			t.Fatalf("%f bits: %v", s.entropyBits(), err)
		}
		password, err := s.draw(seeded(rapid.Byte().Draw(t, "seed")))
		if err != nil {
			t.Fatal(err)
		}
		if s.Style == "characters" {
			if len(password) != s.Length || strings.Trim(string(password), alphabets[s.Alphabet]) != "" {
				t.Fatalf("%q", password)
			}
			return
		}
		parts := strings.Split(string(password), "-")
		if len(parts) != s.Words || len(password) > cap(password) || cap(password) != s.Words*10 {
			t.Fatalf("%q of %d bytes", password, cap(password))
		}
		for _, w := range parts {
			if !strings.Contains("\n"+wordList, "\n"+w+"\n") {
				t.Fatalf("%q is no word of the list", w)
			}
		}
	})
}

func TestPrompts(t *testing.T) {
	answer := func(s string) Inputs {
		return Inputs{Prompts: map[string]Value{"user-password": NewValue([]byte(s))}, Now: now}
	}
	for given, want := range map[string]string{"secret": "secret", "two\nlines\n": "twolines", " spaces ": " spaces ", "-n": "-n"} {
		if got := generated(t, seeded(1), answer(given), "user-password", "m1", "")["user-password"].Bytes(); string(got) != want {
			t.Errorf("%q became %q, want %q", given, got, want)
		}
	}
	for _, given := range []string{"", "\n"} {
		if got := generated(t, seeded(1), answer(given), "user-password", "m1", "")["user-password"].Bytes(); strings.Count(string(got), "-") != 5 {
			t.Errorf("%q became %q, want six words", given, got)
		}
	}
	g, err := New("user-password", "m1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Prompt{Name: "user-password", Type: Hidden, Persist: true, Description: "Leave empty to generate automatically"}); len(g.Prompts) != 1 || g.Prompts[0] != want {
		t.Errorf("%+v", g.Prompts)
	}
	for given, says := range map[string]string{"a\x00b": "zero byte", strings.Repeat("x", 512): "longer than 511"} {
		if _, err := g.Generate(t.Context(), seeded(1), answer(given)); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "xxx") {
			t.Errorf("%.10q: %v, want an error with %q", given, err, says)
		}
	}
	quiet, err := New("user-password", "m1", []byte(`{"prompt": false}`))
	if err != nil || len(quiet.Prompts) != 0 {
		t.Errorf("%+v, %v", quiet, err)
	}
	if _, err := cryptPassword([]byte("$6$salt"), nil); err == nil {
		t.Error("an empty password has a hash")
	}
}
