// Package pace keeps a trickle from holding a transfer for ever: a deadline
// for the whole cannot fit both a small and a large blob, but a least number
// of bytes in a window of waiting can.
package pace

import (
	"errors"
	"io"
	"time"
)

// ErrStalled says that too few bytes arrived in time. Who reads may try again,
// from where it was.
var ErrStalled = errors.New("transfer stalled")

// Limit is the slowest that is put up with.
type Limit struct {
	// Bytes that must arrive within each Window of waiting for them. The last
	// ones before the end may be fewer.
	Bytes int64
	// Window counts only time spent in Read: a reader that is busy itself is
	// not held against the sender.
	Window time.Duration
}

// Default is about 1 KiB a second: below what any usable network carries.
var Default = Limit{Bytes: 32 << 10, Window: 30 * time.Second}

// bufferSize bounds what one Read of the source takes.
const bufferSize = 64 << 10

// Reader reads from a source and fails with ErrStalled when it is slower than
// the limit. Like most readers it is for one goroutine at a time.
type Reader struct {
	src   io.Reader
	limit Limit

	buf  []byte // belongs to the reading goroutine while one is under way
	rest []byte // part of buf that was not handed out yet
	err  error  // from the source, after rest; then for ever

	results chan result
	timer   *time.Timer
	got     int64         // bytes since the window began
	waited  time.Duration // spent in Read since the window began
}

type result struct {
	n   int
	err error
}

// NewReader guards src. Each Read of src runs in a goroutine of its own, which
// a stalled Reader leaves behind: whoever owns src MUST then make its Read
// return (by cancelling the request, returning from the handler, or closing
// it), as it does anyway when a transfer has failed.
func NewReader(src io.Reader, limit Limit) *Reader {
	return &Reader{src: src, limit: limit, results: make(chan result, 1)}
}

// Read reads at least one byte, or fails: with ErrStalled, or the error of the
// source, unchanged. An error stays.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.fill()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// fill reads once from the source, for as long as the limit allows.
func (r *Reader) fill() {
	if r.buf == nil {
		r.buf = make([]byte, bufferSize)
	}
	start := time.Now() //nolint:forbidigo // Only how long it takes counts, not what time it is.
	left := r.limit.Window - r.waited
	if left <= 0 {
		r.stall()
		return
	}
	if r.timer == nil {
		r.timer = time.NewTimer(left)
	} else {
		r.timer.Reset(left)
	}
	defer r.timer.Stop()
	go func(src io.Reader, buf []byte, results chan<- result) {
		n, err := src.Read(buf)
		results <- result{n, err}
	}(r.src, r.buf, r.results)

	select {
	case res := <-r.results:
		r.rest, r.err = r.buf[:res.n], res.err
		r.got += int64(res.n)
		r.waited += time.Since(start) //nolint:forbidigo // As above.
		if r.got >= r.limit.Bytes {
			r.got, r.waited = 0, 0
		}
	case <-r.timer.C:
		r.stall()
	}
}

// stall ends the Reader. The buffer is left to the goroutine that reads.
func (r *Reader) stall() {
	r.err = stalled(r.got, r.limit)
	r.buf, r.rest = nil, nil
}
