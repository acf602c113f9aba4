package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

// varied makes a store with every kind of page: branches, leaves, one with
// overflow, free ones; and returns its file and what is in it.
func varied(t *testing.T) (file []byte, path string, want map[string]string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fleet.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	want = map[string]string{}
	put := func(key, value string) {
		t.Helper()
		if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: key, Value: []byte(value), Delete: value == ""}}); err != nil {
			t.Fatal(err)
		}
		want[key] = value
		if value == "" {
			delete(want, key)
		}
	}
	for i := range 26 {
		put(fmt.Sprintf("key/%02d", i), strings.Repeat(string(rune('a'+i%26)), 150))
	}
	put("large", strings.Repeat("L", 4500))
	put("key/07", "")
	put("key/08", "changed")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if file, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return file, path, want
}

// content reads a store by bbolt alone, after the check.
func content(t *testing.T, path string) (map[string]string, string, error) {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		return nil, "", err
	}
	got := map[string]string{}
	for kv, err := range store.All(t.Context(), s, "") {
		if err != nil {
			t.Fatal(err)
		}
		got[kv.Key] = string(kv.Value)
	}
	notice := s.Notice()
	return got, notice, s.Close()
}

// TestEveryByte flips every byte of what bbolt and the store wrote to find their
// way (heads, entries, metas) and, behind those, every seventh: either that
// is found, or nothing is read that was not written. One thing can't be told
// from a power cut, and is said: a meta page that is lost.
func TestEveryByte(t *testing.T) {
	file, _, _ := varied(t)
	var found, noticed, idle int
	metas, _, err := readMetas(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	size := int(metas[0].pageSize)
	used := newPages(bytes.NewReader(file), metas[0])
	if err := used.check(); err != nil {
		t.Fatal(err)
	}
	var bytesUsed int
	for at := range int(metas[0].pages) * size { //nolint:gosec // Small.
		// Pages that are not in use are never looked at: one byte each will do.
		if page := at / size; page > 1 && used.seen[page/64]&(1<<(page%64)) == 0 && at%size != 3 {
			continue
		}
		const heads = 512 // of a page with fewer than 31 entries
		if at%size >= heads && at%7 != 0 {
			continue
		}
		bytesUsed++
		old := file[at]
		for _, to := range []byte{old ^ 0x01, ^old} {
			file[at] = to
			notice, err := check(bytes.NewReader(file))
			switch {
			case errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrNewerFormat):
				found++
			case err != nil:
				t.Fatalf("byte %d: %v", at, err)
			case notice != "":
				noticed++
				if at >= 2*size {
					t.Errorf("byte %d: %s", at, notice)
				}
			default:
				idle++
			}
		}
		file[at] = old
	}
	if found == 0 || noticed == 0 {
		t.Errorf("%d found, %d noticed, %d in bytes that mean nothing", found, noticed, idle)
	}
	t.Logf("%d bytes: %d found, %d noticed, %d in bytes that mean nothing", bytesUsed, found, noticed, idle)
}

// TestBytesThatMeanNothing opens what the check let pass, by bbolt, for bytes
// at every place of a page: the content is as it was written.
func TestBytesThatMeanNothing(t *testing.T) {
	file, path, want := varied(t)
	step := 97 // of every page another place
	var opened int
	for at := 0; at < len(file) && at < 40*os.Getpagesize(); at += step {
		file[at] ^= 0x10
		if _, err := check(bytes.NewReader(file)); err == nil {
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			got, notice, err := content(t, path)
			if err != nil {
				t.Fatalf("byte %d: %v", at, err)
			}
			if notice == "" && !maps.Equal(got, want) {
				t.Errorf("byte %d: %d entries, %d were written", at, len(got), len(want))
			}
			opened++
		}
		file[at] ^= 0x10
	}
	if opened == 0 {
		t.Error("none passed")
	}
}

