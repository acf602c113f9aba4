package bundle

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// meter counts and hashes what goes to w.
type meter struct {
	w     io.Writer
	limit uint64
	n     uint64
	sum   hash.Hash
}

func (m *meter) Write(b []byte) (int, error) {
	if uint64(len(b)) > m.limit-m.n {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, m.limit)
	}
	n, err := m.w.Write(b)
	m.sum.Write(b[:n])
	m.n += uint64(n) //nolint:gosec // Writers return counts from 0.
	return n, err
}

func (m *meter) digest() fleet.Digest { return fleet.DigestFromSum([32]byte(m.sum.Sum(nil))) }

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context //nolint:containedctx // Lives as long as one call.
	r   io.Reader
}

func (r *contextReader) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(b)
}

// exactReader gives exactly size bytes of r, or a named error.
type exactReader struct {
	r        io.Reader
	size, n  uint64
	sum      hash.Hash
	progress func(done uint64)
}

func (r *exactReader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := r.r.Read(b)
	r.n += uint64(n) //nolint:gosec // Readers return counts from 0.
	if r.n > r.size {
		return 0, fmt.Errorf("%w: there is more than the %d bytes that were signed", ErrTooLarge, r.size)
	}
	r.sum.Write(b[:n])
	if r.progress != nil && n > 0 {
		r.progress(r.n)
	}
	if errors.Is(err, io.EOF) && r.n < r.size {
		return n, fmt.Errorf("%w: it ends after %d of %d bytes", ErrTruncated, r.n, r.size)
	}
	return n, err
}
