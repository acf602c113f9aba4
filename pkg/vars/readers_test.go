package vars_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

func user(name string) vars.Reader    { return vars.Reader{Kind: vars.Users, Name: name} }
func machine(name string) vars.Reader { return vars.Reader{Kind: vars.Machines, Name: name} }

// regenerate are the entries that a change says must be made anew.
func regenerate(c *vars.Change) (list []string) {
	for _, e := range c.Exposed() {
		list = append(list, e.Entry.Path)
	}
	return list
}

func TestReadersComeAndGo(t *testing.T) {
	const tok, ca = "vars/per-machine/m1/pw/tok", "vars/shared/ca/key"
	dir := clanTree(t)
	change(t, dir, "bob", func(c *vars.Change) error {
		return errors.Join(c.AddReader(tok, machine("m2")), c.AddReader(tok, user("carol")), c.AddReader(tok, user("carol")))
	})
	healthy(t, dir)
	opensFor(t, dir, tok, everybody...)

	change(t, dir, "carol", func(c *vars.Change) error {
		err := c.RemoveReader(tok, machine("m2"))
		if got := regenerate(c); !slices.Equal(got, []string{tok}) || !strings.Contains(c.Exposed()[0].Who[0], "machine m2") {
			t.Errorf("to be made anew: %+v", c.Exposed())
		}
		return err
	})
	opensFor(t, dir, tok, "alice", "bob", "carol", "m1")

	// Who reads through a group still does, so that nothing is exposed.
	change(t, dir, "alice", func(c *vars.Change) error {
		err := c.RemoveReader(tok, user("alice"))
		if got := regenerate(c); len(got) > 0 {
			t.Errorf("to be made anew: %q", got)
		}
		return err
	})
	opensFor(t, dir, tok, "alice", "bob", "carol", "m1")

	// Out of the group: all that it read is exposed, but for what is linked directly, and
	// for what gets a new value in the same change.
	change(t, dir, "alice", func(c *vars.Change) error {
		err := c.RemoveMember("admins", user("bob"))
		want := []string{"sops/secrets/m1-age.key", "sops/secrets/m2-age.key", "vars/per-machine/m1/pw/hash", tok, "vars/per-machine/m2/pw/hash", "vars/per-machine/m2/pw/tok", ca}
		if got := regenerate(c); !slices.Equal(got, want) {
			t.Errorf("to be made anew: %q", got)
		}
		err = errors.Join(err, c.PutSecret(ca, []byte("rotated"), vars.Access{}))
		if got := regenerate(c); slices.Contains(got, ca) {
			t.Errorf("a new value is to be made anew: %q", got)
		}
		return err
	})
	healthy(t, dir)
	opensFor(t, dir, ca, "alice")
	opensFor(t, dir, psk, everybody...)

	change(t, dir, "alice", func(c *vars.Change) error { return c.AddMember("admins", machine("m2")) })
	opensFor(t, dir, ca, "alice", "m2")
	change(t, dir, "alice", func(c *vars.Change) error { return c.Remove(machine("m2")) })
	healthy(t, dir)
	opensFor(t, dir, psk, "alice", "bob", "carol", "m1")
	for p := range files(t, dir) {
		if strings.HasSuffix(p, "/m2") || strings.HasPrefix(p, "sops/machines/m2") {
			t.Errorf("%s is left", p)
		}
	}
}

// A person with several keys reads with each; who loses one, keeps the others.
func TestSeveralKeys(t *testing.T) {
	dir := clanTree(t)
	second := sopstest.NewKey(t)
	carol := vars.Key{PublicKey: key(t, "carol").Public, Type: vars.AgeKey}
	change(t, dir, "alice", func(c *vars.Change) error {
		return c.SetKeys(user("carol"), []vars.Key{carol, {PublicKey: second.Public, Type: vars.AgeKey}})
	})
	healthy(t, dir)
	d, err := open(t, dir).Document(psk)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := d.Decrypt(second.Identity); err != nil || len(v) == 0 {
		t.Errorf("with the second key: %q, %v", v, err)
	}
	change(t, dir, "alice", func(c *vars.Change) error {
		err := c.SetKeys(user("carol"), []vars.Key{{PublicKey: second.Public, Type: vars.AgeKey}})
		if got := regenerate(c); !slices.Equal(got, []string{psk}) {
			t.Errorf("to be made anew: %q", got)
		}
		return err
	})
	opensFor(t, dir, psk, "alice", "bob", "m1", "m2")
}

