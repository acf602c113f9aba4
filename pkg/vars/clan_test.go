package vars_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// TestClanTree: all of clan's tree opens to what is expected, for each reader and nobody else.
func TestClanTree(t *testing.T) {
	tree := open(t, "testdata/clan-tree")
	healthy(t, "testdata/clan-tree")
	if w := tree.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %v", w)
	}
	seen := 0
	for path, want := range expected(t) {
		entry := filepath.Dir(path)
		seen++
		for _, name := range everybody {
			got, err := tree.Read(entry, []sops.Identity{key(t, name).Identity})
			if slices.Contains(want.Readers, name) {
				if err != nil || string(got) != string(want.Plaintext) {
					t.Errorf("%s as %s: got %q, %v", path, name, got, err)
				}
			} else if !errors.Is(err, sops.ErrNoIdentity) || got != nil || !strings.Contains(err.Error(), "ask one of them") {
				t.Errorf("%s as %s: got %q, %v", path, name, got, err)
			}
		}
		e, err := tree.Entry(entry)
		if err != nil {
			t.Fatal(err)
		}
		readers, err := tree.ReadersOf(e)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range readers {
			names = append(names, r.Name)
		}
		if slices.Sort(names); !slices.Equal(names, want.Readers) {
			t.Errorf("%s: links say %q, want %q", path, names, want.Readers)
		}
		d, err := tree.Document(entry)
		if err != nil || string(d.Bytes()) != string(readFile(t, "testdata/clan-tree/"+path)) {
			t.Errorf("%s: written again it is another file, %v", path, err)
		}
	}
	secrets := 0
	for _, e := range tree.Entries() {
		if e.Secret {
			secrets++
		}
	}
	if secrets != seen || seen == 0 {
		t.Errorf("%d secrets found, want %d", secrets, seen)
	}
	id := vars.ID{Placement: vars.PerMachine("m1"), Generator: "cert", File: "crt"}
	if v, err := tree.Value(id.Path()); err != nil || len(v) == 0 {
		t.Errorf("public value: %q, %v", v, err)
	}
	if h := tree.ValidationHash(vars.PerMachine("m1"), "cert"); len(h) != 64 {
		t.Errorf("validation hash %q", h)
	}
	if m, err := tree.Members("admins"); err != nil || len(m) != 2 {
		t.Errorf("admins: %v, %v", m, err)
	}
}

// Keys are written byte for byte as clan does.
func TestKeysAsClanWritesThem(t *testing.T) {
	for _, r := range []string{"users/alice", "users/bob", "users/carol", "machines/m1", "machines/m2"} {
		data := readFile(t, "testdata/clan-tree/sops/"+r+"/key.json")
		keys, err := vars.ParseKeys(data)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := vars.FormatKeys(keys); err != nil || string(again) != string(data) {
			t.Errorf("%s: got %q, %v", r, again, err)
		}
	}
	k := sopstest.NewKey(t)
	for text, want := range map[string]string{
		`{"publickey":"` + k.Public + `","type":"AGE"}` + "\n":                                                   k.Public,
		`[{"publickey":"ABCDEF0123","type":"pgp"}]`:                                                              "ABCDEF0123",
		`[{"type":"age","publickey":"age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t"}]`: "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t",
	} {
		if keys, err := vars.ParseKeys([]byte(text)); err != nil || len(keys) != 1 || keys[0].PublicKey != want {
			t.Errorf("%s: got %v, %v", text, keys, err)
		}
	}
	for text, part := range map[string]string{
		"":                                     "too early",
		"[]":                                   "0 keys",
		`[{"publickey":"age1x","type":"age"}]`: "age1x",
		`[{"publickey":"x","type":"rot13"}]`:   "want age or pgp",
		`[{"publickey":"x","publickey":"y","type":"pgp"}]`:                                              "duplicate",
		`[{"publickey":"a,b","type":"pgp"}]`:                                                            "comma",
		`[` + strings.Repeat(`{"publickey":"x","type":"pgp"},`, 99) + `{"publickey":"x","type":"pgp"}]`: "100 keys",
	} {
		_, err := vars.ParseKeys([]byte(text))
		says(t, err, part)
	}
}

// sealed is what differs between two encryptions.
var sealed = regexp.MustCompile(`(data|iv|tag):[^,]*|BEGIN AGE[^"]*|"lastmodified": "[^"]*|"version": "[^"]*`)

