// Package storetest is what every implementation of store.Store must pass:
//
//	func TestMain(m *testing.M) {
//		storetest.CrashMain(open) // returns unless this is the child of Crash
//		os.Exit(m.Run())
//	}
//	func TestStore(t *testing.T) { storetest.Run(t, open) }
//	func TestCrash(t *testing.T) { storetest.Crash(t, open) }
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

// Opener opens the store that lives in a directory, or makes a new one there.
type Opener func(dir string) (store.Store, error)

// Run runs the suite.
func Run(t *testing.T, open Opener) {
	t.Helper()
	for _, tc := range []struct {
		name string
		test func(*testing.T, Opener)
	}{
		{"ReadsWhatWasWritten", testReadWrite},
		{"Conditions", testConditions},
		{"Revisions", testRevisions},
		{"List", testList},
		{"All", testAll},
		{"Limits", testLimits},
		{"KeepsNoReferenceToArguments", testArguments},
		{"Persists", testPersists},
		{"Closed", testClosed},
		{"Cancelled", testCancelled},
		{"WatchTellsEverything", testWatch},
		{"WatchEnds", testWatchEnds},
		{"WatchSlowReader", testWatchSlow},
		{"WatchKeepsACopyRight", testWatchCopy},
		{"ConcurrentCounters", testCounters},
		{"Model", testModel},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, open) })
	}
}

// start opens a new store that is closed at the end of the test.
func start(t *testing.T, open Opener) store.Store {
	t.Helper()
	s, err := open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return s
}

func mustTxn(t *testing.T, s store.Store, conds []store.Cond, ops ...store.Op) uint64 {
	t.Helper()
	rev, err := s.Txn(t.Context(), conds, ops)
	if err != nil {
		t.Fatalf("Txn(%v, %d ops): %v", conds, len(ops), err)
	}
	return rev
}

func put(key, value string) store.Op { return store.Op{Key: key, Value: []byte(value)} }
func del(key string) store.Op        { return store.Op{Key: key, Delete: true} }

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", what, got, want)
	}
}

// content is everything below a prefix, as text.
func content(t *testing.T, s store.Store, prefix string) []string {
	t.Helper()
	var all []string
	for kv, err := range store.All(t.Context(), s, prefix) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%s=%s@%d", kv.Key, kv.Value, kv.Revision))
	}
	return all
}

func wantContent(t *testing.T, s store.Store, prefix string, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, content(t, s, prefix)); d != "" {
		t.Errorf("content of %q (-want +got):\n%s", prefix, d)
	}
}

func testReadWrite(t *testing.T, open Opener) {
	s := start(t, open)
	ctx := t.Context()
	_, err := s.Get(ctx, "missing")
	wantErr(t, "Get of a missing key", err, store.ErrNotFound)

	values := map[string][]byte{
		"text": []byte("hello"), "empty": {}, "nil": nil, "binary": {0, 1, 0xff, 0},
		"large": bytes.Repeat([]byte{7}, 300<<10), "unicode/ä/☃": []byte("ü"), "sp ace\x00nul": []byte("x"),
	}
	var ops []store.Op
	for k, v := range values {
		ops = append(ops, store.Op{Key: k, Value: v})
	}
	rev := mustTxn(t, s, nil, ops...)
	for k, v := range values {
		kv, err := s.Get(ctx, k)
		if err != nil || kv.Key != k || !bytes.Equal(kv.Value, v) || kv.Revision != rev {
			t.Errorf("Get(%q) = %q, %d bytes, revision %d, %v", k, kv.Key, len(kv.Value), kv.Revision, err)
		}
	}
	mustTxn(t, s, nil, put("text", "again"), del("empty"))
	if kv, err := s.Get(ctx, "text"); err != nil || string(kv.Value) != "again" || kv.Revision <= rev {
		t.Errorf("after overwriting: %q, revision %d, %v", kv.Value, kv.Revision, err)
	}
	_, err = s.Get(ctx, "empty")
	wantErr(t, "Get of a deleted key", err, store.ErrNotFound)
}

func testConditions(t *testing.T, open Opener) {
	s := start(t, open)
	ctx := t.Context()
	r1 := mustTxn(t, s, []store.Cond{{Key: "a"}}, put("a", "1"), put("b", "1"))
	before := content(t, s, "")
	for name, conds := range map[string][]store.Cond{
		"exists":           {{Key: "a"}},
		"other revision":   {{Key: "a", Revision: r1 + 1}},
		"lower revision":   {{Key: "a", Revision: r1 - 1}},
		"missing":          {{Key: "c", Revision: r1}},
		"one of many":      {{Key: "a", Revision: r1}, {Key: "c"}, {Key: "b"}},
		"key only in cond": {{Key: "b", Revision: 1 << 60}},
	} {
		_, err := s.Txn(ctx, conds, []store.Op{put("a", "2"), put("c", "2"), del("b")})
		wantErr(t, name, err, store.ErrConflict)
	}
	if d := cmp.Diff(before, content(t, s, "")); d != "" {
		t.Errorf("transactions in conflict changed something:\n%s", d)
	}
	r2 := mustTxn(t, s, []store.Cond{{Key: "a", Revision: r1}, {Key: "b", Revision: r1}, {Key: "c"}}, put("a", "2"), del("b"))
	wantContent(t, s, "", fmt.Sprintf("a=2@%d", r2))
	// A key that was deleted and made again has not the old revision.
	mustTxn(t, s, []store.Cond{{Key: "b"}}, put("b", "1"))
	_, err := s.Txn(ctx, []store.Cond{{Key: "b", Revision: r1}}, []store.Op{put("b", "3")})
	wantErr(t, "condition on an earlier life of a key", err, store.ErrConflict)
	// Conditions alone only ask.
	if _, err := s.Txn(ctx, []store.Cond{{Key: "a", Revision: r2}}, nil); err != nil {
		t.Errorf("conditions that hold, without operations: %v", err)
	}
	_, err = s.Txn(ctx, []store.Cond{{Key: "a"}}, nil)
	wantErr(t, "conditions that do not hold, without operations", err, store.ErrConflict)
}

