package plugin

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// errChanged says that a stored executable is not what was pinned.
var errChanged = errors.New("is not what was signed")

// tempPrefix begins the names of what a crash can leave in a store.
const tempPrefix = ".tmp-"

// store keeps executables by digest, in a directory that is this user's alone.
type store struct{ dir string }

func openStore(dir string) (store, error) {
	s := store{dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s, fmt.Errorf("opening plugins: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // A directory.
		return s, fmt.Errorf("opening plugins: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	if err != nil {
		return s, fmt.Errorf("opening plugins: %w", err)
	}
	for _, f := range left {
		if err := os.Remove(f); err != nil {
			return s, fmt.Errorf("removing what was half stored: %w", err)
		}
	}
	return s, nil
}

func (s store) path(d fleet.Digest) string { return filepath.Join(s.dir, d.Hex()) }

// open returns the executable, read in whole and found to be the pinned one.
// What is executed MUST be this very file, not its name again. The error wraps
// fs.ErrNotExist or errChanged; what has changed is removed, so that it is
// fetched again.
func (s store) open(ref fleet.BlobRef) (_ *os.File, err error) {
	f, err := os.OpenFile(s.path(ref.Digest), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w: a link is in its place", errChanged)
	}
	if err == nil {
		if err = check(f, ref); err != nil {
			_ = f.Close()
		}
	}
	if errors.Is(err, errChanged) {
		return nil, errors.Join(err, os.Remove(s.path(ref.Digest)))
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // It names the file.
	}
	return f, nil
}

func check(f *os.File, ref fleet.BlobRef) error {
	fi, err := f.Stat()
	if err != nil {
		return err //nolint:wrapcheck // It names the file.
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%w: it is no regular file", errChanged)
	case ok && int64(st.Uid) != int64(os.Geteuid()):
		return fmt.Errorf("%w: user %d owns it", errChanged, st.Uid)
	case fi.Mode().Perm() != 0o500:
		return fmt.Errorf("%w: its permissions are %s", errChanged, fi.Mode().Perm())
	case uint64(fi.Size()) != ref.Size: //nolint:gosec // Sizes of files are not negative.
		return fmt.Errorf("%w: it has %d bytes instead of %d", errChanged, fi.Size(), ref.Size)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(f, int64(ref.Size)+1)); err != nil { //nolint:gosec // As large as the file.
		return fmt.Errorf("reading plugin: %w", err)
	}
	if got := fleet.DigestFromSum([sha256.Size]byte(sum.Sum(nil))); got != ref.Digest {
		return fmt.Errorf("%w: its digest is %s", errChanged, got.Short())
	}
	return nil
}

// install copies an executable here; it is durable when install returns nil.
func (s store) install(ref fleet.BlobRef, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("storing plugin: %w", err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.CreateTemp(s.dir, tempPrefix)
	if err != nil {
		return fmt.Errorf("storing plugin: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("storing plugin: %w", errors.Join(err, os.Remove(out.Name())))
		}
	}()
	_, err = io.Copy(out, io.LimitReader(in, int64(ref.Size)+1)) //nolint:gosec // At most fleet.MaxPluginBytes.
	if err = errors.Join(err, out.Chmod(0o500), out.Sync(), out.Close()); err != nil {
		return err
	}
	f, err := os.Open(out.Name())
	if err != nil {
		return err
	}
	if err = errors.Join(check(f, ref), f.Close()); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.PluginInstall)
	if err = os.Rename(out.Name(), s.path(ref.Digest)); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.PluginInstalled)
	return atomicfile.SyncDir(s.dir)
}

// prune removes what is not in keep.
func (s store) prune(keep map[fleet.Digest]bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("pruning plugins: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || keep[fleet.Digest("sha256:"+e.Name())] {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("pruning plugins: %w", err)
		}
	}
	return nil
}
