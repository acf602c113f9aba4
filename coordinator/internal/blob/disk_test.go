package blob

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestDiskErrors: each is told, leaves nothing that could be taken for a blob,
// and does not stand in the way of the next upload.
func TestDiskErrors(t *testing.T) {
	b, d := made(1, 3*chunk)
	for _, tc := range []struct {
		name  string
		spoil func(*files)
		want  error
		kept  uint64
	}{
		{"write fails", func(f *files) {
			f.write = func(*os.File, []byte) (int, error) { return 0, syscall.EIO }
		}, syscall.EIO, 0},
		{"disk becomes full", func(f *files) {
			n := 0
			f.write = func(file *os.File, b []byte) (int, error) {
				if n++; n == 2 {
					n, err := file.Write(b[:100])
					return n, errors.Join(err, syscall.ENOSPC)
				}
				return file.Write(b)
			}
		}, ErrNoSpace, chunk + 100},
		{"fsync fails", func(f *files) { f.sync = func(*os.File) error { return syscall.EIO } }, syscall.EIO, 0},
		{"rename fails", func(f *files) { f.rename = func(string, string) error { return syscall.EIO } }, syscall.EIO, size(b)},
		{"fsync of the directory fails", func(f *files) { f.syncDir = func(string) error { return syscall.EIO } }, syscall.EIO, size(b)},
		{"free space unknown", func(f *files) { f.free = func(string) (uint64, error) { return 0, syscall.EIO } }, syscall.EIO, 0},
		{"too little free", func(f *files) {
			f.free = func(string) (uint64, error) { return DefaultMinFree + size(b) - 1, nil }
		}, ErrNoSpace, 0},
		{"less free than the reserve", func(f *files) { f.free = func(string) (uint64, error) { return 1, nil } }, ErrNoSpace, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore(t, Options{})
			tc.spoil(&s.fs)
			st, err := s.Put(t.Context(), d, size(b), 0, bytes.NewReader(b))
			if !errors.Is(err, tc.want) || st.Complete || st.Offset != tc.kept {
				t.Errorf("Put = %+v, %v; want %v and %d bytes kept", st, err, tc.want, tc.kept)
			}
			if _, err := s.Open(d, 0); !errors.Is(err, ErrNotFound) {
				t.Errorf("Open: %v", err)
			}
			if s.reserved != 0 {
				t.Errorf("%d bytes stay reserved", s.reserved)
			}
			s.fs = realFiles()
			if st, err := s.Stat(d, size(b)); err != nil || st.Offset != tc.kept {
				t.Errorf("Stat = %+v, %v", st, err)
			}
			if _, err := s.Put(t.Context(), d, size(b), tc.kept, bytes.NewReader(b[tc.kept:])); err != nil {
				t.Errorf("the next upload: %v", err)
			}
			wantBlob(t, s, b)
			wantClean(t, s)
		})
	}
}

// TestReservation: uploads at the same time can't together take what none of
// them could alone.
func TestReservation(t *testing.T) {
	s := newStore(t, Options{})
	s.fs.free = func(string) (uint64, error) { return DefaultMinFree + 1500, nil }
	b, d := made(1, 1000)
	b2, d2 := made(2, 1000)
	r := readerFunc(func([]byte) (int, error) {
		if _, err := s.Put(t.Context(), d2, size(b2), 0, bytes.NewReader(b2)); !errors.Is(err, ErrNoSpace) {
			t.Errorf("the second: %v", err)
		}
		return 0, io.ErrUnexpectedEOF
	})
	if _, err := s.Put(t.Context(), d, size(b), 0, r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the first: %v", err)
	}
	if _, err := s.Put(t.Context(), d2, size(b2), 0, bytes.NewReader(b2)); err != nil {
		t.Errorf("the second alone: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, Options{}); !errors.Is(err, syscall.ENOTDIR) || !strings.Contains(err.Error(), file) {
		t.Errorf("a file instead of a directory: %v", err)
	}
	for _, err := range []error{os.ErrPermission, syscall.EROFS} {
		if got := explain(err); !errors.Is(got, err) || !strings.Contains(got.Error(), "must be writable") {
			t.Errorf("no hint: %v", got)
		}
	}
}

// TestMemory: a large blob goes through little memory.
func TestMemory(t *testing.T) {
	s := newStore(t, Options{})
	const n = 64 << 20
	d := fleet.DigestOf(make([]byte, n))
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := s.Put(t.Context(), d, n, 0, io.LimitReader(zeros{}, n)); err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(d, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.Copy(io.Discard, r); err != nil || got != n {
		t.Errorf("read %d, %v", got, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
		t.Errorf("%d bytes allocated for a blob of %d", got, n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
