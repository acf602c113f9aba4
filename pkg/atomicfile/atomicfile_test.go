package atomicfile_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReadAtMost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if _, err := atomicfile.ReadAtMost(path, 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("four"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := atomicfile.ReadAtMost(path, 4); err != nil || string(b) != "four" {
		t.Errorf("got %q, %v", b, err)
	}
	for what, f := range map[string]func() ([]byte, error){
		"a larger file": func() ([]byte, error) { return atomicfile.ReadAtMost(path, 3) },
		"a directory":   func() ([]byte, error) { return atomicfile.ReadAtMost(filepath.Dir(path), 4) },
	} {
		if b, err := f(); err == nil || b != nil || !strings.Contains(err.Error(), filepath.Dir(path)) {
			t.Errorf("%s: got %q, %v", what, b, err)
		}
	}
}

// only fails where dir holds anything but the names.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("the directory holds %q, want %q", got, names)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, tt := range []struct {
		data string
		perm fs.FileMode
	}{{"one", 0o600}, {"", 0o644}, {strings.Repeat("long", 100_000), 0o400}, {"after a read-only one", 0o755}} {
		if err := atomicfile.WriteFile(path, []byte(tt.data), tt.perm); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != tt.data {
			t.Errorf("got %d bytes, want %d", len(got), len(tt.data))
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != tt.perm {
			t.Errorf("got mode %v, want %v whatever the umask", fi.Mode(), tt.perm)
		}
		only(t, dir, "f")
	}
}

func TestWriteThatFailsLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := atomicfile.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	errFill := errors.New("the disk is full")
	err := atomicfile.Write(path, 0o600, func(w io.Writer) error {
		if _, err := io.WriteString(w, "half of the n"); err != nil {
			return err
		}
		return errFill
	})
	if !errors.Is(err, errFill) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want the cause and the path", err)
	}
	if got := read(t, path); got != "old" {
		t.Errorf("the file holds %q", got)
	}
	only(t, dir, "f")
}

func TestOldFileStaysWhileWriting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := atomicfile.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := atomicfile.Write(path, 0o600, func(w io.Writer) error {
		if _, err := io.WriteString(w, "new"); err != nil {
			return err
		}
		if got := read(t, path); got != "old" {
			t.Errorf("before the end of writing the file holds %q", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, path); got != "new" {
		t.Errorf("the file holds %q", got)
	}
}

func TestWriteErrors(t *testing.T) {
	dir := t.TempDir()
	if err := atomicfile.WriteFile(filepath.Join(dir, "absent", "f"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent directory: got %v", err)
	}
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "inner"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.WriteFile(full, []byte("x"), 0o600); err == nil {
		t.Error("replaced a directory")
	}
	only(t, dir, "full")
}

// A writer that died leaves a temporary file behind: it must neither stand in
// the way of the next writer nor be taken for the file.
func TestCrashLeftover(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	left := filepath.Join(dir, ".f.tmp-123456")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	if err := atomicfile.WriteFile(path, []byte("whole"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path); got != "whole" {
		t.Errorf("the file holds %q", got)
	}
}

func TestWriteReplacesALinkNotItsTarget(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.WriteFile(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, target); got != "precious" {
		t.Errorf("wrote through the link: %q", got)
	}
	if got := read(t, link); got != "new" {
		t.Errorf("got %q", got)
	}
}

func TestConcurrentWritersLeaveOneWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			data := bytes.Repeat([]byte{byte('a' + i)}, 10_000)
			if err := atomicfile.WriteFile(path, data, 0o600); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := read(t, path)
	if len(got) != 10_000 || strings.Trim(got, got[:1]) != "" {
		t.Errorf("got %d bytes of several writers", len(got))
	}
	only(t, dir, "f")
}

func TestSymlink(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "current")
	for _, target := range []string{"store/a", "store/b", "store/b", "../outside and dangling"} {
		if err := atomicfile.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(link); err != nil || got != target {
			t.Fatalf("got %q, %v, want %q", got, err, target)
		}
		only(t, dir, "current")
	}
	for range 2 { // the second time nothing is there
		if err := atomicfile.Symlink("", link); err != nil {
			t.Fatal(err)
		}
		only(t, dir)
	}
}

func TestSymlinkSparesWhatIsNoLink(t *testing.T) {
	dir := t.TempDir()
	file, sub := filepath.Join(dir, "file"), filepath.Join(dir, "sub")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, sub} {
		for _, target := range []string{"elsewhere", ""} {
			if err := atomicfile.Symlink(target, path); err == nil || !strings.Contains(err.Error(), "move it away") {
				t.Errorf("Symlink(%q, %s): got %v, want a refusal that says what to do", target, filepath.Base(path), err)
			}
		}
	}
	only(t, dir, "file", "sub")
	if got := read(t, file); got != "precious" {
		t.Errorf("the file holds %q", got)
	}
}

func TestSymlinkOverCrashLeftover(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "current")
	if err := os.Symlink("half done", filepath.Join(dir, ".current.tmp-link")); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Symlink("new", link); err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink(link); err != nil || got != "new" {
		t.Errorf("got %q, %v", got, err)
	}
	only(t, dir, "current")
}

func TestSymlinkErrors(t *testing.T) {
	dir := t.TempDir()
	if err := atomicfile.Symlink("x", filepath.Join(dir, "absent", "link")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent directory: got %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Symlink("x", filepath.Join(file, "link")); err == nil {
		t.Error("made a link below a file")
	}
	if err := atomicfile.SyncDir(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncDir: got %v", err)
	}
}