// shape is what two encryptions have in common; recipients that were changed once are in any order.
func shape(document string) string {
	lines := strings.Split(sealed.ReplaceAllString(document, "…"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimSuffix(l, ",")
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestWrittenAsClan writes clan's tree again, into an empty directory, and has the same files
// with the same links, and documents of the same shape that the real sops opens.
func TestWrittenAsClan(t *testing.T) {
	dir := t.TempDir()
	reference := open(t, "testdata/clan-tree")
	alice := vars.Reader{Kind: vars.Users, Name: "alice"}
	change(t, dir, "alice", func(c *vars.Change) error {
		for _, name := range everybody {
			kind := vars.Users
			if strings.HasPrefix(name, "m") {
				kind = vars.Machines
			}
			if err := c.SetKeys(vars.Reader{Kind: kind, Name: name}, []vars.Key{{PublicKey: key(t, name).Public, Type: vars.AgeKey}}); err != nil {
				return err
			}
		}
		for _, u := range []string{"bob", "alice"} {
			if err := c.AddMember("admins", vars.Reader{Kind: vars.Users, Name: u}); err != nil {
				return err
			}
		}
		for _, e := range reference.Entries() {
			if e.Public {
				v, err := reference.Value(e.Path)
				if err := errors.Join(err, c.PutPublic(e.ID, v), c.SetValidationHash(e.ID.Placement, e.ID.Generator, reference.ValidationHash(e.ID.Placement, e.ID.Generator))); err != nil {
					return err
				}
				continue
			}
			a := vars.Access{}
			var more []vars.Reader
			for _, r := range e.Links {
				switch {
				case r.Kind == vars.Machines:
					a.Machines = append(a.Machines, r.Name)
				case r.Kind == vars.Groups:
					a.Groups = append(a.Groups, r.Name)
				case r != alice:
					more = append(more, r)
				}
			}
			if err := c.PutSecret(e.Path, expected(t)[e.Path+"/secret"].Plaintext, a); err != nil {
				return err
			}
			for _, r := range more {
				if err := c.AddReader(e.Path, r); err != nil {
					return err
				}
			}
		}
		return nil
	})
	healthy(t, dir)
	got, want := files(t, dir), files(t, "testdata/clan-tree")
	for p, w := range want {
		g, ok := got[p]
		if filepath.Base(p) == "secret" { // A rewrapped one names its rule, as with clan.
			g = strings.Replace(g, "\t\t\"unencrypted_suffix\": \"_unencrypted\",\n", "", 1)
			w = strings.Replace(w, "\t\t\"unencrypted_suffix\": \"_unencrypted\",\n", "", 1)
			g, w = shape(g), shape(w)
		}
		if !ok || g != w {
			t.Errorf("%s: got\n%s\nwant\n%s", p, g, w)
		}
		delete(got, p)
	}
	for p := range got {
		t.Errorf("%s: clan writes none", p)
	}
	for path, want := range expected(t) {
		for _, name := range everybody {
			out, stderr, err := sopstest.Run(t, dir, key(t, name).Private, nil, "decrypt", "--input-type", "binary", "--output-type", "binary", path)
			if reads := slices.Contains(want.Readers, name); reads != (err == nil) || reads && string(out) != string(want.Plaintext) {
				t.Errorf("%s: sops as %s says %q, %v\n%s", path, name, out, err, stderr)
			}
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, "vars/shared/psk/psk/secret")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode of a secret: %v, %v", fi.Mode(), err)
	}
	// What clan would not see in git is not there.
	if b := readFile(t, filepath.Join(dir, ".fleet-vars/.gitignore")); string(b) != "*\n" {
		t.Errorf(".gitignore has %q", b)
	}
	if _, err := os.Stat(filepath.Join(dir, ".fleet-vars/staged")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was staged is still there: %v", err)
	}
}

// The oddities of a real tree.
func TestOddities(t *testing.T) {
	dir := clanTree(t)
	write(t, dir, "vars/.keep", "")
	write(t, dir, "vars/shared/.keep", "")
	write(t, dir, "vars/shared/ca/notes.txt", "")
	symlink(t, dir, "sops/machines/m1/m1", "../nowhere")
	symlink(t, dir, "vars/shared/psk/psk/machines/gone", "../../../../../sops/machines/gone")
	symlink(t, dir, "vars/shared/elsewhere", "psk")
	for _, id := range []vars.ID{
		{Placement: vars.Shared(), Generator: "wifi.fleet", File: "network-name"},
		{Placement: vars.Shared(), Generator: "tor_tor", File: "shared-secret.yaml"},
		{Placement: vars.PerMachine("m1"), Generator: "secret", File: "secret"},
		{Placement: vars.PerMachine("m1"), Generator: "users", File: "machines"},
		{Placement: vars.PerMachine("gone"), Generator: "nobody-declares", File: "OPENROUTER_API_KEY"},
		{Placement: vars.PerExport("svc::role:m1"), Generator: "with space", File: "ünï"},
	} {
		change(t, dir, "bob", func(c *vars.Change) error { return c.PutSecret(id.Path(), []byte(id.String()), vars.Access{}) })
		if v, err := open(t, dir).Read(id.Path(), options(t, "bob").Identities); err != nil || string(v) != id.String() {
			t.Errorf("%s: got %q, %v", id, v, err)
		}
	}
	tree := open(t, dir)
	var got []string
	for _, w := range tree.Warnings() {
		got = append(got, w.Path)
	}
	want := []string{"sops/machines/m1/m1", "vars/shared/elsewhere", "vars/shared/psk/psk/machines/gone"}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("warnings for %q, want %q", got, want)
	}
	healthy(t, dir)
	opensFor(t, dir, "vars/shared/psk/psk", everybody...)
}

// Two users with one key: who is linked already, else the first by name.
func TestSecondUserWithTheSameKey(t *testing.T) {
	dir := clanTree(t)
	bob := key(t, "bob")
	keys := []vars.Key{{PublicKey: bob.Public, Type: vars.AgeKey}}
	change(t, dir, "alice", func(c *vars.Change) error { return c.SetKeys(vars.Reader{Kind: vars.Users, Name: "aaron"}, keys) })
	change(t, dir, "bob", func(c *vars.Change) error {
		return errors.Join(c.PutSecret("vars/shared/psk/psk", []byte("new"), vars.Access{}), c.PutSecret("vars/shared/new/new", []byte("new"), vars.Access{}))
	})
	for entry, want := range map[string]string{"vars/shared/psk/psk": "alice bob carol", "vars/shared/new/new": "aaron"} {
		var names []string
		for _, p := range func() []fs.DirEntry { l, _ := os.ReadDir(filepath.Join(dir, entry, "users")); return l }() {
			names = append(names, p.Name())
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: links to %s, want %s", entry, got, want)
		}
	}
	d, err := open(t, dir).Document("vars/shared/new/new")
	if err != nil || !slices.Equal(d.Recipients(), []string{bob.Public}) {
		t.Errorf("got recipients %v, %v", d.Recipients(), err)
	}
	if got := open(t, dir).NameKey(bob.Public); got != "user aaron or user bob" {
		t.Errorf("the key is said to be of %s", got)
	}
}

// A machine without a key gets one with its first secret: 74 bytes, for people only.
func TestMachineKeyIsMadeWithTheFirstSecret(t *testing.T) {
	dir := clanTree(t)
	paths := change(t, dir, "alice", func(c *vars.Change) error {
		return c.PutSecret("vars/per-machine/m3/gen/file", []byte("value"), vars.Access{Machines: []string{"m3"}, Groups: []string{"admins"}})
	})
	healthy(t, dir)
	tree := open(t, dir)
	private, err := tree.Read("sops/secrets/m3-age.key", []sops.Identity{key(t, "bob").Identity})
	if err != nil || len(private) != 74 {
		t.Fatalf("got %d bytes, %v", len(private), err)
	}
	m3 := sopstest.KeyOf(t, string(private))
	if v, err := tree.Read("vars/per-machine/m3/gen/file", []sops.Identity{m3.Identity}); err != nil || string(v) != "value" {
		t.Errorf("as the machine: %q, %v", v, err)
	}
	want := []string{
		"sops/machines/m3/key.json", "sops/secrets/m3-age.key/groups/admins", "sops/secrets/m3-age.key/secret", "sops/secrets/m3-age.key/users/alice",
		"vars/per-machine/m3/gen/file/groups/admins", "vars/per-machine/m3/gen/file/machines/m3", "vars/per-machine/m3/gen/file/secret", "vars/per-machine/m3/gen/file/users/alice",
	}
	if !slices.Equal(paths, want) {
		t.Errorf("wrote %q", paths)
	}
	var keys []map[string]string
	if err := json.Unmarshal(readFile(t, filepath.Join(dir, "sops/machines/m3/key.json")), &keys); err != nil || keys[0]["publickey"] != m3.Public {
		t.Errorf("key.json: %v, %v", keys, err)
	}
	if err := os.Remove(filepath.Join(dir, "sops/machines/m3/key.json")); err != nil {
		t.Fatal(err)
	}
	_, err = tryChange(t, dir, "alice", func(c *vars.Change) error {
		return c.PutSecret("vars/per-machine/m3/gen/file", []byte("other"), vars.Access{Machines: []string{"m3"}})
	})
	says(t, err, "restore sops/machines/m3/key.json")
}
