package journal

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// asNobody runs f on a thread without root's power over files.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if os.Getuid() == 0 {
			if _, err := unix.SetfsuidRetUid(65534); err != nil {
				done <- err
				return
			}
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestReadOnlyDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	appendAll(t, j, adopt(0))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for _, d := range []string{dir, empty} {
		if err := os.Chmod(d, 0o500); err != nil { //nolint:gosec // The point of the test.
			t.Fatal(err)
		}
		asNobody(t, func() {
			_, err := Open(d, Options{})
			if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "can't be written: mount it read-write") ||
				!strings.Contains(err.Error(), d) {
				t.Errorf("got %v", err)
			}
		})
	}
}
