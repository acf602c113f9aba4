// Package atomicdir puts whole directories in place so that after a crash or
// power loss either nothing, the old or the new one is there, whole.
package atomicdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

// syncEach is up to how many entries each is synced by itself; above, the
// whole file system at once is cheaper where the system can.
const syncEach = 128

// Publish makes the directory tmp durable and renames it to dst, which is on
// the same file system. An older dst is swapped for it and removed.
func Publish(tmp, dst string) error {
	crashpoint.HitCaller(crashpoint.DirBegin)
	if err := Sync(tmp); err != nil {
		return err
	}
	crashpoint.HitCaller(crashpoint.DirSynced)
	if _, err := os.Lstat(dst); err == nil {
		if err := exchange(tmp, dst); err != nil {
			return fmt.Errorf("replacing %s: %w", dst, err)
		}
		crashpoint.HitCaller(crashpoint.DirSwapped)
		if err := atomicfile.SyncDir(filepath.Dir(dst)); err != nil {
			return err
		}
		crashpoint.HitCaller(crashpoint.DirDone)
		return os.RemoveAll(tmp)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replacing %s: %w", dst, err)
	}
	if err := os.Rename(tmp, dst); err != nil {
		return fmt.Errorf("putting %s in place: %w", dst, err)
	}
	crashpoint.HitCaller(crashpoint.DirRenamed)
	if err := atomicfile.SyncDir(filepath.Dir(dst)); err != nil {
		return err
	}
	crashpoint.HitCaller(crashpoint.DirDone)
	return nil
}

// Sync makes all regular files and directories below dir durable.
func Sync(dir string) error {
	var files, dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			dirs = append(dirs, path)
		case d.Type().IsRegular():
			files = append(files, path)
		}
		if len(files)+len(dirs) > syncEach && canSyncAll {
			return filepath.SkipAll
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	if len(files)+len(dirs) > syncEach && canSyncAll {
		return syncAll(dir)
	}
	for _, path := range append(files, dirs...) {
		if err := syncOne(path); err != nil {
			return fmt.Errorf("syncing %s: %w", path, err)
		}
	}
	return nil
}

func syncOne(path string) error {
	f, err := os.Open(path) //nolint:gosec // The caller names its own directory.
	if err != nil {
		return err
	}
	err = f.Sync()
	return errors.Join(err, f.Close())
}

// exchangeByTwo swaps with a moment in which dst is missing.
func exchangeByTwo(tmp, dst string) error {
	old := tmp + ".old"
	if err := os.Rename(dst, old); err != nil {
		return err
	}
	if err := os.Rename(tmp, dst); err != nil {
		return errors.Join(err, os.Rename(old, dst))
	}
	return os.Rename(old, tmp)
}
