package publisher

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/bundle"
)

// TestPackedHasNoName: what is packed for an upload never has a name in the
// temporary directory, so that a publish that is killed leaves nothing there.
func TestPackedHasNoName(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "activate"), []byte("#!/bin/sh\n"), 0o700); err != nil { //nolint:gosec // An executable.
		t.Fatal(err)
	}
	src, err := bundle.Digest(dir)
	if err != nil {
		t.Fatal(err)
	}
	// A tmpfs: not every file system knows such files.
	tmp, err := os.MkdirTemp("/dev/shm", "fleetctl-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(tmp); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", tmp)
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch) //nolint:errcheck // Only read.
	if _, err := unix.InotifyAddWatch(watch, tmp, unix.IN_CREATE|unix.IN_DELETE); err != nil {
		t.Fatal(err)
	}
	created := func() bool {
		n, err := unix.Read(watch, make([]byte, 4096))
		if err != nil && err != unix.EAGAIN { //nolint:errorlint // What read returns.
			t.Fatal(err)
		}
		return n > 0
	}

	packed, err := openPacked(dir, src, bundle.Pack)
	if err != nil {
		t.Fatal(err)
	}
	if created() {
		t.Error("it had a name")
	}
	if got, err := io.ReadAll(io.NewSectionReader(packed, 0, int64(src.Size)+1)); err != nil || uint64(len(got)) != src.Size {
		t.Errorf("%d bytes of %d, %v", len(got), src.Size, err)
	}
	if err := packed.Close(); err != nil {
		t.Error(err)
	}

	// Where the file system can't, a name is there for a moment only.
	f, err := unnamed(tmp)
	if err != nil {
		t.Fatal(err)
	}
	if !created() {
		t.Error("a file with a name does not show in this test")
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := nameless(filepath.Join(tmp, "none")); !os.IsNotExist(err) {
		t.Errorf("no directory: %v", err)
	}
}
