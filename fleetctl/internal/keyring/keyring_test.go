package keyring

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

var when = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func identity(t *testing.T, path string) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if path != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("# key\n"+id.String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return id
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	flag, env, sopsEnv := identity(t, file("flag")), identity(t, file("env")), identity(t, file("sops-env"))
	sops, own, text := identity(t, file("config/sops/age/keys.txt")), identity(t, file("config/fleet/keys.txt")), identity(t, "")
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("hybrid"), []byte(hybrid.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := map[string]string{"XDG_CONFIG_HOME": file("config")}
	for name, test := range map[string]struct {
		explicit string
		env      map[string]string
		want     []string
	}{
		"flag before all": {file("flag"), map[string]string{"FLEET_AGE_KEY_FILE": file("env"), "SOPS_AGE_KEY": text.String()}, []string{flag.Recipient().String()}},
		"own variable":    {"", map[string]string{"FLEET_AGE_KEY_FILE": file("env"), "SOPS_AGE_KEY": text.String()}, []string{env.Recipient().String()}},
		"sops":            {"", map[string]string{"SOPS_AGE_KEY": text.String(), "SOPS_AGE_KEY_FILE": file("sops-env")}, []string{text.Recipient().String(), sopsEnv.Recipient().String()}},
		"files":           {"", config, []string{sops.Recipient().String(), own.Recipient().String()}},
		"hybrid":          {file("hybrid"), nil, []string{hybrid.Recipient().String()}},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := Load(Places{Explicit: test.explicit, Getenv: func(n string) string {
				if n == "HOME" {
					return t.TempDir()
				}
				return test.env[n]
			}})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(k.Recipients(), " "); got != strings.Join(test.want, " ") {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if len(k.Sources()) != len(test.want) || len(k.Identities()) != len(test.want) {
				t.Errorf("sources %v", k.Sources())
			}
		})
	}
}

func TestLoadFails(t *testing.T) {
	dir := t.TempDir()
	nothing := func(n string) string {
		if n == "XDG_CONFIG_HOME" {
			return dir
		}
		return ""
	}
	if _, err := Load(Places{Getenv: nothing}); !errors.Is(err, ErrNoIdentity) || ui.HintOf(err) == "" {
		t.Errorf("no identity: %v", err)
	}
	if _, err := Load(Places{Explicit: filepath.Join(dir, "none"), Getenv: nothing}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Places{Explicit: bad, Getenv: nothing}); err == nil || ui.HintOf(err) == "" {
		t.Errorf("bad file: %v", err)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	id := identity(t, filepath.Join(dir, "id"))
	k, err := Load(Places{Explicit: filepath.Join(dir, "id"), Getenv: os.Getenv})
	if err != nil {
		t.Fatal(err)
	}
	armored, err := pki.SealKey([]byte("secret"), id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	binary, err := SealBinary([]byte("secret"), id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for _, sealed := range [][]byte{armored, binary} {
		path := filepath.Join(dir, "file.age")
		if err := os.WriteFile(path, sealed, 0o600); err != nil {
			t.Fatal(err)
		}
		if plain, err := k.OpenFile(path); err != nil || string(plain) != "secret" {
			t.Errorf("%q, %v", plain, err)
		}
		if _, err := k.Open(sealed[:len(sealed)-8]); err == nil {
			t.Error("a truncated file was opened")
		}
	}
	other, err := SealBinary([]byte("secret"), identity(t, "").Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Open(other); !errors.Is(err, ErrCannotOpen) || ui.HintOf(err) == "" {
		t.Errorf("somebody else's: %v", err)
	}
	if _, err := k.Open(nil); err == nil {
		t.Error("nothing was opened")
	}
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet", "keys.txt")
	if err := Create(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := Load(Places{Explicit: path, Getenv: os.Getenv}); err != nil {
		t.Error(err)
	}
	if err := Create(path); err == nil {
		t.Error("it was replaced")
	}
}

func TestParseRecipient(t *testing.T) {
	good := identity(t, "").Recipient().String()
	if _, err := ParseRecipients([]string{good, good}); err != nil {
		t.Error(err)
	}
	for _, s := range []string{"", "age1", good + "\n" + good, "# " + good, "ssh-ed25519 AAAA"} {
		if _, err := ParseRecipient(s); err == nil {
			t.Errorf("%q is no recipient", s)
		}
	}
}
