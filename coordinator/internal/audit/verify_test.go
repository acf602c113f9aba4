package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/coordinator/internal/store/bolt"
)

// TestVerifyFindsTampering writes a log, tampers with it in a random way
// through the store, and expects Verify to say so.
func TestVerifyFindsTampering(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "audit")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		s, err := bolt.Open(filepath.Join(dir, "fleet.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		ctx := t.Context()
		l, err := Open(ctx, s, func() time.Time { return noon }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.IntRange(2, 12).Draw(t, "events")
		for left := n; left > 0; {
			k := rapid.IntRange(1, left).Draw(t, "together")
			left -= k
			c := Change{}
			for range k {
				c.Entries = append(c.Entries, Entry{
					Actor: "host/box1", Kind: "reported", Machine: "box1",
					Message: rapid.StringN(0, 20, 80).Draw(t, "message"), Alarm: rapid.Bool().Draw(t, "alarm"),
				})
			}
			if err := l.Commit(ctx, c); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Verify(ctx); err != nil {
			t.Fatalf("before tampering: %v", err)
		}
		head, err := l.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		seq := rapid.Uint64Range(1, uint64(n))
		get := func(key string) []byte {
			kv, err := s.Get(ctx, key)
			if err != nil {
				t.Fatal(err)
			}
			return slices.Clone(kv.Value)
		}
		i := seq.Draw(t, "record")
		var ops []store.Op
		switch kind := rapid.SampledFrom([]string{"alter", "drop", "drop tail", "swap", "move", "copy", "append", "head", "foreign", "no head"}).Draw(t, "tampering"); kind {
		case "alter":
			b := get(recordKey(i))
			at := rapid.IntRange(0, len(b)-1).Draw(t, "byte")
			b[at] ^= byte(1 << rapid.IntRange(0, 7).Draw(t, "bit"))
			ops = []store.Op{{Key: recordKey(i), Value: b}}
		case "drop":
			ops = []store.Op{{Key: recordKey(i), Delete: true}}
		case "drop tail":
			for ; i <= uint64(n); i++ {
				ops = append(ops, store.Op{Key: recordKey(i), Delete: true})
			}
		case "swap", "copy":
			j := seq.Filter(func(j uint64) bool { return j != i }).Draw(t, "other")
			ops = []store.Op{{Key: recordKey(i), Value: get(recordKey(j))}}
			if kind == "swap" {
				ops = append(ops, store.Op{Key: recordKey(j), Value: get(recordKey(i))})
			}
		case "move": // everything from i on moves down by one, numbers made to fit
			for ; i < uint64(n); i++ {
				var r record
				if err := json.Unmarshal(get(recordKey(i+1)), &r); err != nil {
					t.Fatal(err)
				}
				r.Seq = i
				b, err := json.Marshal(r)
				if err != nil {
					t.Fatal(err)
				}
				ops = append(ops, store.Op{Key: recordKey(i), Value: b})
			}
			ops = append(ops, store.Op{Key: recordKey(i), Delete: true})
		case "append": // a record that chains well, but that nobody wrote
			op, _, err := encode(newHead(head), noon, Entry{Kind: "forged"})
			if err != nil {
				t.Fatal(err)
			}
			ops = []store.Op{op}
		case "head":
			h := newHead(head)
			if rapid.Bool().Draw(t, "number") {
				h.Seq += rapid.SampledFrom([]uint64{1, 5, ^uint64(0)}).Draw(t, "by")
			} else {
				h.Hash = hashOf([]byte("other"))
			}
			b, err := json.Marshal(h)
			if err != nil {
				t.Fatal(err)
			}
			ops = []store.Op{{Key: headKey, Value: b}}
		case "foreign":
			ops = []store.Op{{Key: Prefix + rapid.StringMatching(`[0-9a-z]{1,22}`).Draw(t, "key"), Value: get(recordKey(i))}}
		case "no head":
			ops = []store.Op{{Key: headKey, Delete: true}}
		}
		if _, err := s.Txn(ctx, nil, ops); err != nil {
			t.Fatal(err)
		}
		if err := l.Verify(ctx); !errors.Is(err, ErrTampered) {
			t.Fatalf("Verify found nothing: %v", err)
		}
	})
}

func newHead(c Checkpoint) head { return head(c) }

// TestVerifyCheckpoints: a chain that was rewritten as a whole, or cut off
// together with its head, shows only against what others know.
func TestVerifyCheckpoints(t *testing.T) {
	ctx := t.Context()
	l := newLog(t, newStore(t))
	var points []Checkpoint
	for i := range 5 {
		mustCommit(t, l, said(fmt.Sprint(i)))
		h, err := l.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		points = append(points, h)
	}
	if err := l.Verify(ctx, points...); err != nil {
		t.Error(err)
	}
	shorter, other := newLog(t, newStore(t)), newLog(t, newStore(t))
	for i := range 5 {
		if i < 3 {
			mustCommit(t, shorter, said(fmt.Sprint(i)))
		}
		mustCommit(t, other, said(fmt.Sprint(i+i/2)))
	}
	for name, l := range map[string]*Log{"shorter": shorter, "other": other} {
		if err := l.Verify(ctx); err != nil {
			t.Errorf("%s: in itself it is right: %v", name, err)
		}
		if err := l.Verify(ctx, points[:2]...); err != nil {
			t.Errorf("%s: up to here nothing differs: %v", name, err)
		}
		if err := l.Verify(ctx, points[4]); !errors.Is(err, ErrTampered) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	bad := Checkpoint{Seq: 1, Hash: points[1].Hash}
	if err := l.Verify(ctx, points[0], bad); !errors.Is(err, ErrTampered) {
		t.Errorf("checkpoints that contradict each other: %v", err)
	}
}

// TestVerifyWhileWriting: whoever writes meanwhile is no tamperer.
func TestVerifyWhileWriting(t *testing.T) {
	l := newLog(t, newStore(t))
	var g errgroup.Group
	done := make(chan struct{})
	for range 4 {
		g.Go(func() error {
			for range 100 {
				if err := l.Commit(t.Context(), said("x")); err != nil {
					return err
				}
			}
			return nil
		})
	}
	verified := make(chan error, 1)
	go func() {
		for {
			if err := l.Verify(t.Context()); err != nil {
				verified <- err
				return
			}
			select {
			case <-done:
				verified <- nil
				return
			default:
			}
		}
	}()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	close(done)
	if err := <-verified; err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	op, _, err := encode(head{Hash: origin}, noon, Entry{Actor: "operator/ann", Kind: "said", Message: "x"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(op.Key, op.Value)
	f.Add(Prefix+"1", []byte("{}"))
	f.Add("", []byte(nil))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		e, _, err := decode(store.KV{Key: key, Value: value})
		if err != nil && !errors.Is(err, ErrTampered) {
			t.Errorf("error without a name: %v", err)
		}
		if err == nil && recordKey(e.Seq) != key {
			t.Errorf("record %d under %q", e.Seq, key)
		}
	})
}
