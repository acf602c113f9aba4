package blob

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func TestMain(m *testing.M) {
	crashMain()
	goleak.VerifyTestMain(m)
}

func newStore(t testing.TB, o Options) *Store {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	s, err := Open(filepath.Join(t.TempDir(), "blobs"), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// made is a blob of n bytes that no other seed gives.
func made(seed uint64, n int) ([]byte, fleet.Digest) {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte(binary.LittleEndian.AppendUint64(make([]byte, 24), seed))).Read(b) // never fails
	return b, fleet.DigestOf(b)
}

func size(b []byte) uint64 { return uint64(len(b)) }

// wantBlob says whether the blob is there, whole.
func wantBlob(t *testing.T, s *Store, b []byte) {
	t.Helper()
	d := fleet.DigestOf(b)
	if st, err := s.Stat(d, size(b)); err != nil || st != (Status{Complete: true, Offset: size(b)}) {
		t.Errorf("Stat = %+v, %v", st, err)
	}
	r, err := s.Open(d, 0)
	if err != nil {
		t.Error(err)
		return
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, b) || r.Size() != size(b) {
		t.Errorf("read %d bytes of %d, %v", len(got), len(b), err)
	}
}

// wantClean says whether nothing is left of uploads.
func wantClean(t *testing.T, s *Store) {
	t.Helper()
	entries, err := os.ReadDir(s.partialDir())
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	wantIdle(t, s)
}

func wantIdle(t *testing.T, s *Store) {
	t.Helper()
	if s.reserved != 0 || len(s.busy) != 0 {
		t.Errorf("%d bytes reserved, %d uploads busy", s.reserved, len(s.busy))
	}
}

func TestPutAndOpen(t *testing.T) {
	s := newStore(t, Options{})
	for _, n := range []int{0, 1, chunk - 1, chunk, chunk + 1, 1 << 20} {
		b, d := made(uint64(n), n)
		if _, err := s.Open(d, 0); !errors.Is(err, ErrNotFound) {
			t.Errorf("before: %v", err)
		}
		if st, err := s.Stat(d, size(b)); err != nil || st != (Status{}) {
			t.Errorf("before: %+v, %v", st, err)
		}
		if st, err := s.Put(t.Context(), d, size(b), 0, bytes.NewReader(b)); err != nil || !st.Complete {
			t.Errorf("Put of %d bytes = %+v, %v", n, st, err)
		}
		wantBlob(t, s, b)
		// Again: nothing is read.
		if st, err := s.Put(t.Context(), d, size(b), 0, iotest.ErrReader(io.ErrNoProgress)); err != nil || !st.Complete {
			t.Errorf("Put of what is there = %+v, %v", st, err)
		}
		for _, offset := range []int{0, 1, n / 2, n - 1, n} {
			if offset < 0 || offset > n {
				continue
			}
			r, err := s.Open(d, uint64(offset))
			if err != nil {
				t.Errorf("Open at %d of %d: %v", offset, n, err)
				continue
			}
			got, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, b[offset:]) {
				t.Errorf("read at %d of %d: %d bytes, %v", offset, n, len(got), err)
			}
		}
		if _, err := s.Open(d, size(b)+1); !errors.Is(err, ErrOffset) {
			t.Errorf("Open behind the end: %v", err)
		}
	}
	wantClean(t, s)
}

