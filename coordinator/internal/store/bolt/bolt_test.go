package bolt

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/coordinator/internal/store/storetest"
)

func openIn(dir string) (store.Store, error) { return Open(filepath.Join(dir, "fleet.db")) }

func TestMain(m *testing.M) {
	storetest.CrashMain(openIn)
	goleak.VerifyTestMain(m)
}

func TestConformance(t *testing.T) { storetest.Run(t, openIn) }

func TestCrash(t *testing.T) { storetest.Crash(t, openIn) }

// filled makes a store of some pages and returns its path.
func filled(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: strconv.Itoa(i), Value: make([]byte, 10<<10)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInUse(t *testing.T) {
	path := filled(t)
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(path, bbolt.Options{Timeout: 10 * time.Millisecond})
	wantError(t, err, store.ErrInUse, "is a coordinator running already")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path); err != nil {
		t.Fatalf("after the other closed it: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err, want error, hint string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(err.Error(), hint) {
		t.Errorf("got error %v; want %v with %q", err, want, hint)
	}
}

func TestFormat(t *testing.T) {
	for _, tc := range []struct {
		version string
		want    error
		hint    string
	}{
		{strconv.Itoa(Format), nil, ""},
		{strconv.Itoa(Format + 1), store.ErrNewerFormat, "run the newer program"},
		{"one", store.ErrCorrupt, "restore a backup"},
	} {
		path := filled(t)
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketMeta).Put(keyVersion, []byte(tc.version))
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(path)
		if tc.want == nil {
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		wantError(t, err, tc.want, tc.hint)
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
			t.Errorf("version %q: a refused store was changed, %v", tc.version, err)
		}
	}
}

func TestDamaged(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"truncated to half": func(path string) error { return os.Truncate(path, 64<<10) },
		"truncated to one":  func(path string) error { return os.Truncate(path, 1) },
		"truncated to two pages": func(path string) error {
			return os.Truncate(path, 8<<10)
		},
		"truncated to four pages": func(path string) error { return os.Truncate(path, 16<<10) },
		"not a store":             func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 64<<10), 0o600) },
		"both metas overwritten": func(path string) error {
			return overwrite(path, make([]byte, 2*os.Getpagesize()))
		},
		"a directory": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filled(t)
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			s, err := Open(path)
			if err == nil {
				_ = s.Close()
			}
			wantError(t, err, store.ErrCorrupt, "")
		})
	}
}

func overwrite(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return errors.Join(err, f.Close())
}

