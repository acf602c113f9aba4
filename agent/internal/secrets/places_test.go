package secrets_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func take(t *testing.T, steps []driver.Step) {
	t.Helper()
	for _, s := range steps {
		must(t, atomicfile.Symlink(s.Link.Target, s.Link.Path))
	}
}

func leads(t *testing.T, link, want string) {
	t.Helper()
	if got, _ := os.Readlink(link); got != want {
		t.Errorf("%s leads to %q, want %q", link, got, want)
	}
}

// TestPlaces: links lead to the agent's secrets instead of where others had them, and back;
// a boot's loss is made good, and nobody's directory is touched.
func TestPlaces(t *testing.T) {
	run := t.TempDir()
	scripts := filepath.Join(t.TempDir(), "sops-nix", "activation")
	p := secrets.Places{Run: run, Activation: scripts, Root: "/var/lib/fleet/secrets"}
	at, users := filepath.Join(run, "secrets"), filepath.Join(run, "secrets-for-users")
	must(t, os.Symlink("secrets.d/4", at)) // As sops-nix might have it.
	there, back, err := p.Steps()
	must(t, err)
	take(t, there)
	leads(t, at, p.Root)
	leads(t, users, p.Root+"/for-users")
	leads(t, filepath.Join(run, "user-secrets"), p.Root+"/for-users")
	leads(t, scripts, p.Root+"/activation")
	if again, _, err := p.Steps(); err != nil || len(again) > 0 {
		t.Errorf("links that are there: %v, %v", again, err)
	}
	take(t, back)
	leads(t, at, filepath.Join(run, "secrets.d/4"))
	leads(t, users, "")

	if err := p.Restore(); !errors.Is(err, secrets.ErrTwoOwners) {
		t.Errorf("restored over another's: %v", err)
	}
	leads(t, at, filepath.Join(run, "secrets.d/4"))
	leads(t, users, p.Root+"/for-users")
	must(t, os.Remove(at))
	for range 2 {
		must(t, p.Restore())
		leads(t, at, p.Root)
	}
	must(t, p.Leave())
	if left, err := os.ReadDir(run); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	must(t, os.Mkdir(at, 0o700))
	if _, _, err := p.Steps(); !errors.Is(err, secrets.ErrTwoOwners) || ui.HintOf(err) == "" {
		t.Errorf("a directory of somebody's: %v", err)
	}
	must(t, p.Leave())
	if _, err := os.Stat(at); err != nil {
		t.Error(err)
	}
}

// TestCheckSystem: what sops-nix makes a system install is found in each form that it has.
func TestCheckSystem(t *testing.T) {
	for name, tt := range map[string]struct {
		file, text, link string
		refused          bool
	}{
		"a bundle":              {file: "activate", text: "#!/bin/sh\n"},
		"a script":              {file: "activate", text: "#!/bin/sh\n/nix/store/x-sops-install-secrets-0.0.1/bin/sops-install-secrets /nix/store/m.json\n", refused: true},
		"only a name":           {file: "activate", text: "# no sops-install-secrets any more\n"},
		"a unit":                {file: "etc/systemd/system/sops-install-secrets.service", refused: true},
		"a unit that is masked": {file: "etc/systemd/system/sops-install-secrets.service", link: "/dev/null"},
		"a unit in the store":   {file: "etc/systemd/system/sops-install-secrets.service", link: "/nix/store/u/x.service", refused: true},
		"a Mac's daemon":        {file: "Library/LaunchDaemons/org.nixos.sops-install-secrets.plist", refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, tt.file)
			must(t, os.MkdirAll(filepath.Dir(file), 0o700))
			if tt.link != "" {
				must(t, os.Symlink(tt.link, file))
			} else {
				must(t, os.WriteFile(file, []byte(tt.text), 0o600))
			}
			err := secrets.CheckSystem(dir)
			if errors.Is(err, secrets.ErrTwoOwners) != tt.refused || (err == nil) == tt.refused {
				t.Errorf("%v", err)
			}
			if tt.refused && ui.HintOf(err) == "" {
				t.Error("it does not say what to do")
			}
		})
	}
	must(t, secrets.CheckSystem(""))
	must(t, secrets.CheckSystem(t.TempDir()))
}

// TestKeepKey: systems find the agent's key where they look for it; one that is there is
// left alone.
func TestKeepKey(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	must(t, err)
	file := filepath.Join(t.TempDir(), "sops-nix", "key.txt")
	if err := secrets.KeepKey(file, nil); err == nil {
		t.Error("a file without a key was made")
	}
	must(t, secrets.KeepKey(file, []age.Identity{id}))
	b, err := os.ReadFile(file)
	must(t, err)
	fi, err := os.Stat(file)
	must(t, err)
	if string(b) != id.String()+"\n" || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", fi.Mode().Perm())
	}
	other, err := age.GenerateX25519Identity()
	must(t, err)
	must(t, secrets.KeepKey(file, []age.Identity{other}))
	if b, err := os.ReadFile(file); err != nil || string(b) != id.String()+"\n" {
		t.Error("somebody's key was replaced")
	}
}

// TestAlso: a secret is found at its other paths, and a set that differs in one is put right.
func TestAlso(t *testing.T) {
	v := newVault(t)
	v.add(t, "vars/shared/db/password", "hunter2").Also = []string{"vars/db/password", "db.password"}
	root := filepath.Join(t.TempDir(), "secrets")
	dir, err := v.prepare(t, root, "one")
	must(t, err)
	for _, p := range []string{"vars/db/password", "db.password"} {
		if b, err := os.ReadFile(filepath.Join(dir, p)); err != nil || string(b) != "hunter2" {
			t.Errorf("%s: %q, %v", p, b, err)
		}
	}
	must(t, os.Remove(filepath.Join(dir, "db.password")))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "db.password")))
	dir, err = v.prepare(t, root, "one")
	must(t, err)
	leads(t, filepath.Join(dir, "db.password"), "vars/shared/db/password")

	for _, also := range [][]string{{"vars/shared/db/password"}, {"../x"}, {"/x"}, {"vars/shared/db"}, {"vars/shared/db/password/x"}, {"a", "a"}, {"a", "b", "c", "d", "e"}, {".partial"}} {
		v := newVault(t)
		v.add(t, "vars/shared/db/password", "hunter2").Also = also
		if _, err := v.prepare(t, filepath.Join(t.TempDir(), "secrets"), "one"); !errors.Is(err, secrets.ErrPath) {
			t.Errorf("%q: %v", also, err)
		}
	}
}