// An equal value for equal readers is no new file; anything else is one, with a new data key.
func TestEqualValuesAreLeft(t *testing.T) {
	dir := clanTree(t)
	value := expected(t)[psk+"/secret"].Plaintext
	if paths := change(t, dir, "carol", func(c *vars.Change) error { return c.PutSecret(psk, value, vars.Access{Machines: []string{"m1"}}) }); len(paths) > 0 {
		t.Errorf("wrote %q", paths)
	}
	paths := change(t, dir, "carol", func(c *vars.Change) error { return c.PutSecret(psk, value, vars.Access{Undeployed: true}) })
	want := []string{psk + "/machines/m1", psk + "/machines/m2", psk + "/secret"}
	if !slices.Equal(paths, want) {
		t.Errorf("wrote %q", paths)
	}
	opensFor(t, dir, psk, "alice", "bob", "carol")
	healthy(t, dir)
}

// From secret to public and back nothing of the other is left.
func TestSecretBecomesPublic(t *testing.T) {
	dir := clanTree(t)
	id := vars.ID{Placement: vars.Shared(), Generator: "psk", File: "psk"}
	change(t, dir, "alice", func(c *vars.Change) error { return c.PutPublic(id, []byte("no newline")) })
	healthy(t, dir)
	for p := range files(t, dir) {
		if strings.HasPrefix(p, psk+"/") && filepath.Base(p) != "value" {
			t.Errorf("%s is left", p)
		}
	}
	if v, err := open(t, dir).Value(psk); err != nil || string(v) != "no newline" {
		t.Errorf("got %q, %v", v, err)
	}
	if paths := change(t, dir, "alice", func(c *vars.Change) error { return c.PutPublic(id, []byte("no newline")) }); len(paths) > 0 {
		t.Errorf("an equal value is written: %q", paths)
	}
	change(t, dir, "alice", func(c *vars.Change) error { return c.PutSecret(psk, []byte{}, vars.Access{}) })
	if v, err := open(t, dir).Read(psk, options(t, "alice").Identities); err != nil || len(v) != 0 {
		t.Errorf("an empty secret: %q, %v", v, err)
	}
	if _, err := open(t, dir).Value(psk); !errors.Is(err, vars.ErrNotFound) {
		t.Errorf("the public value: %v", err)
	}
	change(t, dir, "alice", func(c *vars.Change) error {
		return errors.Join(c.Delete(psk), c.SetValidationHash(vars.PerMachine("m1"), "cert", ""))
	})
	for p := range files(t, dir) {
		if strings.HasPrefix(p, "vars/shared/psk") || p == "vars/per-machine/m1/cert/.validation-hash" {
			t.Errorf("%s is left", p)
		}
	}
}

// A new machine gets what is shared; what is not deployed any more leaves the machines.
func TestFix(t *testing.T) {
	dir := clanTree(t)
	paths := change(t, dir, "bob", func(c *vars.Change) error {
		return c.Fix(psk, vars.Access{Machines: []string{"m1", "m2", "m3"}, Groups: []string{"admins"}})
	})
	healthy(t, dir)
	private, err := open(t, dir).Read("sops/secrets/m3-age.key", options(t, "alice").Identities)
	if err != nil {
		t.Fatal(err)
	}
	m3 := sopstest.KeyOf(t, string(private))
	want := string(expected(t)[psk+"/secret"].Plaintext)
	d, err := open(t, dir).Document(psk)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Decrypt(m3.Identity); err != nil || string(got) != want {
		t.Errorf("the new machine reads %q, %v", got, err)
	}
	if again := change(t, dir, "bob", func(c *vars.Change) error {
		return c.Fix(psk, vars.Access{Machines: []string{"m1", "m2", "m3"}, Groups: []string{"admins"}})
	}); len(again) > 0 || !slices.Contains(paths, psk+"/machines/m3") {
		t.Errorf("wrote %q, and then %q", paths, again)
	}
	change(t, dir, "bob", func(c *vars.Change) error {
		err := c.Fix(psk, vars.Access{Undeployed: true})
		if got := regenerate(c); !slices.Equal(got, []string{psk}) || len(c.Exposed()[0].Who) != 3 {
			t.Errorf("to be made anew: %+v", c.Exposed())
		}
		return err
	})
	healthy(t, dir)
	opensFor(t, dir, psk, "alice", "bob", "carol")
	_, err = tryChange(t, dir, "bob", func(c *vars.Change) error { return c.Fix("vars/shared/no/no", vars.Access{}) })
	says(t, err, "not in the tree")
}
