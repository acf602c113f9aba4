package secrets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"filippo.io/age"
)

// ErrNoMemory says that no file system in memory can be mounted here.
var ErrNoMemory = errors.New("secrets can't be kept in memory alone")

// Restoration is how sets are made that ought to be there.
type Restoration struct {
	// Memory has them in a file system of memory that is never swapped, where that can
	// be mounted; else they are on the disk, which the log says.
	Memory bool
	// Early makes only what is needed before there are users; a restoration after that
	// makes the rest.
	Early bool
	// Open returns ciphertext that is on this host.
	Open Open
	IDs  []age.Identity
	Log  *slog.Logger
}

// Restore makes the sets that are not there, such as after a boot, from what is on this
// host: no network is needed. Where they come to be in memory, all that could be made is
// there at once, and nothing is left on the disk; a set that is on the disk and that
// can't be made anew keeps all of them there. Errors are of single sets: the others are
// there. It MUST NOT run while Prepare or Prune does for the same root.
func (r Restoration) Restore(ctx context.Context, root string, sets []Set) error {
	dir := root + ".d"
	for i := range sets {
		sets[i].early = r.Early
	}
	var errs []error
	switch {
	case !r.Memory:
	case inMemory(dir):
		errs = append(errs, clearBeneath(dir))
	default:
		var failed []error
		err := mountMemory(dir, func(at string) error {
			for _, s := range sets {
				err := s.prepare(ctx, at, r.Open, r.IDs)
				if err != nil && s.isIn(dir) {
					return fmt.Errorf("secrets %s stay on the disk, with the others: %w", s.Digest.Short(), err)
				}
				failed = append(failed, s.failed(err))
			}
			return nil
		})
		if err == nil {
			return errors.Join(failed...)
		}
		if !errors.Is(err, ErrNoMemory) {
			errs = append(errs, err)
			break
		}
		r.Log.Warn("secrets are kept on the disk, readable by their owners", "because", err)
	}
	for _, s := range sets {
		if s.isIn(dir) {
			continue
		}
		errs = append(errs, s.failed(s.prepare(ctx, dir, r.Open, r.IDs)))
	}
	return errors.Join(errs...)
}

// isIn says whether the set is below dir, or as much of it as is to be made.
func (s Set) isIn(dir string) bool {
	path := filepath.Join(dir, s.name())
	if fi, err := os.Stat(path); err != nil || !fi.IsDir() {
		return false
	}
	_, err := os.Lstat(filepath.Join(path, partial))
	return s.early || err != nil
}

func (s Set) failed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("restoring secrets %s: %w", s.Digest.Short(), err)
}

// InMemory says whether what the link at root leads to is in memory.
func InMemory(root string) bool { return inMemory(root + ".d") }
