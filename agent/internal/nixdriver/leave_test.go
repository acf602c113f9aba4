package nixdriver

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestLeave runs the script: of a home only links that lead into the generation go.
func TestLeave(t *testing.T) {
	for name, tt := range map[string]struct {
		last bool
		left []string
	}{
		"another one follows": {left: []string{".local/state/home-manager/gcroots/current-home", "profiles/home-manager", "profiles/home-manager-1-link", "profiles/home-manager-2-link"}},
		"none follows":        {last: true, left: []string{"profiles/home-manager-1-link"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, root: t.TempDir()}
			const gen = "/store/gen"
			files := w.root + "/store/files"
			for _, file := range []string{".profile", ".config/a b/c", ".config/odd'$name", ".config/own", ".changed"} {
				w.text("/store/files/"+file, "x")
			}
			w.raw("/store/files/.linked", "/etc/hosts")
			w.raw(gen+"/home-files", files)
			for _, file := range []string{".profile", ".config/a b/c", ".config/odd'$name", ".linked"} {
				w.raw("/home/"+file, files+"/"+file)
			}
			w.text("/home/.config/own", "the user's")
			w.raw("/home/.changed", "elsewhere")
			w.raw("/home/"+homeCurrent, w.root+gen)
			w.raw("/home/profiles/home-manager-1-link", "/store/other")
			w.raw("/home/profiles/home-manager-2-link", w.root+gen)
			w.raw("/home/profiles/home-manager", "home-manager-2-link")
			args := []string{"-c", leave, "leave", w.root + gen, ""}
			if tt.last {
				args[4] = w.root + "/home/profiles/home-manager"
			}
			for range 2 {
				cmd := exec.CommandContext(t.Context(), "/bin/sh", args...)
				cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + w.root + "/home"}
				out, err := cmd.CombinedOutput()
				if err != nil || strings.Contains(string(out), "left as they are") != tt.last || strings.Contains(string(out), "left: ") {
					t.Fatalf("%v: %s", err, out)
				}
			}
			var left []string
			if err := filepath.WalkDir(w.root+"/home", func(path string, e os.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					left = append(left, strings.TrimPrefix(path, w.root+"/home/"))
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			want := append([]string{".changed", ".config/own"}, tt.left...)
			slices.Sort(want)
			slices.Sort(left)
			if !slices.Equal(left, want) {
				t.Errorf("left %q, want %q", left, want)
			}
		})
	}
}
