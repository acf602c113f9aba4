package atomicdir

import (
	"os"
	"path/filepath"
	"testing"
)

// TestExchange tries the way of systems that cannot swap in one step beside
// the one of this system.
func TestExchange(t *testing.T) {
	for name, swap := range map[string]func(tmp, dst string) error{"native": exchange, "two renames": exchangeByTwo} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			tmp, dst := filepath.Join(top, "tmp"), filepath.Join(top, "dst")
			for _, dir := range []string{tmp, dst} {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Base(dir)), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := swap(tmp, dst); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{filepath.Join(dst, "tmp"), filepath.Join(tmp, "dst")} {
				if _, err := os.Stat(path); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
