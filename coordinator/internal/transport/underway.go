package transport

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// maxUnderway bounds the requests of one key that have begun and are not whole,
// or that no handler has taken up yet. gRPC keeps what came of them, up to
// maxRequest each, before anybody asks whether the caller may call. It is more
// than an agent has at a time, or a few publishers with one key. Strangers are
// bounded by what their connections may carry.
const maxUnderway = 16

// underway counts them.
type underway struct {
	mu sync.Mutex // guards n
	n  map[string]int
}

func newUnderway() *underway { return &underway{n: map[string]int{}} }

type arrivalKey struct{}

// tap counts a call when its headers have come, and refuses one too many. It
// runs where the connection is read, so it must be quick.
func (u *underway) tap(ctx context.Context, _ *tap.Info) (context.Context, error) {
	key, ok := callerKeyOf(ctx)
	if !ok {
		return ctx, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.n[key] >= maxUnderway {
		// As if it were away: who calls tries again.
		return nil, status.Error(codes.Unavailable, "too many requests of one key at once")
	}
	u.n[key]++
	done := sync.OnceFunc(func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.n[key]--; u.n[key] == 0 {
			delete(u.n, key)
		}
	})
	// A call that ends before its request is whole is counted no longer either.
	stop := context.AfterFunc(ctx, done)
	return context.WithValue(ctx, arrivalKey{}, func() {
		if stop() {
			done()
		}
	}), nil
}

// arrived is called when a request is whole.
func arrived(ctx context.Context) {
	if done, ok := ctx.Value(arrivalKey{}).(func()); ok {
		done()
	}
}

// callerKeyOf names the identity and key of a caller with a certificate: what a
// replaced key does is not held against the one in its place.
func callerKeyOf(ctx context.Context) (string, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", false
	}
	id, known, err := pki.PeerOf(info.State, time.Time{}) // Whether it has ended does not matter.
	if err != nil || !known {
		return "", false
	}
	return keyOf(id), true
}

func keyOf(p pki.Peer) string {
	return p.Path() + " " + registry.IdentityOf(p.Leaf).Fingerprint
}
