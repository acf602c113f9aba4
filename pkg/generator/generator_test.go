package generator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// program is the path of a program that is not needed but tells more where it is
// installed; in CI it must be.
func program(t *testing.T, name string) (path string, ok bool) {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(p); err == nil {
			return path, true
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: install it", name)
	}
	t.Logf("%s is not installed: only recorded vectors were tried", name)
	return "", false
}

// command runs a program with an input and returns what it prints.
func command(t *testing.T, stdin []byte, argv ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", argv, err, out, stderr.Bytes())
	}
	return string(out)
}

func load[T any](t *testing.T, file string) (v T) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func seeded(n byte) io.Reader { return rand.NewChaCha8([32]byte{n}) }

// generated makes a generator of settings and runs it.
func generated(t testing.TB, random io.Reader, in Inputs, kind, machine, settings string) Files {
	t.Helper()
	g, err := New(kind, machine, []byte(settings))
	if err != nil {
		t.Fatal(err)
	}
	if in.Now.IsZero() {
		in.Now = now
	}
	files, err := g.Generate(t.Context(), random, in)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// example is a good use of each kind.
type example struct{ name, kind, machine, settings string }

// examples in an order in which each finds what it reads.
var examples = []example{
	{"openssh", "ssh-host-key", "m1", ""},
	{"openssh-rsa", "ssh-host-key-rsa", "m1", `{"bits": 2048}`},
	{"openssh-ca", "ssh-ca", "", ""},
	{"openssh-cert", "ssh-host-certificate", "m1", `{"domains": ["zt", "example.org", "zt"]}`},
	{"ssh-user-key", "ssh-user-key", "m1", ""},
	{"user-cert", "ssh-user-certificate", "", `{"id": "alice", "principals": ["root", "alice"]}`},
	{"service", "password", "", `{"style": "characters", "hash": "sha512"}`},
	{"emergency-access", "emergency-access", "m1", ""},
	{"root-password", "root-password", "m1", ""},
	{"user-password-alice", "user-password", "", ""},
	{"key", "age-key", "m1", ""},
	{"wireguard-keys-wg", "wireguard-key", "m1", ""},
	{"secret", "token", "", `{"encoding": "base64"}`},
	{"tor_tor", "tor-onion", "m1", ""},
	{"step-ca", "tls-ca", "", ""},
	{"web", "tls-certificate", "m1", `{"names": ["m1.zt", "*.m1.zt", "fd00::1"]}`},
	{"zerotier-identity-m1", "zerotier-identity", "", ""},
	{"zerotier-network-zerotier", "zerotier-network", "", `{"controller": "m1"}`},
	{"zerotier-ip-m1-zerotier", "zerotier-ip", "", `{"machine": "m1"}`},
}

// tree runs all examples; each has random bytes of its own.
func tree(t testing.TB, seed byte) map[string]Files {
	t.Helper()
	made := map[string]Files{}
	for i, e := range examples {
		made[e.name] = generated(t, rand.NewChaCha8([32]byte{seed, byte(i)}), Inputs{Dependencies: made}, e.kind, e.machine, e.settings)
	}
	return made
}

// Each kind makes the files that it declares, the same from the same random
// bytes, and nothing when these end or the context does.
func TestKinds(t *testing.T) {
	kinds := map[string]bool{}
	for _, k := range Kinds() {
		kinds[k.Name] = true
	}
	first, second, other := tree(t, 1), tree(t, 1), tree(t, 2)
	for _, e := range examples {
		delete(kinds, e.kind)
		g, err := New(e.kind, e.machine, []byte(e.settings))
		if err != nil {
			t.Fatal(err)
		}
		var declared []string
		for _, f := range g.Files {
			declared = append(declared, f.Name)
			if f.Owner != "root" || f.Mode != 0o400 || f.NeededFor != ForServices && f.NeededFor != ForUsers {
				t.Errorf("%s: %s is %s's with mode %o, for %s", e.kind, f.Name, f.Owner, f.Mode, f.NeededFor)
			}
			content := first[e.name][f.Name].Bytes()
			if len(content) == 0 {
				t.Errorf("%s: %s is empty", e.kind, f.Name)
			}
			// RSA and X.509 take the system's random bytes, in part.
			if e.kind != "ssh-host-key-rsa" && f.Name != "ca.crt" && f.Name != "tls.crt" && !bytes.Equal(content, second[e.name][f.Name].Bytes()) {
				t.Errorf("%s: %s is another one from the same random bytes", e.kind, f.Name)
			}
			if bytes.Equal(content, other[e.name][f.Name].Bytes()) {
				t.Errorf("%s: %s is the same from other random bytes", e.kind, f.Name)
			}
		}
		if len(declared) != len(first[e.name]) {
			t.Errorf("%s: made %d files, declares %v", e.kind, len(first[e.name]), declared)
		}
		if g.Kind != e.kind || g.Share != (e.machine == "") {
			t.Errorf("%s: kind %s, shared %t", e.kind, g.Kind, g.Share)
		}

		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		cancel(enough)
		if files, err := g.Generate(ctx, seeded(1), Inputs{Dependencies: first, Now: now}); !errors.Is(err, enough) || files != nil {
			t.Errorf("%s in a context that ended: %v, %v", e.kind, files, err)
		}
		if e.kind != "ssh-host-key-rsa" && e.kind != "zerotier-ip" {
			if files, err := g.Generate(t.Context(), strings.NewReader(""), Inputs{Dependencies: first, Now: now}); !errors.Is(err, io.EOF) || files != nil {
				t.Errorf("%s without random bytes: %v, %v", e.kind, files, err)
			}
		}
		for _, dep := range g.Dependencies() {
			some := map[string]Files{}
			for name, files := range first {
				if name != dep {
					some[name] = files
				}
			}
			if _, err := g.Generate(t.Context(), seeded(1), Inputs{Dependencies: some, Now: now}); err == nil || !strings.Contains(err.Error(), dep) || !strings.Contains(err.Error(), "first") {
				t.Errorf("%s without %s: %v", e.kind, dep, err)
			}
		}
		if _, err := g.Generate(t.Context(), seeded(1), Inputs{Dependencies: first, Now: now, Prompts: map[string]Value{"nobody asked": {}}}); err == nil {
			t.Errorf("%s takes an answer that nobody asked for", e.kind)
		}
	}
	if len(kinds) != 0 {
		t.Errorf("no example of %v", kinds)
	}
}

// The files are where clan's own generators have them: name, secret or not,
// deployed or not, phase. A star is where ours is deliberately another one.
func TestFilesAreClans(t *testing.T) {
	want := []string{
		"openssh/ssh.id_ed25519 secret deployed services",
		"openssh/ssh.id_ed25519.pub public deployed services",
		"openssh-rsa/ssh.id_rsa secret deployed services",
		"openssh-rsa/ssh.id_rsa.pub public deployed services",
		"openssh-ca/id_ed25519 secret kept services",
		"openssh-ca/id_ed25519.pub public kept services",
		"openssh-cert/ssh.id_ed25519-cert.pub public deployed services",
		"emergency-access/password secret kept services",
		"emergency-access/password-hash secret deployed services", // Clan's is public, and so in every host's store.
		"root-password/password secret kept services",
		"root-password/password-hash secret deployed users",
		"user-password-alice/user-password secret kept services",
		"user-password-alice/user-password-hash secret deployed users",
		"wireguard-keys-wg/privatekey secret deployed services",
		"wireguard-keys-wg/publickey public deployed services",
		"tor_tor/hs_ed25519_secret_key secret deployed services",
		"tor_tor/hostname secret deployed services",
		"step-ca/ca.key secret kept services",
		"step-ca/ca.crt public deployed services",
		"zerotier-identity-m1/identity-secret secret deployed services",
		"zerotier-network-zerotier/network-id public kept services",
		"zerotier-ip-m1-zerotier/ip public kept services",
	}
	for _, e := range examples {
		g, err := New(e.kind, e.machine, []byte(e.settings))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range g.Files {
			words := []string{e.name + "/" + f.Name, "public", "kept", string(f.NeededFor)}
			if f.Secret {
				words[1] = "secret"
			}
			if f.Deploy {
				words[2] = "deployed"
			}
			line := strings.Join(words, " ")
			if i := slices.Index(want, line); i >= 0 {
				want = slices.Delete(want, i, i+1)
			} else if slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(w, words[0]+" ") }) {
				t.Errorf("got %s", line)
			}
		}
	}
	if len(want) != 0 {
		t.Errorf("missing: %q", want)
	}
}

