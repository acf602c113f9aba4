package bundle

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicdir"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TempPrefix begins the names of what a crash can leave beside unpacked
// bundles; it may be removed while nothing is being unpacked.
const TempPrefix = ".tmp-"

// Unpack reads the canonical tar that src names from r and makes the directory
// dir of it, durable when it returns nil; an older dir is replaced. Where
// anything is wrong, nothing new is left beside or in dir. Progress may be
// nil; it gets bytes done, of src.Size.
func Unpack(ctx context.Context, r io.Reader, dir string, src fleet.BundleSource, limits Limits, progress func(done uint64)) (err error) {
	limits = limits.filled()
	if src.Size > limits.Bytes {
		return fmt.Errorf("unpacking: %w: %d bytes, at most %d are allowed", ErrTooLarge, src.Size, limits.Bytes)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), TempPrefix)
	if err != nil {
		return fmt.Errorf("unpacking: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("unpacking: %w", err), os.RemoveAll(tmp))
		}
	}()
	crashpoint.Hit(crashpoint.BundleUnpack)
	if err := unpackInto(ctx, r, tmp, src, limits, progress); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.BundleUnpacked)
	return atomicdir.Publish(tmp, dir)
}

func unpackInto(ctx context.Context, r io.Reader, tmp string, src fleet.BundleSource, limits Limits, progress func(uint64)) (err error) {
	root, err := os.OpenRoot(tmp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := root.Chmod(".", 0o755); err != nil {
		return err
	}
	in := &exactReader{r: &contextReader{ctx: ctx, r: r}, size: src.Size, sum: sha256.New(), progress: progress}
	// What is accepted is written again in the canonical form beside: where
	// the two digests agree the tar was canonical to the last byte.
	again := &meter{w: io.Discard, limit: src.Size + 1<<20, sum: sha256.New()}
	u := &unpacker{root: root, in: tar.NewReader(in), again: tar.NewWriter(again), tree: newTree(limits), left: src.Size}
	if err := u.entries(); err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, in); err != nil {
		return err
	} else if n > 0 {
		return fmt.Errorf("%w: %d bytes after its end", ErrNotCanonical, n)
	}
	if got := fleet.DigestFromSum([32]byte(in.sum.Sum(nil))); got != src.Digest {
		return fmt.Errorf("%w: %s instead of %s", ErrDigest, got.Short(), src.Digest.Short())
	}
	if err := u.again.Close(); err != nil {
		return err
	}
	if again.digest() != src.Digest {
		return fmt.Errorf("%w: some header or padding is other than Pack writes it", ErrNotCanonical)
	}
	if err := u.tree.finish(); err != nil {
		return err
	}
	// Links come last: nothing is ever written through one.
	for link, target := range u.tree.links {
		if err := root.Symlink(target, link); err != nil {
			return err
		}
	}
	return nil
}

type unpacker struct {
	root  *os.Root
	in    *tar.Reader
	again *tar.Writer
	tree  *tree
	left  uint64 // bytes that files may still have
}

func (u *unpacker) entries() error {
	for {
		h, err := u.in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, tar.ErrHeader):
			return fmt.Errorf("%w: %w", ErrNotCanonical, err)
		case err != nil && !errors.Is(err, tar.ErrInsecurePath): // The tree says it better.
			return truncated(err)
		}
		e, err := u.check(h)
		if err != nil {
			return err
		}
		if err := u.tree.add(e); err != nil {
			return err
		}
		if err := u.again.WriteHeader(e.header()); err != nil {
			return fmt.Errorf("%w: %q: %w", ErrNotCanonical, e.path, err)
		}
		switch e.kind {
		case kindDir:
			if err := u.directory(e); err != nil {
				return err
			}
		case kindFile:
			if err := u.file(e); err != nil {
				return err
			}
		case kindLink:
		}
	}
}

// check takes a header apart and refuses whatever has no place in a bundle.
func (u *unpacker) check(h *tar.Header) (entry, error) {
	e := entry{path: h.Name}
	switch h.Typeflag {
	case tar.TypeReg:
		e.kind, e.size, e.executable = kindFile, h.Size, h.Mode&0o100 != 0
	case tar.TypeDir:
		e.kind, e.path = kindDir, strings.TrimSuffix(h.Name, "/")
	case tar.TypeSymlink:
		e.kind, e.target = kindLink, h.Linkname
	case tar.TypeLink:
		return e, fmt.Errorf("%w: %q is a hard link", ErrType, h.Name)
	case tar.TypeChar, tar.TypeBlock:
		return e, fmt.Errorf("%w: %q is a device file", ErrType, h.Name)
	case tar.TypeFifo:
		return e, fmt.Errorf("%w: %q is a fifo", ErrType, h.Name)
	default:
		return e, fmt.Errorf("%w: %q has type %q", ErrType, h.Name, h.Typeflag)
	}
	want := e.header()
	switch {
	case h.Mode != want.Mode:
		return e, fmt.Errorf("%w: %q has %#o, want %#o", ErrMode, h.Name, h.Mode, want.Mode)
	case !h.ModTime.Equal(want.ModTime) || !h.AccessTime.IsZero() || !h.ChangeTime.IsZero():
		return e, fmt.Errorf("%w: %q has a time", ErrNotCanonical, h.Name)
	case h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "":
		return e, fmt.Errorf("%w: %q has an owner", ErrNotCanonical, h.Name)
	case e.size < 0 || uint64(e.size) > u.left:
		return e, fmt.Errorf("%w: %q says that it has %d bytes, more than the whole tar", ErrTooLarge, h.Name, e.size)
	}
	for key := range h.PAXRecords {
		if key != "path" && key != "linkpath" && key != "size" {
			return e, fmt.Errorf("%w: %q has an attribute %q", ErrNotCanonical, h.Name, key)
		}
	}
	u.left -= uint64(e.size)
	return e, nil
}

func (u *unpacker) directory(e entry) error {
	if err := u.root.Mkdir(e.path, 0o755); err != nil {
		return err
	}
	return u.root.Chmod(e.path, 0o755) // whatever the umask
}

func (u *unpacker) file(e entry) (err error) {
	f, err := u.root.OpenFile(e.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(io.MultiWriter(f, u.again), u.in); err != nil {
		return truncated(err)
	}
	return f.Chmod(e.header().FileInfo().Mode().Perm())
}

// truncated names the end of a tar in the middle of something.
func truncated(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends in the middle of an entry", ErrTruncated)
	}
	return err
}
