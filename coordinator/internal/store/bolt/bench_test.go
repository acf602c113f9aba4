package bolt

import (
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

func benchStore(b *testing.B) *Store {
	b.Helper()
	s, err := Open(filepath.Join(b.TempDir(), "fleet.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// BenchmarkTxn is one durable transaction after the other: what one commit
// takes.
func BenchmarkTxn(b *testing.B) {
	s := benchStore(b)
	value := make([]byte, 512)
	for i := 0; b.Loop(); i++ {
		ops := []store.Op{{Key: "k/" + strconv.Itoa(i%10000), Value: value}}
		if _, err := s.Txn(b.Context(), nil, ops); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTxnParallel is many at once: what sharing a commit brings.
func BenchmarkTxnParallel(b *testing.B) {
	s := benchStore(b)
	value := make([]byte, 512)
	var n atomic.Int64
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ops := []store.Op{{Key: "k/" + strconv.FormatInt(n.Add(1)%10000, 10), Value: value}}
			if _, err := s.Txn(b.Context(), nil, ops); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkGet reads beside no writer.
func BenchmarkGet(b *testing.B) {
	s := benchStore(b)
	if _, err := s.Txn(b.Context(), nil, []store.Op{{Key: "k", Value: make([]byte, 512)}}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Get(b.Context(), "k"); err != nil {
			b.Fatal(err)
		}
	}
}
