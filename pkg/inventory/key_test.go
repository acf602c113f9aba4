package inventory_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

const recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"

func TestParseMachineKey(t *testing.T) {
	for _, c := range []struct {
		name, data string
		want, err  string
	}{
		{"list", "[\n  {\n    \"publickey\": \"" + recipient + "\",\n    \"type\": \"age\"\n  }\n]", recipient, ""},
		{"trailing newlines", `[{"publickey":"` + recipient + `","type":"age"}]` + "\n\n", recipient, ""},
		{"object", ` {"publickey":"` + recipient + `","type":"AGE"}` + "\n", recipient, ""},
		{"none", `[]`, "", "invalid value: 0 keys: a machine has exactly one"},
		{"two", `[{"publickey":"` + recipient + `","type":"age"},{"publickey":"` + recipient + `","type":"age"}]`, "", "invalid value: 2 keys: a machine has exactly one"},
		{"pgp", `[{"publickey":"ABCD","type":"pgp"}]`, "", `invalid value: type "pgp": only age keys are supported`},
		{"no key", `[{"publickey":"AGE-SECRET-KEY-1","type":"age"}]`, "", `invalid value: "AGE-SECRET-KEY-1" is no age recipient`},
		{"two lines", `[{"publickey":"` + recipient + `\n","type":"age"}]`, "", "invalid value: a recipient of several lines"},
		{"duplicate", `{"publickey":"a","publickey":"` + recipient + `","type":"age"}`, "", `line 1: duplicate key "publickey"`},
		{"truncated", `[{"publickey"`, "", "line 1: the document ends too early: not valid JSON"},
		{"empty", ``, "", "line 1: the document ends too early: not valid JSON"},
		{"huge", strings.Repeat(" ", 70_000), "", "too large: 70000 bytes, at most 65536 are read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := inventory.ParseMachineKey([]byte(c.data))
			text := ""
			if err != nil {
				text = err.Error()
			}
			if got != c.want || text != c.err {
				t.Errorf("got %q, %q; want %q, %q", got, text, c.want, c.err)
			}
		})
	}
}

func TestMachineKey(t *testing.T) {
	dir := t.TempDir()
	put := func(path, data string) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key := `[{"publickey":"` + recipient + `","type":"age"}]`
	put("fleet/sops/machines/m1/key.json", key)
	put("fleet/sops/machines/broken/key.json", "[")
	put("outside/key.json", key)
	if err := os.Symlink("../../../outside", filepath.Join(dir, "fleet/sops/machines/out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("m1", filepath.Join(dir, "fleet/sops/machines/same")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "fleet/sops/machines/odd/key.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	fleetDir := filepath.Join(dir, "fleet")
	for _, name := range []fleet.MachineName{"m1", "same"} {
		if got, err := inventory.MachineKey(fleetDir, name); err != nil || got != recipient {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []fleet.MachineName{"broken", "out", "odd", "../m1", "M1", ""} {
		if got, err := inventory.MachineKey(fleetDir, name); err == nil || errors.Is(err, inventory.ErrNoKey) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := inventory.MachineKey(fleetDir, "absent"); !errors.Is(err, inventory.ErrNoKey) {
		t.Errorf("absent: %v", err)
	}
}

func TestParseRecipient(t *testing.T) {
	for _, good := range []string{
		recipient,
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdO9rInDa9HvdtZZxmkgeEdAlTupCy3BgA/sqSGyUH+ root@box1",
	} {
		if _, err := inventory.ParseRecipient(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "age1", strings.ToUpper(recipient), "ssh-ed25519 AAAA", recipient + "\n" + recipient, "# comment"} {
		if _, err := inventory.ParseRecipient(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
