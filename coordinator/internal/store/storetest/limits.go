package storetest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

func testLimits(t *testing.T, open Opener) {
	s := start(t, open)
	many := func(n int) (ops []store.Op, conds []store.Cond) {
		for i := range n {
			ops = append(ops, put(fmt.Sprintf("many/%d", i), ""))
			conds = append(conds, store.Cond{Key: fmt.Sprintf("none/%d", i)})
		}
		return ops, conds
	}
	fullOps, fullConds := many(store.MaxOps)
	overOps, overConds := many(store.MaxOps + 1)
	big := store.Op{Key: "big", Value: make([]byte, store.MaxTxnBytes-len("big"))}
	bigger := store.Op{Key: "big", Value: make([]byte, store.MaxTxnBytes)}
	longKey := strings.Repeat("k", store.MaxKeyBytes)

	for name, tc := range map[string]struct {
		conds []store.Cond
		ops   []store.Op
		want  error
	}{
		"most operations":          {nil, fullOps, nil},
		"too many operations":      {nil, overOps, store.ErrTooLarge},
		"most conditions":          {fullConds, nil, nil},
		"too many conditions":      {overConds, nil, store.ErrTooLarge},
		"most bytes":               {nil, []store.Op{big}, nil},
		"too many bytes":           {nil, []store.Op{bigger}, store.ErrTooLarge},
		"too many with conditions": {[]store.Cond{{Key: "x"}}, []store.Op{big}, store.ErrTooLarge},
		"longest key":              {nil, []store.Op{put(longKey, "")}, nil},
		"longer key":               {nil, []store.Op{put(longKey+"k", "")}, store.ErrInvalid},
		"longer key in condition":  {[]store.Cond{{Key: longKey + "k"}}, nil, store.ErrInvalid},
		"empty key":                {nil, []store.Op{put("", "v")}, store.ErrInvalid},
		"empty key to delete":      {nil, []store.Op{del("")}, store.ErrInvalid},
		"not UTF-8":                {nil, []store.Op{put("\xff", "v")}, store.ErrInvalid},
		"a key twice":              {nil, []store.Op{put("a", "1"), put("a", "2")}, store.ErrInvalid},
		"put and delete":           {nil, []store.Op{put("a", "1"), del("a")}, store.ErrInvalid},
		"a condition twice":        {[]store.Cond{{Key: "n"}, {Key: "n"}}, nil, nil},
	} {
		if _, err := s.Txn(t.Context(), tc.conds, tc.ops); tc.want == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if tc.want != nil {
			wantErr(t, name, err, tc.want)
		}
	}
	for _, key := range []string{"", longKey + "k", "\xff"} {
		_, err := s.Get(t.Context(), key)
		wantErr(t, fmt.Sprintf("Get of a malformed key of %d bytes", len(key)), err, store.ErrInvalid)
	}
}

func testArguments(t *testing.T, open Opener) {
	s := start(t, open)
	value := []byte("before")
	events, err := s.Watch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	mustTxn(t, s, nil, store.Op{Key: "a", Value: value})
	copy(value, "AFTER!")
	if e := <-events; string(e.Value) != "before" {
		t.Errorf("an event changed with the caller's slice: %q", e.Value)
	}
	if kv, err := s.Get(t.Context(), "a"); err != nil || string(kv.Value) != "before" {
		t.Errorf("a value changed with the caller's slice: %q, %v", kv.Value, err)
	}
}

func testPersists(t *testing.T, open Opener) {
	dir := t.TempDir()
	var want []string
	var last uint64
	for round := range 4 {
		s, err := open(dir)
		if err != nil {
			t.Fatal(err)
		}
		wantContent(t, s, "", want...)
		rev := mustTxn(t, s, nil, put(fmt.Sprintf("k/%d", round), "v"))
		if rev <= last {
			t.Errorf("revision %d after opening again, was %d", rev, last)
		}
		last = rev
		want = append(want, fmt.Sprintf("k/%d=v@%d", round, rev))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func testClosed(t *testing.T, open Opener) {
	s, err := open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	events, err := s.Watch(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if _, open := <-events; open {
		t.Error("a watch outlives its store")
	}
	_, err = s.Get(ctx, "a")
	wantErr(t, "Get", err, store.ErrClosed)
	_, err = s.List(ctx, "", "", 1)
	wantErr(t, "List", err, store.ErrClosed)
	_, err = s.Txn(ctx, nil, []store.Op{put("a", "1")})
	wantErr(t, "Txn", err, store.ErrClosed)
	_, err = s.Watch(ctx, "")
	wantErr(t, "Watch", err, store.ErrClosed)
}

func testCancelled(t *testing.T, open Opener) {
	s := start(t, open)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Get(ctx, "a")
	wantErr(t, "Get", err, context.Canceled)
	_, err = s.List(ctx, "", "", 1)
	wantErr(t, "List", err, context.Canceled)
	_, err = s.Txn(ctx, nil, []store.Op{put("a", "1")})
	wantErr(t, "Txn", err, context.Canceled)
	_, err = s.Watch(ctx, "")
	wantErr(t, "Watch", err, context.Canceled)
	wantContent(t, s, "")
}
