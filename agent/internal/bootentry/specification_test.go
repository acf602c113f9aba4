package bootentry_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/bootentry"
)

const system = "/nix/store/65gka6fgrlfrrwbhd5ndycs96zs0m946-nixos-system-a"

func write(t *testing.T, entries map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range entries {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFind(t *testing.T) {
	entry := func(init string) string {
		return "title NixOS\nsort-key nixos\nversion Generation 7\nlinux /EFI/nixos/k.efi\ninitrd /EFI/nixos/i.efi\noptions init=" + init + " loglevel=4 panic=10\nmachine-id 1\n"
	}
	for name, c := range map[string]struct {
		entries map[string]string
		want    string
	}{
		"one of many":      {map[string]string{"nixos-generation-1.conf": entry("/other/init"), "nixos-generation-2.conf": entry(system + "/init")}, "nixos-generation-2.conf"},
		"another name":     {map[string]string{"nixos-0a1b2c.conf": entry(system + "/init")}, "nixos-0a1b2c.conf"},
		"tabs and blanks":  {map[string]string{"a.conf": "options\t quiet  init=" + system + "/init\n"}, "a.conf"},
		"options in parts": {map[string]string{"a.conf": "options quiet\noptions init=" + system + "/init"}, "a.conf"},
		"of the same":      {map[string]string{"a.conf": entry(system + "/init"), "b.conf": entry(system + "/init")}, "a.conf"},
		// The loader counts boots in the file's name, and not in the id.
		"tries left":       {map[string]string{"nixos-generation-2+3.conf": entry(system + "/init")}, "nixos-generation-2.conf"},
		"tries done":       {map[string]string{"nixos-generation-2+2-1.conf": entry(system + "/init")}, "nixos-generation-2.conf"},
		"a name with plus": {map[string]string{"nixos+x.conf": entry(system + "/init")}, "nixos+x.conf"},
		// A specialisation's is another system's, and a title proves nothing.
		"a specialisation": {map[string]string{"a.conf": entry(system + "/specialisation/x/init")}, ""},
		"a longer path":    {map[string]string{"a.conf": entry(system + "/init2")}, ""},
		"only named":       {map[string]string{"a.conf": "title init=" + system + "/init\n# options init=" + system + "/init\n"}, ""},
		"no entry":         {map[string]string{"a.txt": entry(system + "/init"), "b.conf": ""}, ""},
		"nothing":          {nil, ""},
		"too large":        {map[string]string{"a.conf": "options init=" + system + "/init" + strings.Repeat(" ", 1<<17)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := bootentry.Specification{Dir: write(t, c.entries)}.Find(system + "/init")
			if got != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, bootentry.ErrNone) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	if _, err := (bootentry.Specification{Dir: filepath.Join(t.TempDir(), "none")}).Find(system + "/init"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestBoots(t *testing.T) {
	entry := func(init string) string { return "options init=" + init + "\n" }
	for name, c := range map[string]struct {
		loader string
		want   bool
	}{
		"its own":         {"timeout 5\ndefault nixos-generation-7.conf\nconsole-mode keep\n", true},
		"without the end": {"default nixos-generation-7", true},
		"a pattern":       {"default nixos-generation-7*", true},
		"another's":       {"default nixos-generation-8.conf\n", false},
		"one that counts": {"default nixos-generation-9.conf\n", true},
		// Which of them the loader takes is not said.
		"of several":       {"default nixos-*\n", false},
		"gone":             {"default nixos-generation-6.conf\n", false},
		"none":             {"timeout 5\n", false},
		"a broken pattern": {"default [\n", false},
		"the last counts":  {"default nixos-generation-7.conf\ndefault nixos-generation-8.conf\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "entries")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for file, text := range map[string]string{
				"entries/nixos-generation-7.conf": entry(system + "/init"), "entries/nixos-generation-8.conf": entry("/other/init"),
				"entries/nixos-generation-9+2-1.conf": entry(system + "/init"), "loader.conf": c.loader,
			} {
				if err := os.WriteFile(filepath.Join(filepath.Dir(dir), file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := (bootentry.Specification{Dir: dir}).Boots(system + "/init"); err != nil || got != c.want {
				t.Errorf("got %t, %v", got, err)
			}
			if _, err := (bootentry.Specification{Dir: dir}).Boots("/third/init"); !errors.Is(err, bootentry.ErrNone) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestFindIsBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range 1001 {
		if err := os.WriteFile(filepath.Join(dir, strings.Repeat("x", 1+i%50)+string(rune('a'+i%26))+strings.Repeat("y", i/50)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (bootentry.Specification{Dir: dir}).Find(system + "/init"); err == nil || !strings.Contains(err.Error(), "more than 1000") {
		t.Errorf("got %v", err)
	}
}

func FuzzFind(f *testing.F) {
	f.Add("title NixOS\noptions init="+system+"/init quiet\n", system+"/init")
	f.Add("options\n", "")
	f.Fuzz(func(t *testing.T, text, init string) {
		id, err := bootentry.Specification{Dir: write(t, map[string]string{"a.conf": text})}.Find(init)
		switch {
		case err == nil && id != "a.conf":
			t.Errorf("found %q", id)
		case err == nil && !strings.Contains(text, "init="+init):
			t.Errorf("found in %q", text)
		case err != nil && !errors.Is(err, bootentry.ErrNone):
			t.Errorf("got %v", err)
		}
	})
}
