// Package atomicfile replaces files and symbolic links so that after a crash
// or power loss either the old or the new one is there, whole, and reads them
// back within a bound.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

// WriteFile replaces path by a file with data and permissions perm, durable
// when it returns nil. The directory must exist.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return Write(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// Write replaces path by what fill writes. Where fill or anything else fails,
// path is as it was.
func Write(path string, perm os.FileMode, fill func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if err = f.Chmod(perm); err != nil {
		return err
	}
	crashpoint.HitCaller(crashpoint.FileBegin)
	if err = fill(f); err != nil {
		return err
	}
	crashpoint.HitCaller(crashpoint.FileWritten)
	if err = f.Sync(); err != nil {
		return err
	}
	crashpoint.HitCaller(crashpoint.FileSynced)
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	crashpoint.HitCaller(crashpoint.FileRenamed)
	if err = SyncDir(dir); err != nil {
		return err
	}
	crashpoint.HitCaller(crashpoint.FileDone)
	return nil
}

// SyncDir makes the entries of a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // The caller names its own directory.
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir, err)
	}
	return nil
}

// Symlink points the symbolic link at target, replacing an older link
// atomically. An empty target removes the link; a missing one is no error.
// What is there and is no symbolic link is left alone, with an error.
func Symlink(target, link string) error {
	if err := SymlinkLater(target, link); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(link)); err != nil {
		return err
	}
	crashpoint.HitCaller(crashpoint.LinkDone)
	return nil
}

// SymlinkLater is Symlink, but for that it is not durable before SyncDir or Symlink
// was called for the same directory.
func SymlinkLater(target, link string) error {
	switch fi, err := os.Lstat(link); {
	case err == nil && fi.Mode()&os.ModeSymlink == 0:
		return fmt.Errorf("pointing link %s: something that is no symbolic link is there; move it away", link)
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("pointing link %s: %w", link, err)
	}
	crashpoint.HitCaller(crashpoint.LinkBegin)
	if err := replaceLink(target, link); err != nil {
		return err
	}
	crashpoint.HitCaller(crashpoint.LinkRenamed)
	return nil
}

func replaceLink(target, link string) error {
	if target == "" {
		if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing link %s: %w", link, err)
		}
		return nil
	}
	// A fixed temporary name: what a crash leaves behind is replaced next time.
	tmp := filepath.Join(filepath.Dir(link), "."+filepath.Base(link)+".tmp-link")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("pointing link %s: %w", link, err)
	}
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("pointing link %s: %w", link, err)
	}
	crashpoint.HitCaller(crashpoint.LinkMade)
	if err := os.Rename(tmp, link); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("pointing link %s: %w", link, err)
	}
	return nil
}
