package atomicdir_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/atomicdir"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fill makes a directory with so many files that hold text.
func fill(t *testing.T, dir string, files int, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "deep"), 0o700))
	for i := range files {
		must(t, os.WriteFile(filepath.Join(dir, "deep", fmt.Sprint(i)), []byte(text), 0o600))
	}
	must(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
}

func TestPublish(t *testing.T) {
	// Few files are synced one by one, many at once.
	for _, files := range []int{1, 300} {
		top := t.TempDir()
		tmp, dst := filepath.Join(top, "tmp"), filepath.Join(top, "dst")
		for _, text := range []string{"new", "newer"} {
			fill(t, tmp, files, text)
			must(t, atomicdir.Publish(tmp, dst))
			got, err := os.ReadFile(filepath.Join(dst, "deep", "0")) //nolint:gosec // A test's own file.
			must(t, err)
			if string(got) != text {
				t.Errorf("got %q, want %q", got, text)
			}
			entries, err := os.ReadDir(top)
			must(t, err)
			if len(entries) != 1 {
				t.Errorf("left beside: %v", entries)
			}
		}
	}
}

func TestPublishOfNothing(t *testing.T) {
	top := t.TempDir()
	dst := filepath.Join(top, "dst")
	fill(t, dst, 1, "old")
	if err := atomicdir.Publish(filepath.Join(top, "tmp"), dst); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dst, "deep", "0")); err != nil {
		t.Errorf("the old one is gone: %v", err)
	}
}
