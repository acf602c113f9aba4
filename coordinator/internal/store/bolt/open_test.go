package bolt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

// TestHalted: bbolt holds its locks for ever when it can't read its meta pages in
// the midst of taking them: nobody waits for them.
func TestHalted(t *testing.T) {
	for name, first := range map[string]func(*Store) error{
		"read": func(s *Store) error { _, err := s.Get(t.Context(), "key/20"); return err },
		"write": func(s *Store) error {
			_, err := s.Txn(t.Context(), nil, []store.Op{{Key: "key/20", Value: []byte("new")}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, path, _ := varied(t)
			s, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range 2 {
					if err := first(s); !errors.Is(err, store.ErrCorrupt) {
						t.Errorf("%s: %v", name, err)
					}
				}
				if _, err := s.List(t.Context(), "", "", 1); !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("listing: %v", err)
				}
				if _, err := s.Txn(t.Context(), nil, nil); !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("writing: %v", err)
				}
				if err := errors.Join(s.Close(), s.Close()); err != nil {
					t.Error(err)
				}
				if _, err := s.Get(t.Context(), "key/20"); !errors.Is(err, store.ErrClosed) {
					t.Errorf("after its end: %v", err)
				}
			}()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Fatal("somebody waits for a lock that is held for ever")
			}
		})
	}
}

// TestCheckWhileWriting: what others commit while the file is read is no damage.
func TestCheckWhileWriting(t *testing.T) {
	_, path, _ := varied(t)
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		for ctx.Err() == nil {
			if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: "new", Value: []byte("x")}}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 300 {
		if err := s.Check(ctx); err != nil {
			t.Fatal(err)
		}
	}
	end()
	if err := errors.Join(<-done, s.Close()); err != nil {
		t.Error(err)
	}
}

// TestSettles: the newest meta page is written once more when a store is opened,
// as it is: after a flush that failed only that makes it durable.
func TestSettles(t *testing.T) {
	path := filled(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("opening changed the file: %v", err)
	}
	if fi, err := os.Stat(path); err != nil || !fi.ModTime().After(long) {
		t.Errorf("nothing was written: %v", err)
	}
}

// TestGrowth: the file of a small store is small, however much is mapped.
func TestGrowth(t *testing.T) {
	path := filled(t)
	fi, err := os.Stat(path)
	if err != nil || fi.Size() > 4*growth {
		t.Errorf("the file has %d bytes: %v", fi.Size(), err)
	}
}
