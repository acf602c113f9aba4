package bolt

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// unprivileged runs f as somebody who may not write to others' directories,
// also where the test runs as root.
func unprivileged(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		const nobody = 65534
		if err := unix.Setfsuid(nobody); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

func TestReadOnly(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"directory": func(string) error { return nil },
		"file": func(path string) error {
			s, err := Open(path)
			if err != nil {
				return err
			}
			return errors.Join(s.Close(), os.Chmod(path, 0o444))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "fleet.db")
			if err := errors.Join(make(path), os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o555)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
			unprivileged(t, func() {
				_, err := Open(path)
				if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "must be writable") || !strings.Contains(err.Error(), path) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}
