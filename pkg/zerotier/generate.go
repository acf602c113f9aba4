package zerotier

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
)

// Generate makes an identity of 64 bytes of random, which must be
// cryptographically secure. It searches on all processors that Go may use, each
// with 2 MB, for a tenth of a second or so, half a second when it is unlucky.
// How many processors there are does not matter to which identity is found.
//
// When ctx ends, so does the search, some milliseconds later, with ctx's cause.
func Generate(ctx context.Context, random io.Reader) (*Identity, error) {
	s := search{}
	defer clear(s.start[:])
	if _, err := io.ReadFull(random, s.start[:]); err != nil {
		return nil, fmt.Errorf("making a ZeroTier identity: reading random bytes: %w", err)
	}
	// The half that signs stays as it is in the search; the other one moves.
	copy(s.signing[:], ed25519.NewKeyFromSeed(s.start[32:]).Public().(ed25519.PublicKey))
	s.found.Store(math.MaxUint64)

	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() { s.work(ctx) })
	}
	workers.Wait()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("making a ZeroTier identity: %w", context.Cause(ctx))
	}
	if s.err != nil {
		return nil, fmt.Errorf("making a ZeroTier identity: %w", s.err)
	}
	return s.identity()
}

// search is for the first candidate, by number, that is an identity. Workers
// take numbers in order, so whoever finds one waits only for lower numbers that
// others have begun.
type search struct {
	start   [keyBytes]byte // the private key of candidate 0
	signing [32]byte       // the half of the public key that all candidates share
	next    atomic.Uint64  // the number that nobody has begun
	found   atomic.Uint64  // the lowest number that is an identity

	failed sync.Once
	err    error // read once all workers have ended
}

func (s *search) work(ctx context.Context) {
	d := &digester{}
	var private [keyBytes]byte
	defer clear(private[:])
	for ctx.Err() == nil {
		n := s.next.Add(1) - 1
		if n > s.found.Load() {
			return
		}
		s.candidate(n, &private)
		public, err := s.public(&private)
		if err != nil {
			s.failed.Do(func() { s.err = err })
			return
		}
		if _, ok := addressOf(d.digest(&public)); !ok {
			continue
		}
		for low := s.found.Load(); n < low && !s.found.CompareAndSwap(low, n); {
			low = s.found.Load()
		}
		return
	}
}

// candidate writes the private key with number n. The two counters are those
// that ZeroTier's own search uses; any bits that X25519 does not clamp would do.
func (s *search) candidate(n uint64, private *[keyBytes]byte) {
	*private = s.start
	up, down := private[8:16], private[16:24]
	binary.LittleEndian.PutUint64(up, binary.LittleEndian.Uint64(up)+n)
	binary.LittleEndian.PutUint64(down, binary.LittleEndian.Uint64(down)-n)
}

func (s *search) public(private *[keyBytes]byte) (public [keyBytes]byte, err error) {
	exchange, err := exchangeKey(private)
	if err != nil {
		return public, err
	}
	copy(public[:32], exchange)
	copy(public[32:], s.signing[:])
	return public, nil
}

// identity that was found, through the same checks as one from outside.
func (s *search) identity() (*Identity, error) {
	id := &Identity{private: newHidden()}
	s.candidate(s.found.Load(), id.private.key)
	var err error
	if id.public.key, err = s.public(id.private.key); err != nil {
		return nil, err
	}
	id.public.address, _ = addressOf(new(digester).digest(&id.public.key))
	return id, id.check()
}

// exchangeKey is the public half of a private key's X25519 half, which is
// stored as it was drawn and clamped when it is used.
func exchangeKey(private *[keyBytes]byte) ([]byte, error) {
	key, err := ecdh.X25519().NewPrivateKey(private[:32])
	if err != nil {
		return nil, err
	}
	return key.PublicKey().Bytes(), nil
}