// Neither printing nor an error shows a value.
func TestNothingIsShown(t *testing.T) {
	made := tree(t, 3)
	var shown strings.Builder
	show := func(v any) {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&shown, verb+"\n", v)
		}
		if b, err := json.Marshal(v); err == nil {
			shown.Write(b)
		}
		slog.New(slog.NewJSONHandler(&shown, nil)).Info("made", "what", v)
		slog.New(slog.NewTextHandler(&shown, nil)).Info("made", "what", v)
	}
	var values [][]byte
	type holder struct{ unexported Files }
	for _, e := range examples {
		for _, v := range made[e.name] {
			values = append(values, v.Bytes())
			show(v)
			show(&v)
			show(struct{ unexported Value }{v})
			show(&struct{ unexported *Value }{&v})
		}
		show(made[e.name])
		show(Inputs{Dependencies: made, Prompts: made[e.name]})
		show(holder{made[e.name]})

		// Each file that is read, cut or replaced by another one's content.
		g, err := New(e.kind, e.machine, []byte(e.settings))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range g.Reads {
			whole := made[r.Generator][r.File].Bytes()
			for _, bad := range [][]byte{nil, whole[:len(whole)/2], append(bytes.Clone(whole), whole...), made["emergency-access"]["password"].Bytes(), made["zerotier-identity-m1"]["identity-secret"].Bytes()} {
				deps := map[string]Files{}
				for _, other := range g.Reads {
					deps[other.Generator] = Files{}
					maps.Copy(deps[other.Generator], made[other.Generator])
				}
				deps[r.Generator][r.File] = NewValue(bad)
				if _, err := g.Generate(t.Context(), seeded(1), Inputs{Dependencies: deps, Now: now}); err != nil {
					shown.WriteString(err.Error() + "\n")
				} else if !bytes.Equal(bad, whole) && r.File != "ca.crt" && r.File != "ca.key" && r.File != "id_ed25519" {
					t.Errorf("%s takes a broken %s of %s", e.kind, r.File, r.Generator)
				}
			}
		}
	}
	text := shown.String()
	if !strings.Contains(text, "hidden") {
		t.Fatal("nothing was printed")
	}
	for _, v := range values {
		for _, form := range []string{string(v), fmt.Sprintf("%x", v[:min(8, len(v))]), strings.Trim(fmt.Sprintf("%d", v[:min(8, len(v))]), "[]")} {
			if strings.Contains(text, strings.TrimSpace(form)) {
				t.Errorf("%.20q was shown", v)
			}
		}
	}
	// Parts of the secrets, too: what is long and in no public file.
	for _, secret := range []Value{made["openssh"]["ssh.id_ed25519"], made["step-ca"]["ca.key"], made["zerotier-identity-m1"]["identity-secret"]} {
		b := secret.Bytes()
		if part := string(b[len(b)/2 : len(b)/2+24]); strings.Contains(text, part) {
			t.Errorf("%q was shown", part)
		}
	}
}