// TestOneMetaLost: a crash in the middle of writing one meta page leaves the
// other, with the state before.
func TestOneMetaLost(t *testing.T) {
	for page := range 2 {
		path := filled(t)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt(make([]byte, 512), int64(page*os.Getpagesize()))
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path)
		if err != nil {
			t.Fatalf("meta %d: %v", page, err)
		}
		if _, err := s.Get(t.Context(), "18"); err != nil {
			t.Errorf("meta %d: %v", page, err)
		}
		if !strings.Contains(s.Notice(), "the last change may be lost") {
			t.Errorf("meta %d: notice %q", page, s.Notice())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestNoDirectory(t *testing.T) {
	_, err := Open(filepath.Join(t.TempDir(), "missing", "fleet.db"))
	wantError(t, err, os.ErrNotExist, "opening store")
}

// TestDurableOptions: nobody may trade acknowledged data for speed.
func TestDurableOptions(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	if s.db.NoSync || s.db.NoGrowSync {
		t.Errorf("NoSync %v, NoGrowSync %v", s.db.NoSync, s.db.NoGrowSync)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFailedWrite: a write that the disk refuses is told, changes nothing, and
// leaves the rest readable.
func TestFailedWrite(t *testing.T) {
	path := filled(t)
	var file *os.File
	s, err := open(path, bbolt.Options{OpenFile: func(name string, flag int, perm os.FileMode) (f *os.File, err error) {
		file, err = os.OpenFile(name, flag, perm)
		return file, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	events, err := s.Watch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil { // from now on every write fails
		t.Fatal(err)
	}
	for range 2 {
		_, err = s.Txn(t.Context(), nil, []store.Op{{Key: "new", Value: []byte("x")}})
		wantError(t, err, os.ErrClosed, "nothing changed")
	}
	if _, err := s.Get(t.Context(), "19"); err != nil {
		t.Errorf("reading what was there: %v", err)
	}
	if _, err := s.Get(t.Context(), "new"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("reading what was not written: %v", err)
	}
	if err := s.Close(); err == nil {
		t.Error("closing told nothing")
	}
	if e, open := <-events; open {
		t.Errorf("an event of what was not written: %v", e)
	}
}

// failedStore is a store whose newest transaction, of the key "new", may or may
// not be on the disk.
func failedStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filled(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: "new", Value: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	return s
}

func txid(t *testing.T, s *Store) (id int) {
	t.Helper()
	if err := s.db.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

// TestFailed: while it is unknown what is on the disk, nothing is answered; as
// soon as all could be written anew the store goes on by itself, without what
// was never acknowledged.
func TestFailed(t *testing.T) {
	s := failedStore(t)
	ctx := t.Context()
	moved := s.path
	s.path += ".away" // nothing can be written anew
	s.writeMu.Lock()
	s.fail(txid(t, s), store.ErrFailed)
	s.writeMu.Unlock()
	_, err := s.Get(ctx, "1")
	wantError(t, err, store.ErrFailed, "check the disk")
	_, err = s.List(ctx, "", "", 1)
	wantError(t, err, store.ErrFailed, "check the disk")
	_, err = s.Txn(ctx, nil, nil)
	wantError(t, err, store.ErrFailed, "check the disk")
	_, err = s.Watch(ctx, "")
	wantError(t, err, store.ErrFailed, "check the disk")

	s.path, s.tried = moved, time.Time{}
	if _, err := s.Txn(ctx, nil, []store.Op{{Key: "after", Value: []byte("y")}}); err != nil {
		t.Fatalf("after the disk is well again: %v", err)
	}
	if _, err := s.Get(ctx, "new"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what was not acknowledged: %v", err)
	}
	for _, key := range []string{"0", "19", "after"} {
		if _, err := s.Get(ctx, key); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(s.Check(ctx), s.Close()); err != nil {
		t.Error(err)
	}
	if s, err = Open(moved); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestFailedReads: reading alone is enough for a store that failed to go on.
func TestFailedReads(t *testing.T) {
	s := failedStore(t)
	moved := s.path
	s.path += ".away"
	s.writeMu.Lock()
	s.fail(txid(t, s), store.ErrFailed)
	s.path, s.tried = moved, time.Time{}
	_, err := s.Get(t.Context(), "1")
	wantError(t, err, store.ErrFailed, "check the disk") // Somebody writes, and might be trying.
	s.writeMu.Unlock()
	if _, err := s.Get(t.Context(), "1"); err != nil {
		t.Errorf("after the disk is well again: %v", err)
	}
	if _, err := s.Get(t.Context(), "new"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what was not acknowledged: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestFailedClose: a store that failed can be closed.
func TestFailedClose(t *testing.T) {
	s := failedStore(t)
	s.path += ".away"
	s.writeMu.Lock()
	s.fail(txid(t, s), store.ErrFailed)
	s.writeMu.Unlock()
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}

// TestAfterFailure: after a write that failed in an unknown state nothing is
// answered any more; after one that did not begin the store goes on.
func TestAfterFailure(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	var id int
	if err := s.db.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	err = afterFailure(s.db, id+1, syscall.ENOSPC)
	if errors.Is(err, store.ErrFailed) || !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, store.ErrNoSpace) || !strings.Contains(err.Error(), s.path) {
		t.Errorf("meta page not written: %v", err)
	}
	wantError(t, afterFailure(s.db, id+1, errors.New("file resize error: truncate x: no space left on device")), store.ErrNoSpace, "make room")
	wantError(t, afterFailure(s.db, id, syscall.EIO), store.ErrFailed, "check the disk")
}

// TestReadersWait: what a power cut could take back is not shown. It is shown
// once it is durable, and never where that failed.
func TestReadersWait(t *testing.T) {
	s, err := Open(filled(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	// The newest transaction, as if it were not flushed yet.
	id := txid(t, s)
	writing := func() {
		s.settling.settled = id - 1
		s.settling.begin()
	}
	read := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := s.Get(ctx, "1")
			done <- err
		}()
		return done
	}
	for durable, want := range map[int]error{id: nil, 0: store.ErrFailed} {
		writing()
		done := read(ctx)
		select {
		case err := <-done:
			t.Fatalf("answered before it was durable: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		s.settling.end(durable)
		if err := <-done; !errors.Is(err, want) {
			t.Errorf("durable %d: %v", durable, err)
		}
	}
	writing()
	ending, cancel := context.WithCancel(ctx)
	done := read(ending)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a reader that gave up: %v", err)
	}
	s.settling.end(id)
	// A transaction that changes nothing has the number of the next that does.
	if _, err := s.Txn(ctx, nil, nil); err != nil {
		t.Fatal(err)
	}
	if s.settling.settled != id {
		t.Errorf("settled up to %d, of %d", s.settling.settled, id)
	}
	if _, err := s.Txn(ctx, nil, []store.Op{{Key: "new"}}); err != nil {
		t.Fatal(err)
	}
	if got := txid(t, s); s.settling.settled != got {
		t.Errorf("settled up to %d, of %d", s.settling.settled, got)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
