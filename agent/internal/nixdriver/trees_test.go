package nixdriver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

// TestDamagedTrees: a source that fails because its tree is damaged here is not
// at fault; it is fetched anew and built, or tried again. One that is whole is.
func TestDamagedTrees(t *testing.T) {
	const own, input = "/nix/store/fnrdlmjq00lxfplp4vcs5dppg5mc9aw8-source", "/nix/store/65gka6fgrlfrrwbhd5ndycs96zs0m946-source"
	const broken = "error: syntax error, unexpected end of file at " + input + "/flake.nix:1:1"
	for name, c := range map[string]struct {
		// damaged is the path that nix finds damaged until it is repaired.
		damaged, archive string
		repair           string
		says             string
		final, built     bool
	}{
		"own":              {own, "mkdir -p $4/nix/store/a-source; chmod 500 $4/nix/store/a-source", "touch $ROOT/mended", "", false, true},
		"input":            {input, "", "touch $ROOT/mended", "", false, true},
		"gone":             {own, "", "touch $ROOT/mended", "", false, true},
		"whole":            {"/nix/store/other", "", "exit 7", "unexpected end of file", true, false},
		"can't be fetched": {own, "echo 'error: unable to download' >&2; exit 1", "exit 7", "damaged on this host: nix flake ended with exit code 1: error: unable to download", false, false},
		"can't be mended":  {own, "", "echo 'error: no' >&2; exit 1", "damaged on this host", false, false},
		"is not mended":    {own, "", "exit 0", own + " is still damaged", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "")
			script := "ROOT=" + w.root + `
case "$1 $2" in
"store verify") [ -e $ROOT/mended ] || [ -e $ROOT$4 ] || { echo "error: opening file '$4': No such file or directory" >&2; exit 1; }
  [ -e $ROOT/mended ] || [ $4 != ` + c.damaged + ` ] || { echo "path '$4' was modified! expected hash 'x', got 'y'" >&2; exit 1; };;
"flake archive") ` + c.archive + `
;;
build*) [ -e $ROOT/mended ] || { echo "` + broken + `" >&2; exit 1; }; echo ` + good + `;;
esac`
			w.program("bin/nix", "previous=\nfor arg in \"$@\"; do [ \"$previous\" = --out-link ] && ln -sfn "+good+" $arg; previous=$arg; done\n"+script)
			w.program("bin/nix-store", "ROOT="+w.root+"\ncase $1 in --print-fixed-path) echo "+own+";; --check-validity) case $2 in *-source) ;; *) exit 1;; esac;; --repair-path) "+c.repair+";; esac")
			for _, tree := range []string{own, input} {
				if name == "gone" && tree == c.damaged {
					continue // Nix still has it in its database.
				}
				if err := os.MkdirAll(filepath.Join(w.root, tree), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			// What a crash left does not stand in the way.
			left := filepath.Join(w.root, treesDir, "left")
			if err := errors.Join(os.MkdirAll(left, 0o755), os.Chmod(left, 0o500)); err != nil {
				t.Fatal(err)
			}
			path, err := NewNixOS(w.config()).Build(t.Context(), flake(unpinned), nil)
			if c.built != (err == nil && path == good) || errors.Is(err, driver.ErrSource) != c.final || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s, %v", path, err)
			}
			if _, err := os.Lstat(filepath.Join(w.root, treesDir)); name != "whole" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the store of trees is left: %v", err)
			}
		})
	}
}
