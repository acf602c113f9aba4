package nixdriver

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// hookWorld has a nix that prints its configuration, and a root's state directory.
func hookWorld(t *testing.T, builders string) *world {
	t.Helper()
	for _, name := range []string{"NIX_REMOTE", "NIX_CONF_DIR", "NIX_USER_CONF_FILES", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"} {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", "/root")
	w := newWorld(t, `case "$1" in
config|show-config) cat `+"$(dirname $0)/../shown"+` ;;
*) echo `+good+` ;;
esac`)
	w.file("shown", `{"build-dir":{"value":null},"builders":{"value":"`+builders+`"}}`)
	w.file("etc/nix/nix.conf", "# none\n!include custom.conf\n")
	return w
}

func (w *world) file(name, text string) {
	w.t.Helper()
	file := filepath.Join(w.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// TestHookless: the build hook is left out where nobody else could build, and
// nowhere else.
func TestHookless(t *testing.T) {
	for name, c := range map[string]struct {
		builders string
		change   func(*world)
		left     bool
	}{
		"none":                    {"", nil, true},
		"a file that isn't there": {"@/etc/nix/machines", nil, true},
		"an empty file":           {"@/etc/nix/machines", func(w *world) { w.file("etc/nix/machines", "\n  # ssh://old\n\n") }, true},
		"a file with a machine":   {"@/etc/nix/machines", func(w *world) { w.file("etc/nix/machines", "# mine\nssh://a x86_64-linux\n") }, false},
		"a machine far below": {"@/etc/nix/machines", func(w *world) {
			w.file("etc/nix/machines", strings.Repeat("#\n", maxConfigBytes/2)+"ssh://a\n")
		}, false},
		"a directory":            {"@/etc/nix", nil, false},
		"a machine":              {"ssh://a x86_64-linux", nil, false},
		"a machine among others": {"@/etc/nix/machines ; ssh://a", nil, false},
		"lines":                  {`@/etc/nix/machines\n# note\n`, nil, true},
		"no such setting":        {"", func(w *world) { w.file("shown", `{"cores":{"value":0}}`) }, false},
		"no text":                {"", func(w *world) { w.file("shown", `{"builders":{"value":null}}`) }, false},
		"no value":               {"", func(w *world) { w.file("shown", `{"builders":null}`) }, false},
		"a list":                 {"", func(w *world) { w.file("shown", `{"builders":{"value":[]}}`) }, false},
		"no JSON":                {"", func(w *world) { w.file("shown", "builders =") }, false},
		"a nix that fails":       {"", func(w *world) { _ = os.Remove(filepath.Join(w.root, "shown")) }, false},
		"more than any nix says": {"", func(w *world) { w.file("shown", strings.Repeat(" ", maxConfigBytes+1)+"{}") }, false},
		"a store of a daemon":    {"", func(w *world) { w.t.Setenv("NIX_REMOTE", "daemon") }, false},
		"a store of another's":   {"", func(w *world) { w.t.Setenv("NIX_REMOTE", "ssh://a") }, false},
		"no store of its own":    {"", func(w *world) { _ = os.RemoveAll(filepath.Join(w.root, "nix/var")) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := hookWorld(t, c.builders)
			if c.change != nil {
				c.change(w)
			}
			d := NewNixOS(w.config())
			if got := d.hookless(t.Context()); (len(got) != 0) != c.left {
				t.Errorf("options %q", got)
			}
		})
	}
}

// TestHookIsAskedAgain: only what the configuration's files say now counts, and
// nix is asked again only where they changed.
func TestHookIsAskedAgain(t *testing.T) {
	w := hookWorld(t, "@/etc/nix/machines")
	d := NewNixOS(w.config())
	check := func(left bool, asked int) {
		t.Helper()
		if got := d.hookless(t.Context()); (len(got) != 0) != left {
			t.Errorf("options %q", got)
		}
		if n := strings.Count(w.calls(), "config"); n != asked {
			t.Errorf("nix was asked %d times, want %d", n, asked)
		}
	}
	check(true, 1)
	check(true, 1)
	w.file("etc/nix/machines", "ssh://a\n")
	check(false, 1)
	if err := os.Remove(filepath.Join(w.root, "etc/nix/machines")); err != nil {
		t.Fatal(err)
	}
	check(true, 1)
	for i, name := range []string{"etc/nix/custom.conf", "root/.config/nix/nix.conf", "etc/xdg/nix/nix.conf"} {
		w.file("shown", `{"builders":{"value":"ssh://a"}}`)
		w.file(name, "builders = ssh://a\n")
		check(false, 2+2*i)
		w.file("shown", `{"builders":{"value":""}}`)
		if err := os.Chtimes(filepath.Join(w.root, name), time.Time{}, time.Unix(int64(i), 0)); err != nil {
			t.Fatal(err)
		}
		check(true, 3+2*i)
	}
	// A link that leads to another file of the store.
	w.file("nix/store/a-nix.conf", "#\n")
	w.file("nix/store/b-nix.conf", "#\n")
	for i, name := range []string{"nix/store/a-nix.conf", "nix/store/b-nix.conf"} {
		if err := os.Chtimes(filepath.Join(w.root, name), time.Time{}, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		w.link("etc/nix/nix.conf", name)
		check(true, 8+i)
	}
	// A file that includes itself ends.
	w.file("nix/store/b-nix.conf", "include nix.conf\ninclude nix.conf\n")
	check(true, 10)
	if n := strings.Count(d.configStamp(), "\n"); n != maxConfigFiles {
		t.Errorf("%d files", n)
	}
}

func TestBuildWithoutHook(t *testing.T) {
	w := hookWorld(t, "")
	if _, err := NewNixOS(w.config()).Build(t.Context(), flake(unpinned), nil); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.calls(), "--option build-hook  --pure-eval --expr") {
		t.Errorf("called %s", w.calls())
	}
}

// FuzzBuilders: the build hook is left out only where nix says that it has no
// machines, in its own words and in a file that they name.
func FuzzBuilders(f *testing.F) {
	root := f.TempDir()
	const file = "/machines"
	b := &base{config: Config{Root: root}}
	f.Add([]byte(`{"build-dir":{"value":null},"builders":{"value":"","defaultValue":"@/machines"}}`), []byte(nil))
	f.Add([]byte(`{"builders":{"value":"@/machines ; # none\n"}}`), []byte("# ssh://old\n\n"))
	f.Add([]byte(`{"builders":{"value":"@/machines"}}`), []byte("ssh://a x86_64-linux\n"))
	f.Add([]byte(`{"builders":{"value":"ssh://a x86_64-linux - 4; ssh://b"}}`), []byte(nil))
	f.Add([]byte(`{"builders":{"value":null}}`), []byte("\v"))
	f.Add([]byte(`{"builders":{"value":"\u00a0"}}`), []byte(nil))
	f.Fuzz(func(t *testing.T, shown, machines []byte) {
		setting, known := decodeBuilders(shown)
		if known && !json.Valid(shown) {
			t.Errorf("%q is read out of no JSON", setting)
		}
		if err := os.WriteFile(filepath.Join(root, file), machines, 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Remove(filepath.Join(root, file)) }()
		if !known || !b.noMachines(setting) {
			return
		}
		for _, one := range machinesOf(setting) {
			switch {
			case !strings.HasPrefix(one, "@"):
				t.Errorf("%q has the machine %q", setting, one)
			case one == "@"+file && len(machinesOf(string(machines))) > 0:
				t.Errorf("%q has the machines %q", setting, machinesOf(string(machines)))
			}
		}
	})
}

// machinesOf are machines and files of machines as Nix has them: comments end
// with their line, the others with it or a semicolon.
func machinesOf(text string) (all []string) {
	for line := range strings.SplitSeq(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		for one := range strings.SplitSeq(line, ";") {
			if one = strings.Trim(one, " \t\r"); one != "" {
				all = append(all, one)
			}
		}
	}
	return all
}

// FuzzOSRelease: NixOS is what says so in a line of its own.
func FuzzOSRelease(f *testing.F) {
	root := f.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o700); err != nil {
		f.Fatal(err)
	}
	file := filepath.Join(root, "etc/os-release")
	f.Add([]byte("ANSI_COLOR=\"0;38;2;126;186;228\"\nID=nixos\nID_LIKE=\"\"\nNAME=NixOS\n"))
	f.Add([]byte("PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=debian\nHOME_URL=\"https://www.debian.org/\"\n"))
	f.Add([]byte("  ID='nixos'\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Remove(file) }()
		says := regexp.MustCompile(`(?m)^\s*ID=["']*nixos["']*\s*$`).Match(data)
		if got := osRelease(file)["ID"] == "nixos"; got && !says {
			t.Errorf("%q is NixOS", data)
		}
	})
}