func TestRefusals(t *testing.T) {
	b, d := made(1, 1000)
	_, other := made(2, 1000)
	for _, tc := range []struct {
		name   string
		digest fleet.Digest
		size   uint64
		offset uint64
		r      io.Reader
		want   error
		kept   uint64
	}{
		{"wrong digest", other, 1000, 0, bytes.NewReader(b), ErrDigest, 0},
		{"more than declared", d, 999, 0, bytes.NewReader(b), ErrExcess, 0},
		{"a byte more at the end", d, 1000, 0, io.MultiReader(bytes.NewReader(b), strings.NewReader("x")), ErrExcess, 0},
		{"fewer than declared", d, 1001, 0, bytes.NewReader(b), ErrShort, 1000},
		{"cut off", d, 1000, 0, bytes.NewReader(b[:400]), ErrShort, 400},
		{"broken off", d, 1000, 0, io.MultiReader(bytes.NewReader(b[:300]), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF, 300},
		{"offset behind what is there", d, 1000, 1, bytes.NewReader(b[1:]), ErrOffset, 0},
		{"offset behind the end", d, 1000, 2000, bytes.NewReader(nil), ErrOffset, 0},
		{"too large", d, 1 << 21, 0, bytes.NewReader(b), ErrTooLarge, 0},
		{"no digest", "sha256:../../../etc/passwd", 1000, 0, bytes.NewReader(b), fleet.ErrName, 0},
		{"empty digest", "", 1000, 0, bytes.NewReader(b), fleet.ErrName, 0},
		{"an endless stream", d, 1000, 0, endless{}, ErrExcess, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t, Options{MaxBytes: 1 << 20})
			st, err := s.Put(t.Context(), tc.digest, tc.size, tc.offset, tc.r)
			if !errors.Is(err, tc.want) || st.Complete || st.Offset != tc.kept {
				t.Errorf("Put = %+v, %v; want %v and %d bytes kept", st, err, tc.want, tc.kept)
			}
			if st, _ := s.Stat(tc.digest, tc.size); st.Offset != tc.kept || st.Complete {
				t.Errorf("Stat = %+v, want %d bytes kept", st, tc.kept)
			}
			if tc.kept == 0 && s.reserved != 0 {
				t.Errorf("%d bytes stay reserved", s.reserved)
			}
			// Nothing of it stands in the way of the right upload.
			if _, err := s.Put(t.Context(), d, size(b), 0, bytes.NewReader(b)); err != nil {
				t.Errorf("the right upload afterwards: %v", err)
			}
			wantBlob(t, s, b)
			if s.reserved != 0 {
				t.Errorf("%d bytes stay reserved", s.reserved)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestSizeOfWhatIsThere(t *testing.T) {
	s := newStore(t, Options{})
	b, d := made(1, 1000)
	if _, err := s.Put(t.Context(), d, size(b), 0, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(d, 999); !errors.Is(err, ErrSize) {
		t.Errorf("Stat: %v", err)
	}
	if _, err := s.Put(t.Context(), d, 1001, 0, bytes.NewReader(b)); !errors.Is(err, ErrSize) {
		t.Errorf("Put: %v", err)
	}
	wantBlob(t, s, b)
}

func TestResume(t *testing.T) {
	b, d := made(1, 3*chunk+17)
	for _, kept := range []int{1, chunk, 2*chunk + 5, len(b)} {
		for _, from := range []int{0, kept / 2, kept} {
			s := newStore(t, Options{})
			broken := io.MultiReader(bytes.NewReader(b[:kept]), iotest.ErrReader(io.ErrUnexpectedEOF))
			if st, err := s.Put(t.Context(), d, size(b), 0, broken); err == nil || st.Offset != uint64(kept) {
				t.Fatalf("broken upload = %+v, %v", st, err)
			}
			// A new process goes on: nothing of the state is in memory.
			again, err := Open(s.dir, s.Options)
			if err != nil {
				t.Fatal(err)
			}
			if st, err := again.Stat(d, size(b)); err != nil || st.Offset != uint64(kept) || st.Complete {
				t.Errorf("Stat = %+v, %v; want %d", st, err, kept)
			}
			if _, err := again.Open(d, 0); !errors.Is(err, ErrNotFound) {
				t.Errorf("half a blob can be opened: %v", err)
			}
			if st, err := again.Put(t.Context(), d, size(b), uint64(from), bytes.NewReader(b[from:])); err != nil || !st.Complete {
				t.Errorf("from %d of %d = %+v, %v", from, kept, st, err)
			}
			wantBlob(t, again, b)
			wantClean(t, again)
		}
	}
}

// TestResumeDamaged: what is there is not trusted.
func TestResumeDamaged(t *testing.T) {
	s := newStore(t, Options{})
	b, d := made(1, 1000)
	if err := os.WriteFile(s.partialPath(d, size(b)), make([]byte, 600), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := s.Put(t.Context(), d, size(b), 600, bytes.NewReader(b[600:]))
	if !errors.Is(err, ErrDigest) || st != (Status{}) {
		t.Errorf("Put = %+v, %v", st, err)
	}
	wantClean(t, s)
	// One that is too long, as after a crash of another version, is cut.
	if err := os.WriteFile(s.partialPath(d, size(b)), make([]byte, 6000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), d, size(b), 0, bytes.NewReader(b)); err != nil {
		t.Error(err)
	}
	wantBlob(t, s, b)
}

func TestConcurrentUploads(t *testing.T) {
	s := newStore(t, Options{})
	b, d := made(1, 4*chunk)
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			r := io.Reader(bytes.NewReader(b))
			broken := i%3 == 0
			if broken {
				r = io.MultiReader(bytes.NewReader(b[:chunk*i/3]), iotest.ErrReader(io.ErrUnexpectedEOF))
			}
			_, err := s.Put(t.Context(), d, size(b), 0, r)
			if broken && errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return err
		})
		other, od := made(uint64(i+100), chunk)
		g.Go(func() error {
			_, err := s.Put(t.Context(), od, size(other), 0, bytes.NewReader(other))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	wantBlob(t, s, b)
	wantClean(t, s)
}

// TestNotYetDurable: a blob whose name is not durable is not told to be there.
func TestNotYetDurable(t *testing.T) {
	s := newStore(t, Options{})
	b, d := made(1, 10)
	s.fs.syncDir = func(string) error {
		if st, err := s.Stat(d, size(b)); err != nil || st != (Status{Offset: size(b)}) {
			t.Errorf("before the fsync: %+v, %v", st, err)
		}
		return nil
	}
	if _, err := s.Put(t.Context(), d, size(b), 0, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	wantBlob(t, s, b)
}

func TestWaitingUploadIsCancelled(t *testing.T) {
	s := newStore(t, Options{})
	b, d := made(1, 10)
	src, sink := io.Pipe()
	first := make(chan error, 1)
	go func() {
		_, err := s.Put(t.Context(), d, size(b), 0, src)
		first <- err
	}()
	if _, err := sink.Write(b[:5]); err != nil { // the first has the blob now
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Put(ctx, d, size(b), 0, bytes.NewReader(b)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second: %v", err)
	}
	if removed, err := s.Sweep(t.Context(), -time.Hour); err != nil || removed != 0 {
		t.Errorf("an upload under way was swept: %d, %v", removed, err)
	}
	if _, err := sink.Write(b[5:]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sink.Close(), <-first); err != nil {
		t.Error(err)
	}
	wantBlob(t, s, b)
	wantClean(t, s)
}

func TestCancelledUpload(t *testing.T) {
	s := newStore(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	_, d := made(1, 10)
	r := readerFunc(func(p []byte) (int, error) { cancel(); return 1, nil })
	if st, err := s.Put(ctx, d, 1000, 0, r); !errors.Is(err, context.Canceled) || st.Offset != 1 {
		t.Errorf("%+v, %v", st, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestSweep(t *testing.T) {
	now := time.Now()
	s := newStore(t, Options{Now: func() time.Time { return now }})
	b, d := made(1, 1000)
	whole, wd := made(2, 1000)
	if _, err := s.Put(t.Context(), wd, size(whole), 0, bytes.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		at   time.Duration
		want int
	}{
		{0, 0}, {50 * time.Minute, 0}, {2 * time.Hour, 1}, {-10 * 365 * 24 * time.Hour, 1},
	} {
		now = time.Now()
		if _, err := s.Put(t.Context(), d, size(b), 0, bytes.NewReader(b[:500])); !errors.Is(err, ErrShort) {
			t.Fatal(err)
		}
		now = now.Add(tc.at)
		if n, err := s.Sweep(t.Context(), time.Hour); err != nil || n != tc.want {
			t.Errorf("%v later: swept %d, %v; want %d", tc.at, n, err, tc.want)
		}
		if st, err := s.Stat(d, size(b)); err != nil || (st.Offset == 0) != (tc.want == 1) {
			t.Errorf("%v later: %+v, %v", tc.at, st, err)
		}
	}
	wantBlob(t, s, whole)
	wantClean(t, s)
}

func TestDamagedBlob(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"altered": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{0, 0, 0, 0}, 500)
			return errors.Join(err, f.Close())
		},
		"shortened": func(path string) error { return os.Truncate(path, 999) },
		"emptied":   func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, Options{})
			b, d := made(1, 1000)
			put := func() {
				t.Helper()
				if _, err := s.Put(t.Context(), d, size(b), 0, bytes.NewReader(b)); err != nil {
					t.Fatal(err)
				}
			}
			put()
			if err := damage(s.completePath(d)); err != nil {
				t.Fatal(err)
			}
			late, err := s.Open(d, 0)
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Open(d, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, r)
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("reading: %v", err)
			}
			if _, err := s.Open(d, 0); !errors.Is(err, ErrNotFound) {
				t.Errorf("afterwards: %v", err)
			}
			put()
			// Who still reads the damaged file leaves the new one alone.
			if _, err := io.Copy(io.Discard, late); !errors.Is(err, ErrDamaged) {
				t.Errorf("reading late: %v", err)
			}
			wantBlob(t, s, b)
			if err := errors.Join(r.Close(), late.Close()); err != nil {
				t.Error(err)
			}
			s.Now = func() time.Time { return time.Now().Add(time.Hour) }
			if n, err := s.Sweep(t.Context(), time.Minute); err != nil || n != 1 {
				t.Errorf("swept %d, %v", n, err)
			}
			wantClean(t, s)
		})
	}
}
