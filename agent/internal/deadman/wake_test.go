package deadman

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWakeWhileItGoes: a process that ends while it is woken isn't there, and is
// no error.
func TestWakeWhileItGoes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileWake)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) //nolint:gosec // In the test's directory.
			if err == nil {
				err = f.Close()
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	for range 20000 {
		if _, err := wake(dir); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
