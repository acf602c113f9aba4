package vars_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// document is a document for readers of clan's tree and others.
func document(t testing.TB, value string, to ...sopstest.Key) string {
	t.Helper()
	var rs []sops.Recipient
	for _, k := range to {
		rs = append(rs, k.Recipient)
	}
	d, err := sops.Encrypt([]byte(value), rs, options(t, "alice").Now())
	if err != nil {
		t.Fatal(err)
	}
	return string(d.Bytes())
}

func declared(p vars.Placement) []string {
	if p.Machine() == "m1" {
		return []string{"wifi", "wifi.fleet", "openssh"}
	}
	return nil
}

func TestMigrate(t *testing.T) {
	dir := clanTree(t)
	lost := sopstest.NewKey(t)
	host := document(t, "host key", key(t, "m1"), key(t, "alice"))
	write(t, dir, "sops/machines/m1/secrets/openssh.ssh.id_ed25519", host)
	write(t, dir, "sops/machines/m1/secrets/wifi.fleet.password", document(t, "wifi", key(t, "alice"), lost))
	write(t, dir, "sops/machines/m1/facts/openssh.ssh.id_ed25519.pub", "ssh-ed25519 AAAA \n")
	write(t, dir, "sops/machines/m2/secrets/one.token/secret", document(t, "token", key(t, "m2"), key(t, "bob"), key(t, "alice")))
	symlink(t, dir, "sops/machines/m2/secrets/one.token/machines/m2", "../../../../../machines/m2")
	symlink(t, dir, "sops/machines/m2/secrets/one.token/groups/admins", "../../../../../groups/admins")
	write(t, dir, "sops/shared/ca2/key", document(t, "ca", key(t, "bob")))
	write(t, dir, "sops/shared/ca2/key.pub", "public")

	list, err := open(t, dir).Legacy(declared)
	if err != nil || len(list) != 6 {
		t.Fatalf("found %+v, %v", list, err)
	}
	for _, l := range list {
		if l.Err != nil {
			t.Errorf("%s: %v", l.Path, l.Err)
		}
		if l.Path == "sops/machines/m1/secrets/wifi.fleet.password" {
			if v, err := open(t, dir).ReadLegacy(l, options(t, "alice").Identities); err != nil || string(v) != "wifi" || !l.Secret {
				t.Errorf("read before it is migrated: %q, %v", v, err)
			}
		}
	}
	change(t, dir, "carol", func(c *vars.Change) error { // Who can read nothing of it.
		moved, err := c.Migrate(declared)
		if len(moved) != 6 {
			t.Errorf("moved %+v", moved)
		}
		return err
	})
	got := files(t, dir)
	if got["vars/per-machine/m1/openssh/ssh.id_ed25519/secret"] != host {
		t.Error("the document is another one")
	}
	if got["vars/per-machine/m1/openssh/ssh.id_ed25519.pub/value"] != "ssh-ed25519 AAAA \n" || got["vars/shared/ca2/key.pub/value"] != "public" {
		t.Error("public values are not where they should be")
	}
	for p := range got {
		if strings.Contains(p, "/secrets/one") || strings.Contains(p, "/facts") || strings.HasPrefix(p, "sops/shared") || strings.HasPrefix(p, "sops/machines/m1/secrets") {
			t.Errorf("%s is left", p)
		}
	}
	opensFor(t, dir, "vars/per-machine/m1/openssh/ssh.id_ed25519", "alice", "m1")
	opensFor(t, dir, "vars/per-machine/m2/one/token", "alice", "bob", "m2")
	opensFor(t, dir, "vars/shared/ca2/key", "bob")
	found := open(t, dir).Check(nil)
	if len(found) != 1 {
		t.Fatalf("check says %v", found)
	}
	says(t, found[0], "wifi.fleet/password", lost.Public)
	if list, err := open(t, dir).Legacy(declared); err != nil || len(list) > 0 {
		t.Errorf("found again: %+v, %v", list, err)
	}
}

func TestMigrateRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		path, content string
		parts         []string
	}{
		"more than one way":  {"sops/machines/m2/secrets/a.b.c", document(t, "x", key(t, "alice")), []string{"more than one way", "declare it"}},
		"no way":             {"sops/machines/m2/facts/abc", "x", []string{"in none"}},
		"in clear":           {"sops/machines/m2/secrets/a.b", "hunter2", []string{"in clear", "make a new one"}},
		"damaged":            {"sops/shared/a/b", strings.Replace(document(t, "x", key(t, "alice")), "{", "", 1), []string{"history"}},
		"another value":      {"sops/shared/psk/psk", document(t, "x", key(t, "alice")), []string{"another value"}},
		"a file of that dot": {"sops/shared/a/.b", "x", []string{"no dot first"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := clanTree(t)
			write(t, dir, tt.path, tt.content)
			before := files(t, dir)
			_, err := tryChange(t, dir, "alice", func(c *vars.Change) error { _, err := c.Migrate(nil); return err })
			says(t, err, append(tt.parts, tt.path)...)
			if !equal(files(t, dir), before) {
				t.Error("something was written")
			}
		})
	}
	// A link that is refused is refused here, too.
	dir := clanTree(t)
	write(t, dir, "sops/machines/m2/secrets/a.b/secret", document(t, "x", key(t, "alice")))
	symlink(t, dir, "sops/machines/m2/secrets/a.b/users/eve", "../../../../../users/carol")
	_, err := tryChange(t, dir, "alice", func(c *vars.Change) error { _, err := c.Migrate(nil); return err })
	if !errors.Is(err, vars.ErrLink) {
		t.Errorf("got %v", err)
	}
}
