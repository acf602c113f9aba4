package fleetctl

import (
	"strings"
	"testing"

	"filippo.io/age"
)

// TestSecretsPeople: users, machines and groups are shown and changed, and what they read
// goes with it.
func TestSecretsPeople(t *testing.T) {
	w := newRotateWorld(t)
	w.commitAll()
	key := func() string {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		return id.Recipient().String()
	}
	first, second := key(), key()
	const ssh = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdO9rInDa9HvdtZZxmkgeEdAlTupCy3BgA/sqSGyUH+"
	w.ok("secrets", "users", "add", "dana", first)
	w.ok("secrets", "groups", "add-user", "ops", "dana")
	w.ok("secrets", "groups", "add-machine", "ops", "box1")
	w.ok("vars", "reader", "add", "box1", "wifi/password", "group:ops")
	w.ok("secrets", "users", "add-key", "dana", second, ssh)
	got := w.ok("secrets", "users", "get", "dana")
	for _, line := range []string{"key " + first, "key " + second, "key " + ssh, "group ops", "reads vars/shared/wifi/password"} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("no %q in\n%s", line, got)
		}
	}
	if got := w.ok("secrets", "groups", "list"); !strings.Contains(got, "ops   machine box1, user dana") {
		t.Errorf("groups\n%s", got)
	}
	if got := w.ok("secrets", "users", "list"); !strings.Contains(got, "dana  3 keys  ops     1 secret") {
		t.Errorf("users\n%s", got)
	}
	if got := w.ok("secrets", "machines", "list", "-o", "json"); !strings.Contains(got, `"name": "box2"`) {
		t.Errorf("machines\n%s", got)
	}
	w.ok("vars", "check")

	if got := w.ok("secrets", "users", "remove-key", "dana", ssh); !strings.Contains(got, "make a new value") {
		t.Errorf("a key less\n%s", got)
	}
	w.fails(exitError, "has no key", "secrets", "users", "remove-key", "dana", ssh)
	w.fails(exitError, "the last key", "secrets", "users", "remove-key", "dana", first, second)
	w.fails(exitError, "box1", "secrets", "users", "add-key", "box1", first)
	w.fails(exitUsage, "private key", "secrets", "users", "add", "eve", "AGE-SECRET-KEY-1X")
	w.fails(exitUsage, "", "secrets", "users", "add", "../eve", first)
	w.fails(exitError, "secrets machines list", "secrets", "machines", "get", "nobody")
	w.fails(exitError, "", "secrets", "groups", "add-user", "ops", "nobody")

	if got := w.ok("secrets", "users", "remove", "dana"); !strings.Contains(got, "wifi/password is known to user dana") {
		t.Errorf("removed\n%s", got)
	}
	w.ok("vars", "check")
	if status := w.git("status", "--porcelain"); status != "" {
		t.Errorf("not committed\n%s", status)
	}
}
