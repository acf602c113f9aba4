package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

func testWatch(t *testing.T, open Opener) {
	s := start(t, open)
	mustTxn(t, s, nil, put("a/0", "before"))
	some, err := s.Watch(t.Context(), "a/")
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.Watch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	r1 := mustTxn(t, s, nil, put("a/1", "x"), put("b/1", "x"))
	_, err = s.Txn(t.Context(), []store.Cond{{Key: "a/1"}}, []store.Op{put("a/2", "conflict")})
	wantErr(t, "conflict", err, store.ErrConflict)
	r2 := mustTxn(t, s, nil, put("a/1", ""), del("a/0"), del("a/missing"))
	kv := func(k, v string, r uint64) store.KV { return store.KV{Key: k, Value: []byte(v), Revision: r} }

	for _, want := range []store.Event{
		{KV: kv("a/1", "x", r1)}, {KV: kv("a/1", "", r2)}, {KV: store.KV{Key: "a/0", Revision: r2}, Deleted: true},
	} {
		if d := cmp.Diff(want, <-some); d != "" {
			t.Errorf("event below a/ (-want +got):\n%s", d)
		}
	}
	for _, want := range []string{"a/1", "b/1", "a/1", "a/0"} {
		if e := <-all; e.Key != want {
			t.Errorf("event of %q, want %q", e.Key, want)
		}
	}
	select {
	case e := <-some:
		t.Errorf("unexpected event %v", e)
	default:
	}
}

func testWatchEnds(t *testing.T, open Opener) {
	s := start(t, open)
	ctx, cancel := context.WithCancel(t.Context())
	ends, err := s.Watch(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	stays, err := s.Watch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	mustTxn(t, s, nil, put("a", "1"))
	if e := <-ends; e.Key != "a" {
		t.Errorf("event of %q", e.Key)
	}
	cancel()
	if e, open := <-ends; open {
		t.Errorf("got %v, want a closed channel", e)
	}
	mustTxn(t, s, nil, put("b", "1"))
	for _, want := range []string{"a", "b"} {
		if e := <-stays; e.Key != want {
			t.Errorf("the other watch: event of %q, want %q", e.Key, want)
		}
	}
}

// testWatchSlow: who does not read is cut off, holds up nobody, and costs a
// bounded amount of memory.
func testWatchSlow(t *testing.T, open Opener) {
	s := start(t, open)
	slow, err := s.Watch(t.Context(), "slow/")
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 200
	ops := make([]store.Op, store.MaxOps)
	for round := range rounds {
		for i := range ops {
			ops[i] = put(fmt.Sprintf("slow/%d", i), fmt.Sprint(round))
		}
		mustTxn(t, s, nil, ops...)
	}
	got, last := 0, uint64(0)
	for e := range slow { // ends only because the channel is closed
		if e.Revision < last {
			t.Errorf("revision %d after %d", e.Revision, last)
		}
		last = e.Revision
		got++
	}
	if got >= rounds*store.MaxOps {
		t.Errorf("all of %d events were kept for somebody who did not read", got)
	}
	large, err := s.Watch(t.Context(), "large")
	if err != nil {
		t.Fatal(err)
	}
	for range 32 {
		mustTxn(t, s, nil, store.Op{Key: "large", Value: make([]byte, store.MaxTxnBytes-16)})
	}
	bytes := 0
	for e := range large {
		bytes += len(e.Value)
	}
	if bytes >= 32*(store.MaxTxnBytes-16) {
		t.Errorf("%d bytes were kept for somebody who did not read", bytes)
	}
}

// testWatchCopy keeps a copy as the package comment of store tells to, while
// others write, and compares it in the end.
func testWatchCopy(t *testing.T, open Opener) {
	s := start(t, open)
	ctx := t.Context()
	type entry struct {
		value    string
		revision uint64
	}
	fill := func() (<-chan store.Event, map[string]entry) {
		events, err := s.Watch(ctx, "k/")
		if err != nil {
			t.Fatal(err)
		}
		state := map[string]entry{}
		for kv, err := range store.All(ctx, s, "k/") {
			if err != nil {
				t.Fatal(err)
			}
			state[kv.Key] = entry{string(kv.Value), kv.Revision}
		}
		return events, state
	}
	var writers errgroup.Group
	begun := make(chan struct{})
	var once sync.Once
	for w := range 4 {
		writers.Go(func() error {
			for i := range 150 {
				op := put(fmt.Sprintf("k/%d", (i*7+w)%40), fmt.Sprint(w, i))
				if i%5 == 0 {
					op = del(op.Key)
				}
				if _, err := s.Txn(ctx, nil, []store.Op{op}); err != nil {
					return err
				}
				once.Do(func() { close(begun) })
			}
			return nil
		})
	}
	<-begun
	events, state := fill()
	written := make(chan error, 1)
	go func() {
		err := writers.Wait()
		_, lerr := s.Txn(ctx, nil, []store.Op{put("k/last", "")})
		written <- errors.Join(err, lerr)
	}()
	for state["k/last"].revision == 0 {
		e, open := <-events
		if !open {
			events, state = fill()
			continue
		}
		switch {
		case e.Revision <= state[e.Key].revision:
		case e.Deleted:
			delete(state, e.Key)
		default:
			state[e.Key] = entry{string(e.Value), e.Revision}
		}
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	want := map[string]entry{}
	for kv, err := range store.All(ctx, s, "k/") {
		if err != nil {
			t.Fatal(err)
		}
		want[kv.Key] = entry{string(kv.Value), kv.Revision}
	}
	if !maps.Equal(state, want) {
		t.Errorf("the copy has %d keys %v, the store %d keys %v", len(state), state, len(want), want)
	}
}
