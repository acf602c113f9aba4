package nixdriver

import (
	"os"
	"path/filepath"
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
		"a directory":             {"@/etc/nix", nil, false},
		"a machine":               {"ssh://a x86_64-linux", nil, false},
		"a machine among others":  {"@/etc/nix/machines ; ssh://a", nil, false},
		"lines":                   {`@/etc/nix/machines\n# note\n`, nil, true},
		"no such setting":         {"", func(w *world) { w.file("shown", `{"cores":{"value":0}}`) }, false},
		"no JSON":                 {"", func(w *world) { w.file("shown", "builders =") }, false},
		"a nix that fails":        {"", func(w *world) { _ = os.Remove(filepath.Join(w.root, "shown")) }, false},
		"more than any nix says":  {"", func(w *world) { w.file("shown", strings.Repeat(" ", maxConfigBytes+1)+"{}") }, false},
		"a store of a daemon":     {"", func(w *world) { w.t.Setenv("NIX_REMOTE", "daemon") }, false},
		"a store of another's":    {"", func(w *world) { w.t.Setenv("NIX_REMOTE", "ssh://a") }, false},
		"no store of its own":     {"", func(w *world) { _ = os.RemoveAll(filepath.Join(w.root, "nix/var")) }, false},
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