func TestClear(t *testing.T) {
	files := generated(t, seeded(1), Inputs{}, "token", "", "")
	b := files["token"].Bytes()
	files.Clear()
	if !bytes.Equal(b, make([]byte, len(b))) {
		t.Error("the token is still in memory")
	}
	var none Value
	none.Clear()
	if none.Bytes() != nil {
		t.Error("no value has bytes")
	}
}

func TestBadSettings(t *testing.T) {
	tests := []struct{ kind, machine, settings, says string }{
		{"openssh", "m1", "", "there are age-key, emergency-access"},
		{"ssh-host-key", "", "", "declare it for machines"},
		{"ssh-host-key", "M1", "", "M1"},
		{"ssh-host-key", "m1", `{"bits": 4096}`, `"bits"`},
		{"ssh-host-key", "m1", `[]`, "JSON"},
		{"ssh-host-key-rsa", "m1", `{"bits": 1024}`, "2048 to 8192"},
		{"ssh-host-key-rsa", "m1", `{"bits": 4096, "bits": 2048}`, "duplicate"},
		{"ssh-user-key", "m1", `{"comment": "a\nb"}`, "one line"},
		{"ssh-host-certificate", "m1", "", "domains: 0"},
		{"ssh-host-certificate", "m1", `{"domains": ["a,b"]}`, "domain name"},
		{"ssh-host-certificate", "m1", `{"domains": ["zt"], "ca": "../x"}`, "ca:"},
		{"ssh-user-certificate", "", `{"principals": ["root"]}`, "who is it for"},
		{"ssh-user-certificate", "", `{"id": "a"}`, "principals: 0"},
		{"ssh-user-certificate", "", `{"id": "a", "principals": ["root"], "hours": 169}`, "1 to 168"},
		{"ssh-user-certificate", "", `{"id": "a", "principals": ["root"], "permit": ["all"]}`, "permit-pty"},
		{"ssh-user-certificate", "", `{"id": "a", "principals": ["root"], "source_addresses": ["10.0.0.1/8"]}`, "prefix"},
		{"ssh-user-certificate", "", `{"id": "a", "principals": ["root"], "serial": -1}`, "serial"},
		{"password", "", `{"words": 3}`, "38.8 bits"},
		{"password", "", `{"style": "characters", "length": 8}`, "at least 50"},
		{"password", "", `{"style": "pin"}`, "words, characters"},
		{"password", "", `{"file": ".validation-hash"}`, "no name of a file"},
		{"password", "", `{"file": "a/b"}`, "no name of a file"},
		{"password", "", `{"hash": "md5"}`, "yescrypt"},
		{"emergency-access", "", "", "declare it for machines"},
		{"user-password", "", `{"prompt": "yes"}`, "prompt"},
		{"token", "", `{"bytes": 8}`, "16 to 1024"},
		{"token", "", `{"encoding": "base32"}`, "hex, base64, raw"},
		{"tls-ca", "", `{"days": 0}`, "1 to 7300"},
		{"tls-ca", "", `{"common_name": ""}`, "common_name"},
		{"tls-ca", "", `{"domains": ["*.zt"]}`, "domain name"},
		{"tls-certificate", "", `{}`, "names: 0"},
		{"tls-certificate", "", `{"names": ["m1.*.zt"]}`, "domain name"},
		{"tls-certificate", "", `{"names": ["fe80::1%eth0"]}`, "domain name"},
		{"tls-certificate", "", `{"names": ["zt"], "usage": "code"}`, "server, client, both"},
		{"zerotier-network", "", ``, "controller"},
		{"zerotier-ip", "", `{"machine": "m1", "instance": "a b"}`, "instance"},
		{"token", "", `{"file": "` + strings.Repeat("x", maxSettingsBytes) + `"}`, "too large"},
	}
	for _, tt := range tests {
		if _, err := New(tt.kind, tt.machine, []byte(tt.settings)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s %.60s: got %v, want an error with %q", tt.kind, tt.settings, err, tt.says)
		}
	}
	if _, err := New("nothing", "", nil); !errors.Is(err, ErrUnknownKind) {
		t.Errorf("got %v", err)
	}
}

