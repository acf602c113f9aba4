package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/coordinator/internal/store/bolt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newStore(t testing.TB) store.Store {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newLog(t testing.TB, s store.Store) *Log {
	t.Helper()
	l, err := Open(t.Context(), s, func() time.Time { return noon }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// said is a change that does nothing but say something.
func said(message string) Change {
	return Change{Entries: []Entry{{Actor: "operator/ann", Kind: "said", Message: message}}}
}

func mustCommit(t testing.TB, l *Log, changes ...Change) {
	t.Helper()
	for _, c := range changes {
		if err := l.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

func messages(t *testing.T, l *Log) (all []string) {
	t.Helper()
	events, err := l.Read(t.Context(), 0, store.MaxList)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		all = append(all, e.Message)
	}
	return all
}

func TestCommitAndRead(t *testing.T) {
	s := newStore(t)
	l := newLog(t, s)
	if h, err := l.Head(t.Context()); err != nil || h.Seq != 0 {
		t.Errorf("head of an empty log: %v, %v", h, err)
	}
	entries := []Entry{
		{Actor: "operator/ann", Kind: "published", Message: "release 7"},
		{Actor: "host/box1", Kind: "enrolled", Machine: "box1", Alarm: true, Message: "<a> & \x00 \xff"},
	}
	mustCommit(t, l, Change{Ops: []store.Op{{Key: "head", Value: []byte("7")}}, Entries: entries}, said("third"))
	if kv, err := s.Get(t.Context(), "head"); err != nil || string(kv.Value) != "7" {
		t.Errorf("the change itself: %q, %v", kv.Value, err)
	}
	events, err := newLog(t, s).Read(t.Context(), 1, 10)
	if err != nil {
		t.Fatal(err)
	}
	entries[1].Message = "<a> & \x00 \ufffd" // what is no text is not kept
	want := []Event{
		{Entry: entries[0], Seq: 1, Time: noon, Hash: events[0].Hash},
		{Entry: entries[1], Seq: 2, Time: noon, Hash: events[1].Hash},
		{Entry: said("third").Entries[0], Seq: 3, Time: noon, Hash: events[2].Hash},
	}
	if d := cmp.Diff(want, events); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	for i, e := range events {
		kv, err := s.Get(t.Context(), recordKey(e.Seq))
		if err != nil || hashOf(kv.Value) != e.Hash {
			t.Errorf("hash of record %d: %v", e.Seq, err)
		}
		if i > 0 && !strings.Contains(string(kv.Value), events[i-1].Hash) {
			t.Errorf("record %d does not hold the hash of the one before", e.Seq)
		}
	}
	if h, err := l.Head(t.Context()); err != nil || h != (Checkpoint{3, events[2].Hash}) {
		t.Errorf("head %v, %v", h, err)
	}
	if page, err := l.Read(t.Context(), 2, 1); err != nil || len(page) != 1 || page[0].Seq != 2 {
		t.Errorf("Read(2, 1) = %v, %v", page, err)
	}
	if page, err := l.Read(t.Context(), 4, 10); err != nil || len(page) != 0 {
		t.Errorf("Read beyond the end = %v, %v", page, err)
	}
	if err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestConflict(t *testing.T) {
	s := newStore(t)
	l := newLog(t, s)
	op := store.Op{Key: "head", Value: []byte("1")}
	first := Change{Conds: []store.Cond{{Key: "head"}}, Ops: []store.Op{op}, Entries: said("first").Entries}
	mustCommit(t, l, first)
	first.Entries = said("again").Entries
	if err := l.Commit(t.Context(), first); !errors.Is(err, store.ErrConflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	mustCommit(t, l, said("after"))
	if d := cmp.Diff([]string{"first", "after"}, messages(t, l)); d != "" {
		t.Errorf("messages (-want +got):\n%s", d)
	}
	if err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	l := newLog(t, newStore(t))
	var ops []store.Op
	for i := range MaxEntries {
		ops = append(ops, store.Op{Key: fmt.Sprint(i)})
	}
	e := said("x").Entries
	for name, tc := range map[string]struct {
		c    Change
		want error
	}{
		"no event":         {Change{Ops: ops[:1]}, store.ErrInvalid},
		"most operations":  {Change{Ops: ops[:MaxEntries-1], Entries: e}, nil},
		"one more":         {Change{Ops: ops, Entries: e}, store.ErrTooLarge},
		"malformed key":    {Change{Ops: []store.Op{{Key: ""}}, Entries: e}, store.ErrInvalid},
		"too many bytes":   {Change{Ops: []store.Op{{Key: "k", Value: make([]byte, store.MaxTxnBytes)}}, Entries: e}, store.ErrTooLarge},
		"a long message":   {said(strings.Repeat("ä", MaxMessage)), nil},
		"most entries":     {Change{Entries: repeat(e[0], MaxEntries)}, nil},
		"too many entries": {Change{Entries: repeat(e[0], MaxEntries+1)}, store.ErrTooLarge},
	} {
		if err := l.Commit(t.Context(), tc.c); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	if err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func repeat(e Entry, n int) []Entry {
	all := make([]Entry, n)
	for i := range all {
		all[i] = e
	}
	return all
}

func TestClip(t *testing.T) {
	for _, s := range []string{"", "short", strings.Repeat("x", MaxMessage), strings.Repeat("☃", MaxMessage), "x" + strings.Repeat("ä", MaxMessage)} {
		got := clip(s)
		if len(got) > MaxMessage+len("…") || !strings.HasPrefix(s, strings.TrimSuffix(got, "…")) {
			t.Errorf("clip of %d bytes: %d bytes", len(s), len(got))
		}
	}
}

func TestFollow(t *testing.T) {
	s := newStore(t)
	l := newLog(t, s)
	const before, after = readPage + 10, 50
	for i := range before {
		mustCommit(t, l, said(fmt.Sprint(i+1)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	caughtUp := make(chan struct{})
	written := make(chan error, 1)
	go func() {
		<-caughtUp
		for i := range after {
			if err := l.Commit(ctx, said(fmt.Sprint(before+i+1))); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	next := uint64(2)
	for e, err := range l.Follow(ctx, next) {
		if next > before+after {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the end: %v", err)
			}
			break
		}
		if err != nil || e.Seq != next || e.Message != fmt.Sprint(next) {
			t.Fatalf("event %d %q, %v; want %d", e.Seq, e.Message, err, next)
		}
		if next == before {
			close(caughtUp)
		}
		if next == before+after {
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			cancel()
		}
		next++
	}
	cancel()
	if next != before+after+1 {
		t.Errorf("ended before %d", next)
	}
	for e, err := range l.Follow(t.Context(), 0) {
		if err != nil || e.Seq != 1 {
			t.Errorf("from 0: begins with %d, %v", e.Seq, err)
		}
		break
	}
}

func TestFollowEndsWithTheStore(t *testing.T) {
	s, err := bolt.Open(filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(t, s)
	mustCommit(t, l, said("one"))
	for e, err := range l.Follow(t.Context(), 1) {
		if e.Seq == 1 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}
