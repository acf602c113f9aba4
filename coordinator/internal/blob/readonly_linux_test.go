package blob

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

// TestReadOnly tries as somebody who may not write there, also where the test
// runs as root.
func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o555)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o755) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if os.Geteuid() == 0 {
			const nobody = 65534
			if err := unix.Setfsuid(nobody); err != nil {
				t.Error(err)
				return
			}
		}
		_, err := Open(filepath.Join(dir, "blobs"), Options{})
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "must be writable") {
			t.Errorf("got %v", err)
		}
	}()
	<-done
}
