package sync

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"google.golang.org/grpc"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// ErrBlob is wrapped by errors about a blob that is not what was signed.
var ErrBlob = errors.New("blob is not what was signed")

// Blobs is a directory of verified blobs, named by the digits of their digest.
type Blobs struct {
	Dir string
	// Pace below which a transfer counts as stalled.
	Pace pace.Limit
}

// Path is where a blob lies once it is here.
func (b Blobs) Path(d fleet.Digest) string { return filepath.Join(b.Dir, d.Hex()) }

func (b Blobs) partial(d fleet.Digest) string { return b.Path(d) + ".part" }

// Has says whether a blob is here that was whole when it was put here; Check
// tells whether it still is.
func (b Blobs) Has(ref fleet.BlobRef) bool {
	fi, err := os.Stat(b.Path(ref.Digest))
	return err == nil && fi.Mode().IsRegular() && uint64(fi.Size()) == ref.Size //nolint:gosec // Sizes of files are not negative.
}

// Check reads a blob and removes one that is not what was signed, any more: a
// disk that rots keeps sizes. An error wraps ErrBlob where it was removed, and
// os.ErrNotExist where none is here.
func (b Blobs) Check(ref fleet.BlobRef) error {
	path := b.Path(ref.Digest)
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading blob: %w", err)
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(f, int64(min(ref.Size, 1<<62))+1))                                       //nolint:gosec // Bounded just here.
	if err == nil && uint64(n) == ref.Size && fleet.DigestFromSum([sha256.Size]byte(sum.Sum(nil))) == ref.Digest { //nolint:gosec // Not negative.
		return nil
	}
	if err == nil {
		err = errors.New("its content changed")
	}
	return errors.Join(fmt.Errorf("%w: %s is damaged on this disk and is fetched again: %w", ErrBlob, path, err), os.Remove(path))
}

// Prune removes all blobs, whole and partial, that are not in keep.
func (b Blobs) Prune(keep map[fleet.Digest]bool) error {
	entries, err := os.ReadDir(b.Dir)
	if err != nil {
		return fmt.Errorf("pruning blobs: %w", err)
	}
	names := map[string]bool{}
	for d := range keep {
		names[d.Hex()], names[d.Hex()+".part"] = true, true
	}
	for _, e := range entries {
		if names[e.Name()] {
			continue
		}
		crashpoint.Hit(crashpoint.FetchedRemove)
		if err := os.Remove(filepath.Join(b.Dir, e.Name())); err != nil {
			return fmt.Errorf("pruning blobs: %w", err)
		}
		crashpoint.Hit(crashpoint.FetchedRemoved)
	}
	return nil
}

// FetchBlob brings a blob here. What an earlier attempt left is taken up where
// it ended. Digest and size are checked while it streams; what turns out wrong
// is removed. Errors that do not wrap ErrBlob are worth another attempt.
func (c *Client) FetchBlob(ctx context.Context, b Blobs, ref fleet.BlobRef) error {
	if b.Has(ref) && b.Check(ref) == nil {
		return nil
	}
	if err := c.fetchBlob(ctx, b, ref); err != nil {
		if errors.Is(err, ErrBlob) {
			_ = os.Remove(b.partial(ref.Digest))
		}
		return fmt.Errorf("fetching blob %s: %w", ref.Digest.Short(), err)
	}
	return nil
}