func testRevisions(t *testing.T, open Opener) {
	s := start(t, open)
	r1 := mustTxn(t, s, nil, put("a", "1"))
	if r1 == 0 {
		t.Error("revision 0 means that a key does not exist")
	}
	if r := mustTxn(t, s, nil); r != r1 {
		t.Errorf("a transaction without operations: revision %d, want %d", r, r1)
	}
	if r := mustTxn(t, s, nil, del("missing")); r != r1 {
		t.Errorf("deleting nothing: revision %d, want %d", r, r1)
	}
	r2 := mustTxn(t, s, nil, put("b", "1"), put("c", "1"))
	if r2 <= r1 {
		t.Errorf("revision %d after %d", r2, r1)
	}
	r3 := mustTxn(t, s, nil, put("a", "1"))
	if r3 <= r2 {
		t.Errorf("writing the same value: revision %d after %d", r3, r2)
	}
	wantContent(t, s, "", fmt.Sprintf("a=1@%d", r3), fmt.Sprintf("b=1@%d", r2), fmt.Sprintf("c=1@%d", r2))
	if r := mustTxn(t, s, nil, del("b")); r <= r3 {
		t.Errorf("deleting: revision %d after %d", r, r3)
	}
}

func testList(t *testing.T, open Opener) {
	s := start(t, open)
	for _, k := range []string{"a", "b", "b/1", "b/10", "b/2", "b/2/x", "b0", "c", "b/é"} {
		mustTxn(t, s, nil, put(k, k))
	}
	for _, tc := range []struct {
		prefix, after string
		limit         int
		want          string
	}{
		{"", "", 1000, "a b b/1 b/10 b/2 b/2/x b/é b0 c"},
		{"b/", "", 1000, "b/1 b/10 b/2 b/2/x b/é"},
		{"b", "", 3, "b b/1 b/10"},
		{"b", "b", 2, "b/1 b/10"},
		{"b/", "b/10", 1000, "b/2 b/2/x b/é"},
		{"b/", "b/15", 1, "b/2"},
		{"b/", "b/é", 1000, ""},
		{"b/", "z", 1000, ""},
		{"b/", "a", 1000, "b/1 b/10 b/2 b/2/x b/é"},
		{"b/2", "b/2", 1000, "b/2/x"},
		{"x", "", 1000, ""},
		{"", "b0", 1000, "c"},
	} {
		kvs, err := s.List(t.Context(), tc.prefix, tc.after, tc.limit)
		var keys []string
		for _, kv := range kvs {
			keys = append(keys, kv.Key)
			if string(kv.Value) != kv.Key || kv.Revision == 0 {
				t.Errorf("%q has value %q, revision %d", kv.Key, kv.Value, kv.Revision)
			}
		}
		if got := strings.Join(keys, " "); err != nil || got != tc.want {
			t.Errorf("List(%q, %q, %d) = %q, %v; want %q", tc.prefix, tc.after, tc.limit, got, err, tc.want)
		}
	}
	for _, limit := range []int{0, -1, store.MaxList + 1} {
		_, err := s.List(t.Context(), "", "", limit)
		wantErr(t, fmt.Sprintf("limit %d", limit), err, store.ErrInvalid)
	}
}

func testAll(t *testing.T, open Opener) {
	s := start(t, open)
	const n = 1000
	var ops []store.Op
	for i := range n {
		ops = append(ops, put(fmt.Sprintf("k/%04d", i), "v"))
		if len(ops) == store.MaxOps {
			mustTxn(t, s, nil, ops...)
			ops = nil
		}
	}
	mustTxn(t, s, nil, put("j", "v"), put("l", "v"))
	seen := 0
	for kv, err := range store.All(t.Context(), s, "k/") {
		if want := fmt.Sprintf("k/%04d", seen); err != nil || kv.Key != want {
			t.Fatalf("got %q, %v; want %q", kv.Key, err, want)
		}
		seen++
	}
	if seen != n {
		t.Errorf("saw %d keys, want %d", seen, n)
	}
	for _, err := range store.All(t.Context(), s, "k/") {
		if err != nil {
			t.Error(err)
		}
		break // stopping early is fine
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range store.All(ctx, s, "k/") {
		wantErr(t, "All after the context ended", err, context.Canceled)
	}
}
