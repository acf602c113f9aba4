package blob

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cameronraysmith/fleet/pkg/pace"
)

// TestTrickle: a byte a second does not hold an upload for ever, and what came
// is kept.
func TestTrickle(t *testing.T) {
	s := newStore(t, Options{})
	b, d := made(1, 1<<20)
	synctest.Test(t, func(t *testing.T) {
		src, sink := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range b {
				if _, err := sink.Write(b[i : i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		start := time.Now()
		st, err := s.Put(t.Context(), d, size(b), 0, pace.NewReader(src, pace.Default))
		if took := time.Since(start); !errors.Is(err, pace.ErrStalled) || took > time.Minute {
			t.Errorf("%v after %v", err, took)
		}
		if st.Offset == 0 || st.Complete {
			t.Errorf("%+v", st)
		}
		_ = src.Close() // as the end of a handler ends its stream
		<-done
	})
	wantIdle(t, s)
}