// Put keeps a blob that comes from elsewhere, checked as FetchBlob does. An
// error wraps ErrBlob where the content is not what ref says; nothing is kept
// then.
func (b Blobs) Put(ref fleet.BlobRef, content io.Reader) error {
	if b.Has(ref) && b.Check(ref) == nil {
		return nil
	}
	sum := sha256.New()
	err := atomicfile.Write(b.Path(ref.Digest), 0o600, func(w io.Writer) error {
		to := &bounded{w: io.MultiWriter(w, sum), left: ref.Size}
		if _, err := io.Copy(to, content); err != nil {
			return err //nolint:wrapcheck // The caller says what failed.
		}
		if to.left > 0 {
			return fmt.Errorf("%w: it ends %d bytes early", ErrBlob, to.left)
		}
		if got := fleet.DigestFromSum([sha256.Size]byte(sum.Sum(nil))); got != ref.Digest {
			return fmt.Errorf("%w: its digest is %s", ErrBlob, got.Short())
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keeping blob %s: %w", ref.Digest.Short(), err)
	}
	return nil
}

func (c *Client) fetchBlob(ctx context.Context, b Blobs, ref fleet.BlobRef) (err error) {
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return fmt.Errorf("making directory: %w", err)
	}
	f, err := os.OpenFile(b.partial(ref.Digest), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening partial blob: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = cerr
		}
	}()
	crashpoint.Hit(crashpoint.FetchOpened)
	// What an earlier attempt left is hashed again: a digest has no memory.
	sum := sha256.New()
	have, err := io.Copy(sum, io.LimitReader(f, int64(min(ref.Size, 1<<62)))) //nolint:gosec // Bounded just here.
	if err != nil {
		return fmt.Errorf("reading partial blob: %w", err)
	}
	w := &bounded{w: io.MultiWriter(f, sum), left: ref.Size - uint64(have)} //nolint:gosec // Not negative.
	if w.left > 0 {
		err = c.do(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
			return stream(ctx, conn, b.Pace, ref, uint64(have), w) //nolint:gosec // Not negative.
		})
	}
	if err != nil {
		return err
	}
	if w.left > 0 {
		return fmt.Errorf("%w: it ends %d bytes early", ErrUnreachable, w.left)
	}
	if got := fleet.DigestFromSum([sha256.Size]byte(sum.Sum(nil))); got != ref.Digest {
		return fmt.Errorf("%w: its digest is %s", ErrBlob, got.Short())
	}
	if err := f.Truncate(int64(ref.Size)); err != nil { //nolint:gosec // The file has that size.
		return fmt.Errorf("cutting partial blob: %w", err)
	}
	crashpoint.Hit(crashpoint.FetchWhole)
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing blob: %w", err)
	}
	crashpoint.Hit(crashpoint.FetchSynced)
	if err := os.Rename(b.partial(ref.Digest), b.Path(ref.Digest)); err != nil {
		return fmt.Errorf("writing blob: %w", err)
	}
	crashpoint.Hit(crashpoint.FetchRenamed)
	if err := atomicfile.SyncDir(b.Dir); err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	crashpoint.Hit(crashpoint.FetchDone)
	return nil
}

// stream copies the rest of a blob to w. It ends the call when it returns, so
// that a stalled sender is let go.
func stream(ctx context.Context, conn *grpc.ClientConn, limit pace.Limit, ref fleet.BlobRef, offset uint64, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := fleetv1.NewHostServiceClient(conn).GetBlob(ctx, &fleetv1.GetBlobRequest{
		Digest: string(ref.Digest), Offset: offset,
	})
	if err != nil {
		return err //nolint:wrapcheck // explain wants it as it is.
	}
	_, err = io.Copy(w, pace.NewReader(&chunks{recv: s.Recv}, limit))
	return err //nolint:wrapcheck // explain wants it as it is.
}

// chunks reads a stream of pieces.
type chunks struct {
	recv func() (*fleetv1.GetBlobResponse, error)
	rest []byte
}

// Read returns what is left of the newest piece, or of the next one.
func (c *chunks) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		m, err := c.recv()
		if err != nil {
			return 0, err //nolint:wrapcheck // io.EOF, or for explain.
		}
		c.rest = m.GetData()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// bounded refuses more than was signed.
type bounded struct {
	w    io.Writer
	left uint64
}

// Write passes on what fits.
func (b *bounded) Write(p []byte) (int, error) {
	if uint64(len(p)) > b.left {
		return 0, fmt.Errorf("%w: it is longer than its size", ErrBlob)
	}
	n, err := b.w.Write(p)
	b.left -= uint64(n) //nolint:gosec // Not negative.
	crashpoint.Hit(crashpoint.FetchPart)
	return n, err //nolint:wrapcheck // Errors of files name them.
}
