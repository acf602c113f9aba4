package bundle

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Pack writes the canonical tar of the directory dir to w and returns its
// digest and its size in bytes. Permissions are taken down to executable or
// not; what a bundle cannot hold is an error that names it.
func Pack(dir string, w io.Writer) (fleet.BundleSource, error) {
	src, err := pack(context.Background(), dir, w, DefaultLimits(), false)
	if err != nil {
		return fleet.BundleSource{}, fmt.Errorf("packing %s: %w", dir, err)
	}
	return src, nil
}

// PackFiles is Pack for the files of a plugin's source: see Limits.Plain.
func PackFiles(dir string, w io.Writer) (fleet.BundleSource, error) {
	limits := DefaultLimits()
	limits.Plain = true
	src, err := pack(context.Background(), dir, w, limits, false)
	if err != nil {
		return fleet.BundleSource{}, fmt.Errorf("packing %s: %w", dir, err)
	}
	return src, nil
}

// Digest is Pack without the tar.
func Digest(dir string) (fleet.BundleSource, error) { return Pack(dir, io.Discard) }

// Verify reads all of an unpacked bundle and compares it with the digest of
// its tar: content, names, types and permissions. The error wraps ErrDamaged
// where they differ.
func Verify(ctx context.Context, dir string, want fleet.Digest, limits Limits) error {
	src, err := pack(ctx, dir, io.Discard, limits, true)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("verifying %s: %w", dir, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("verifying %s: %w: %w", dir, ErrDamaged, err)
	case src.Digest != want:
		return fmt.Errorf("verifying %s: %w: content is now %s; services must write to their state directory only",
			dir, ErrDamaged, src.Digest.Short())
	}
	return nil
}

type packer struct {
	ctx    context.Context //nolint:containedctx // Lives as long as one call of pack.
	root   *os.Root
	tar    *tar.Writer
	tree   *tree
	out    *meter
	strict bool
}

func pack(ctx context.Context, dir string, w io.Writer, limits Limits, strict bool) (_ fleet.BundleSource, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fleet.BundleSource{}, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	out := &meter{w: w, limit: limits.filled().Bytes, sum: sha256.New()}
	p := &packer{ctx: ctx, root: root, tar: tar.NewWriter(out), tree: newTree(limits), out: out, strict: strict}
	if err := p.directory("."); err != nil {
		return fleet.BundleSource{}, err
	}
	if err := p.tree.finish(); err != nil {
		return fleet.BundleSource{}, err
	}
	if err := p.tar.Close(); err != nil {
		return fleet.BundleSource{}, err
	}
	return fleet.BundleSource{Digest: out.digest(), Size: out.n}, nil
}

func (p *packer) directory(dir string) error {
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	// Sorted by name, as the order of entries wants it.
	names, err := fs.ReadDir(p.root.FS(), dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := p.one(path.Join(dir, n.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) one(name string) error {
	fi, err := p.root.Lstat(name)
	if err != nil {
		return err
	}
	e := entry{path: name}
	switch mode := fi.Mode(); {
	case mode.IsDir():
		e.kind = kindDir
	case mode.IsRegular():
		e.kind, e.executable, e.size = kindFile, mode&0o111 != 0, fi.Size()
	case mode.Type() == fs.ModeSymlink:
		e.kind = kindLink
		if e.target, err = p.root.Readlink(name); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%w: %q is %s; a bundle holds files, directories and links", ErrType, name, typeName(fi.Mode()))
	}
	if err := p.checkMode(e, fi.Mode()); err != nil {
		return err
	}
	if err := p.tree.add(e); err != nil {
		return err
	}
	if err := p.tar.WriteHeader(e.header()); err != nil {
		return fmt.Errorf("packing %q: %w", name, err)
	}
	switch e.kind {
	case kindDir:
		return p.directory(name)
	case kindFile:
		return p.file(e, fi)
	case kindLink:
	}
	return nil
}

func (p *packer) checkMode(e entry, mode fs.FileMode) error {
	if e.kind == kindFile && mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
		return fmt.Errorf("%w: %q is setuid, setgid or sticky", ErrMode, e.path)
	}
	if want := e.header().FileInfo().Mode(); p.strict && e.kind != kindLink && mode != want {
		return fmt.Errorf("%w: %q has %s, want %s", ErrMode, e.path, mode, want)
	}
	return nil
}

func (p *packer) file(e entry, before fs.FileInfo) (err error) {
	f, err := p.root.Open(e.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(before, fi) {
		return fmt.Errorf("%w: %q", ErrChanged, e.path)
	}
	// One byte more than there should be shows a file that grows.
	n, err := io.Copy(p.tar, &contextReader{ctx: p.ctx, r: io.LimitReader(f, e.size+1)})
	switch {
	case errors.Is(err, tar.ErrWriteTooLong) || err == nil && n != e.size:
		return fmt.Errorf("%w: %q", ErrChanged, e.path)
	case err != nil:
		return fmt.Errorf("packing %q: %w", e.path, err)
	}
	return nil
}

func typeName(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeNamedPipe != 0:
		return "a fifo"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device file"
	}
	return "something else"
}
