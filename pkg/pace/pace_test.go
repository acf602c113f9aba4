package pace

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var limit = Limit{Bytes: 1000, Window: 10 * time.Second}

// sender sends pieces of a size at an interval, through a pipe.
func sender(t *testing.T, pieces, size int, interval time.Duration) (*io.PipeReader, func()) {
	t.Helper()
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range pieces {
			time.Sleep(interval)
			if _, err := w.Write(make([]byte, size)); err != nil {
				return
			}
		}
		_ = w.Close()
	}()
	return r, func() { _ = r.Close(); <-done }
}

func TestSpeeds(t *testing.T) {
	for _, tc := range []struct {
		name     string
		pieces   int
		size     int
		interval time.Duration
		want     error
		within   time.Duration
	}{
		{"fast", 1000, 100, time.Millisecond, nil, time.Second},
		{"just fast enough", 200, 112, time.Second, nil, 200 * time.Second},
		{"just too slow", 200, 90, time.Second, ErrStalled, 11 * time.Second},
		{"a byte a second", 100000, 1, time.Second, ErrStalled, 11 * time.Second},
		{"rare large pieces", 20, 5000, 9 * time.Second, nil, 180 * time.Second},
		{"too rare large pieces", 20, 5000, 11 * time.Second, ErrStalled, 11 * time.Second},
		{"a short end", 5, 10, time.Second, nil, 5 * time.Second},
		{"nothing at all", 1, 1, time.Hour, ErrStalled, 10 * time.Second},
		{"empty", 0, 0, 0, nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, stop := sender(t, tc.pieces, tc.size, tc.interval)
				start := time.Now()
				n, err := io.Copy(io.Discard, NewReader(src, limit))
				if took := time.Since(start); took > tc.within {
					t.Errorf("took %v, want at most %v", took, tc.within)
				}
				stop()
				if !errors.Is(err, tc.want) {
					t.Errorf("got %v, want %v", err, tc.want)
				}
				if want := int64(tc.pieces * tc.size); err == nil && n != want {
					t.Errorf("%d bytes, want %d", n, want)
				}
			})
		})
	}
}

// TestBurstIsNoCredit: many bytes first do not allow a trickle later.
func TestBurstIsNoCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fast, stopFast := sender(t, 100, 10000, 0)
		slow, stopSlow := sender(t, 100000, 1, time.Second)
		start := time.Now()
		_, err := io.Copy(io.Discard, NewReader(io.MultiReader(fast, slow), limit))
		stopFast()
		stopSlow()
		if took := time.Since(start); !errors.Is(err, ErrStalled) || took > 21*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// TestSlowConsumer: who is slow itself does not blame the sender.
func TestSlowConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewReader(bytes.NewReader(make([]byte, 300)), limit)
		buf := make([]byte, 10)
		total := 0
		for {
			n, err := r.Read(buf)
			total += n
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if total != 300 {
			t.Errorf("%d bytes", total)
		}
	})
}

// TestContract: a Reader behaves as readers do.
func TestContract(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	if err := iotest.TestReader(NewReader(bytes.NewReader(content), limit), content); err != nil {
		t.Error(err)
	}
	broken := errors.New("broken")
	r := NewReader(io.MultiReader(bytes.NewReader([]byte("abc")), iotest.ErrReader(broken)), limit)
	got, err := io.ReadAll(r)
	if string(got) != "abc" || err != broken { //nolint:errorlint // Unchanged, it says.
		t.Errorf("%q, %v", got, err)
	}
	for range 2 {
		if _, err := r.Read(make([]byte, 1)); err != broken { //nolint:errorlint // As above.
			t.Errorf("an error does not stay: %v", err)
		}
	}
	r = NewReader(iotest.DataErrReader(bytes.NewReader([]byte("abc"))), limit)
	if got, err := io.ReadAll(r); string(got) != "abc" || err != nil {
		t.Errorf("end together with data: %q, %v", got, err)
	}
}

func TestStallStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, stop := sender(t, 1, 1, time.Hour)
		r := NewReader(src, limit)
		for range 3 {
			if _, err := r.Read(make([]byte, 1)); !errors.Is(err, ErrStalled) {
				t.Errorf("got %v", err)
			}
		}
		stop()
	})
}

func BenchmarkReader(b *testing.B) {
	src := NewReader(endless{}, Default)
	buf := make([]byte, 32<<10)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := io.ReadFull(src, buf); err != nil {
			b.Fatal(err)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