func FuzzSettings(f *testing.F) {
	for _, e := range examples {
		f.Add(e.kind, e.machine, []byte(e.settings))
	}
	f.Add("password", "", []byte(`{"style":"characters","length":12,"alphabet":"printable","file":"x","hash":"none"}`))
	f.Fuzz(func(t *testing.T, kind, machine string, settings []byte) {
		g, err := New(kind, machine, settings)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, file := range g.Files {
			if fileName("file", file.Name) != nil || seen[file.Name] {
				t.Errorf("%s %s declares the file %q", kind, settings, file.Name)
			}
			seen[file.Name] = true
		}
		for _, r := range g.Reads {
			if fileName("read", r.Generator) != nil {
				t.Errorf("%s %s reads the generator %q", kind, settings, r.Generator)
			}
		}
		if g.Validation != nil {
			if _, err := json.Marshal(g.Validation); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestBelow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 1<<16).Draw(t, "n")
		got, err := below(seeded(rapid.Byte().Draw(t, "seed")), n)
		if err != nil || got < 0 || got >= n {
			t.Fatalf("%d, %v", got, err)
		}
	})
	// Chi-squared of 62 kinds over many draws: far beyond what chance does.
	random, counts := seeded(7), [62]float64{}
	const draws = 62 * 1000
	for range draws {
		i, err := below(random, len(counts))
		if err != nil {
			t.Fatal(err)
		}
		counts[i]++
	}
	sum := 0.0
	for _, c := range counts {
		sum += (c - 1000) * (c - 1000) / 1000
	}
	if sum > 130 { // 61 on average; a bias by a modulus would be thousands.
		t.Errorf("chi-squared %f", sum)
	}
	if _, err := below(bytes.NewReader(bytes.Repeat([]byte{255}, 1000)), 62); err == nil {
		t.Error("a source of ones for ever yields a number")
	}
}
