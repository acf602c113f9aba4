package storetest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

// testCounters: no increment by compare-and-swap is lost, and transactions
// that run at the same time touch both keys or none.
func testCounters(t *testing.T, open Opener) {
	s := start(t, open)
	ctx := t.Context()
	const workers, each = 8, 25
	var g errgroup.Group
	for range workers {
		g.Go(func() error {
			for done := 0; done < each; {
				kv, err := s.Get(ctx, "left")
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					return err
				}
				n, _ := strconv.Atoi(string(kv.Value)) // nothing is 0
				next := strconv.Itoa(n + 1)
				_, err = s.Txn(ctx, []store.Cond{{Key: "left", Revision: kv.Revision}}, []store.Op{put("left", next), put("right", next)})
				switch {
				case err == nil:
					done++
				case !errors.Is(err, store.ErrConflict):
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"left", "right"} {
		if kv, err := s.Get(ctx, key); err != nil || string(kv.Value) != strconv.Itoa(workers*each) {
			t.Errorf("%s is %s, %v; want %d", key, kv.Value, err, workers*each)
		}
	}
}

// model is what a store should be, as a map.
type model struct {
	kvs map[string]store.KV
	rev uint64
}

func (m *model) txn(conds []store.Cond, ops []store.Op) error {
	for _, c := range conds {
		if m.kvs[c.Key].Revision != c.Revision {
			return store.ErrConflict
		}
	}
	changed := false
	for _, op := range ops {
		if _, there := m.kvs[op.Key]; there || !op.Delete {
			changed = true
		}
	}
	if changed {
		m.rev++
	}
	for _, op := range ops {
		if op.Delete {
			delete(m.kvs, op.Key)
		} else {
			m.kvs[op.Key] = store.KV{Key: op.Key, Value: op.Value, Revision: m.rev}
		}
	}
	return nil
}

func (m *model) list(prefix, after string, limit int) []store.KV {
	var kvs []store.KV
	for k, kv := range m.kvs {
		if strings.HasPrefix(k, prefix) && k > after {
			kvs = append(kvs, kv)
		}
	}
	slices.SortFunc(kvs, func(a, b store.KV) int { return strings.Compare(a.Key, b.Key) })
	return kvs[:min(limit, len(kvs))]
}

// testModel compares random histories, restarts included, with a map. The
// store's revisions may begin anywhere and skip; they are only compared with
// each other.
func testModel(t *testing.T, open Opener) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "storetest")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		s, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		ctx := t.Context()
		m := &model{kvs: map[string]store.KV{}}
		key := rapid.SampledFrom([]string{"a", "a/1", "a/2", "a/2/3", "b", "b/1"})
		t.Repeat(map[string]func(*rapid.T){
			"txn": func(t *rapid.T) {
				var conds []store.Cond
				for _, k := range rapid.SliceOfN(key, 0, 3).Draw(t, "conds") {
					c := store.Cond{Key: k, Revision: m.kvs[k].Revision}
					if rapid.IntRange(0, 5).Draw(t, "spoil") == 0 {
						c.Revision++
					}
					conds = append(conds, c)
				}
				var ops []store.Op
				for _, k := range rapid.SliceOfNDistinct(key, 0, 4, rapid.ID).Draw(t, "ops") {
					if rapid.Bool().Draw(t, "delete") {
						ops = append(ops, del(k))
					} else {
						ops = append(ops, put(k, rapid.StringN(0, 8, 32).Draw(t, "value")))
					}
				}
				was := m.rev
				want := m.txn(conds, ops)
				rev, err := s.Txn(ctx, conds, ops)
				if !errors.Is(err, want) {
					t.Fatalf("Txn: %v, want %v", err, want)
				}
				if err != nil {
					return
				}
				if rev < m.rev || rev < was {
					t.Fatalf("revision %d, want at least %d", rev, m.rev)
				}
				for k, kv := range m.kvs { // take over revisions that skip
					if kv.Revision == m.rev && m.rev != was {
						kv.Revision = rev
						m.kvs[k] = kv
					}
				}
				m.rev = rev
			},
			"list": func(t *rapid.T) {
				prefix := rapid.SampledFrom([]string{"", "a", "a/", "b", "c"}).Draw(t, "prefix")
				after := rapid.OneOf(key, rapid.Just("")).Draw(t, "after")
				limit := rapid.IntRange(1, 8).Draw(t, "limit")
				got, err := s.List(ctx, prefix, after, limit)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(text(m.list(prefix, after, limit)), text(got)); d != "" {
					t.Fatalf("List(%q, %q, %d) (-want +got):\n%s", prefix, after, limit, d)
				}
			},
			"restart": func(t *rapid.T) {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = open(dir); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				for _, k := range []string{"a", "a/1", "b/1"} {
					want, there := m.kvs[k]
					got, err := s.Get(ctx, k)
					if there != (err == nil) || there && cmp.Diff(text([]store.KV{want}), text([]store.KV{got})) != "" {
						t.Fatalf("Get(%q) = %v, %v; want %v, %v", k, got, err, want, there)
					}
				}
			},
		})
	})
}

func text(kvs []store.KV) []string {
	all := []string{}
	for _, kv := range kvs {
		all = append(all, fmt.Sprintf("%s=%q@%d", kv.Key, kv.Value, kv.Revision))
	}
	return all
}
