package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// List calls f for every complete blob, sorted by digest, and counts them.
func (s *Store) List(f func(d fleet.Digest, size uint64)) (n, bytes uint64, err error) {
	entries, err := os.ReadDir(s.completeDir())
	if err != nil {
		return 0, 0, fmt.Errorf("listing blobs: %w", err)
	}
	for _, e := range entries {
		d, derr := fleet.ParseDigest("sha256:" + e.Name())
		fi, ierr := e.Info()
		if derr != nil || errors.Is(ierr, os.ErrNotExist) || ierr == nil && !fi.Mode().IsRegular() {
			continue
		}
		if ierr != nil {
			return n, bytes, fmt.Errorf("listing blobs: %w", ierr)
		}
		size := uint64(fi.Size()) //nolint:gosec // Sizes of files are not negative.
		f(d, size)
		n++
		bytes += size
	}
	return n, bytes, nil
}

// Scrub reads every blob at no more than pace bytes a second, and moves those
// aside that are damaged: they can be uploaded again. It says how many bytes it
// read and how many blobs were damaged. A blob that can't be read does not keep
// it from the others.
func (s *Store) Scrub(ctx context.Context, pace uint64) (read uint64, damaged int, err error) {
	var all []fleet.Digest
	if _, _, err := s.List(func(d fleet.Digest, _ uint64) { all = append(all, d) }); err != nil {
		return 0, 0, err
	}
	var failed []error
	p := &pacer{ctx: ctx, rate: pace}
	for _, d := range all {
		n, err := s.scrub(p, d)
		read += n
		switch {
		case ctx.Err() != nil:
			return read, damaged, context.Cause(ctx)
		case errors.Is(err, ErrDamaged):
			damaged++
		case err != nil && !errors.Is(err, ErrNotFound):
			failed = append(failed, fmt.Errorf("reading %s: %w", filepath.Base(s.completePath(d)), err))
		}
	}
	return read, damaged, errors.Join(failed...)
}

func (s *Store) scrub(p *pacer, d fleet.Digest) (uint64, error) {
	r, err := s.Open(d, 0)
	if err != nil {
		return 0, err
	}
	buf := chunks.Get().(*[]byte) //nolint:forcetypeassert // The pool holds nothing else.
	defer chunks.Put(buf)
	n, err := io.CopyBuffer(p, struct{ io.Reader }{r}, *buf)
	return uint64(n), errors.Join(err, r.Close()) //nolint:gosec // Not negative.
}

// pacer takes bytes at a rate.
type pacer struct {
	ctx  context.Context //nolint:containedctx // An io.Writer has no other way to be ended.
	rate uint64          // bytes a second
	owed time.Duration
}

// Write waits as long as its bytes take.
func (p *pacer) Write(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, context.Cause(p.ctx)
	}
	p.owed += time.Duration(uint64(len(b)) * uint64(time.Second) / p.rate) //nolint:gosec // Small.
	const least = 10 * time.Millisecond
	if p.owed < least {
		return len(b), nil
	}
	t := time.NewTimer(p.owed)
	defer t.Stop()
	p.owed = 0
	select {
	case <-t.C:
		return len(b), nil
	case <-p.ctx.Done():
		return 0, context.Cause(p.ctx)
	}
}