// TestCircle: a branch that leads to itself would keep bbolt going until its
// stack is full.
func TestCircle(t *testing.T) {
	file, path, _ := varied(t)
	metas, _, err := readMetas(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	size := int(metas[0].pageSize)
	circles := 0
	for id := 2; id < int(metas[0].pages); id++ { //nolint:gosec // Small.
		page := file[id*size:]
		if native.Uint16(page[8:]) != flagBranch {
			continue
		}
		child := page[pageHeader+8 : pageHeader+elementLen]
		was := native.Uint64(child)
		native.PutUint64(child, uint64(id)) //nolint:gosec // Small.
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(path); err == nil {
			// An older version of the page, which is not in use any more.
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		} else if circles++; !errors.Is(err, store.ErrCorrupt) {
			t.Error(err)
		}
		native.PutUint64(child, was)
	}
	if circles == 0 {
		t.Error("no branch in use")
	}
}

// TestRotWhileOpen changes each page in use below an open store, whose mapping
// sees it: nothing false is answered, nothing panics, and Check finds it.
func TestRotWhileOpen(t *testing.T) {
	file, path, want := varied(t)
	metas, _, err := readMetas(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	size := int(metas[0].pageSize)
	for id := 2; id < int(metas[0].pages); id++ { //nolint:gosec // Small.
		if native.Uint16(file[id*size+8:]) != flagLeaf {
			continue // Circles of branches are for Open to find.
		}
		for _, at := range []int{8, 10, pageHeader + 4, pageHeader + 8, pageHeader + 12, pageHeader + elementLen + 5, size / 2, size - 1} {
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			flip(t, path, id*size+at)
			whole := readAll(t, s, want)
			if err := s.Check(t.Context()); err == nil && !whole {
				t.Errorf("byte %d of page %d: Check finds nothing", at, id)
			} else if err != nil && !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("byte %d of page %d: %v", at, id, err)
			}
			_, err = s.Txn(t.Context(), nil, []store.Op{{Key: "key/20", Value: []byte("new")}, {Key: "zzz", Value: []byte("new")}})
			if err != nil && !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("byte %d of page %d: %v", at, id, err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("byte %d of page %d: closing: %v", at, id, err)
			}
		}
	}
}

func flip(t *testing.T, path string, at int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, int64(at)); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b, int64(at)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// readAll says whether all is there as it was written; what is answered must be.
func readAll(t *testing.T, s *Store, want map[string]string) bool {
	t.Helper()
	whole := true
	for key, value := range want {
		kv, err := s.Get(t.Context(), key)
		switch {
		case err == nil && string(kv.Value) != value:
			t.Errorf("key %s: another value than was written", key)
		case errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrNotFound):
			whole = false
		case err != nil:
			t.Errorf("key %s: %v", key, err)
		}
	}
	for kv, err := range store.All(t.Context(), s, "") {
		if err != nil {
			if !errors.Is(err, store.ErrCorrupt) {
				t.Error(err)
			}
			return false
		}
		if value, ok := want[kv.Key]; !ok || value != string(kv.Value) {
			t.Errorf("key %q: it was not written so", kv.Key)
		}
	}
	return whole
}

// TestTruncatedWhileOpen: a page beyond the end of the file is a fault of the
// mapping, which would kill the process.
func TestTruncatedWhileOpen(t *testing.T) {
	_, path, want := varied(t)
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 2*int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for key := range want {
		if _, err := s.Get(t.Context(), key); errors.Is(err, store.ErrCorrupt) {
			damaged++
		} else if err != nil {
			t.Error(err)
		}
	}
	if damaged == 0 {
		t.Error("nothing was found")
	}
	if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: "key/20", Value: []byte("new")}}); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("writing: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestFromFormatOne opens a store as the first version of the program wrote it.
func TestFromFormatOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	err = db.Update(func(tx *bbolt.Tx) error {
		meta, err1 := tx.CreateBucket(bucketMeta)
		data, err2 := tx.CreateBucket(bucketData)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		for i := range 300 {
			key, value := fmt.Sprintf("key/%d", i), strings.Repeat("v", i)
			want[key] = value
			if err := data.Put([]byte(key), append(binary.BigEndian.AppendUint64(nil, uint64(i+1)), value...)); err != nil { //nolint:gosec // Small.
				return err
			}
		}
		return errors.Join(meta.Put(keyVersion, []byte(formatOne)), meta.Put([]byte("revision"), binary.BigEndian.AppendUint64(nil, 300)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if !readAll(t, s, want) {
			t.Error("something is missing")
		}
		if err := errors.Join(s.Check(context.Background()), s.Close()); err != nil {
			t.Error(err)
		}
	}
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if rev, err := s.Txn(t.Context(), nil, []store.Op{{Key: "next", Value: []byte("x")}}); err != nil || rev != 301 {
		t.Errorf("revision %d, %v", rev, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestSnapshot copies a store while others write.
func TestSnapshot(t *testing.T) {
	_, path, want := varied(t)
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy.db")
	if err := s.Snapshot(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Txn(t.Context(), nil, []store.Op{{Key: "later", Value: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, notice, err := content(t, copied)
	if err != nil || notice != "" || !maps.Equal(got, want) {
		t.Errorf("%d entries, %q, %v", len(got), notice, err)
	}
}

// FuzzCheck: whatever the file holds, it is judged in bounded time, without a
// panic.
func FuzzCheck(f *testing.F) {
	path := filepath.Join(f.TempDir(), "fleet.db")
	s, err := Open(path)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 40 {
		if _, err := s.Txn(f.Context(), nil, []store.Op{{Key: fmt.Sprint(i), Value: make([]byte, 200)}}); err != nil {
			f.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	file = file[:min(len(file), 16*os.Getpagesize())]
	f.Add([]byte{}, uint32(0))
	f.Add([]byte{1}, uint32(2*os.Getpagesize()+10)) //nolint:gosec // Small.
	f.Fuzz(func(_ *testing.T, b []byte, at uint32) {
		altered := bytes.Clone(file)
		copy(altered[min(int(at), len(altered)):], b)
		_, _ = check(bytes.NewReader(altered))
	})
}
