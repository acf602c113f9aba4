package publish

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/blob"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Sentinels that errors of this package wrap, besides those of pkg/release.
var (
	// ErrHeadMoved is a commit over a head that is no longer there.
	ErrHeadMoved = errors.New("another release was committed meanwhile")
	// ErrIncomplete is a commit of a release that misses something.
	ErrIncomplete = errors.New("release is incomplete")
	// ErrCommitted is a change of a release that is committed.
	ErrCommitted = errors.New("release is committed already")
	// ErrNothingDesired is an order about a profile without a generation.
	ErrNothingDesired = errors.New("no generation is desired there")
	// ErrNoTarget is a rollback that no generation qualifies for.
	ErrNoTarget = errors.New("no generation to go back to")
	// ErrTooMany bounds what one machine may have.
	ErrTooMany = errors.New("too many")
	// ErrFuture is a document from the future.
	ErrFuture = errors.New("document is signed with a time that is still to come")
	// ErrUnnamed is a blob that no desired document of the machine names.
	ErrUnnamed = errors.New("blob is not named by what is desired of the machine")
)

// Kinds of events that this package writes.
const (
	KindCommitted    audit.Kind = "release-committed"
	KindAdopted      audit.Kind = "generation-adopted"
	KindNumberReused audit.Kind = "number-reused"
	KindRollback     audit.Kind = "rollback-ordered"
	KindLoosened     audit.Kind = "loosening-added"
	KindFreshness    audit.Kind = "freshness-stated"
	KindTrustRoot    audit.Kind = "trust-root-added"
	KindRootFork     audit.Kind = "trust-root-refused"
	KindProposed     audit.Kind = "release-proposed"
)

// Log is what this package needs of the event log.
type Log interface {
	Commit(ctx context.Context, c audit.Change) error
}

// Blobs is what this package needs of the blob store.
type Blobs interface {
	Stat(digest fleet.Digest, size uint64) (blob.Status, error)
}

// Options of a Publisher.
type Options struct {
	Store store.Store
	Log   Log
	Blobs Blobs
	// Roots are the envelopes of all trust roots of the kit, oldest first;
	// RootPin is the digest of the first. The store may know later ones.
	Roots   [][]byte
	RootPin fleet.Digest
	Now     func() time.Time
	Slog    *slog.Logger
}

// Publisher keeps releases.
type Publisher struct {
	o     Options
	index *index

	roots atomic.Pointer[chain]

	commitMu sync.Mutex // one Commit at a time
	// changeMu orders adoptions, rollbacks and loosenings.
	changeMu sync.Mutex

	stageMu sync.Mutex // guards staged, and orders its writes to the store
	staged  map[fleet.ReleaseID]*staging

	mu sync.RWMutex // guards what follows
	// releases, newest first.
	releases   []Release
	loosenings map[fleet.MachineName][]loosening
	freshness  map[fleet.MachineName]statement
}

// Open reads releases from the store and works out what is desired.
func Open(ctx context.Context, o Options) (*Publisher, error) {
	p := &Publisher{o: o, index: newIndex(), staged: map[fleet.ReleaseID]*staging{}, loosenings: map[fleet.MachineName][]loosening{}, freshness: map[fleet.MachineName]statement{}}
	c, err := newChain(o.Roots, o.RootPin)
	if err != nil {
		return nil, fmt.Errorf("reading trust roots: %w", err)
	}
	p.roots.Store(c)
	if err := p.load(ctx); err != nil {
		return nil, fmt.Errorf("reading releases: %w", err)
	}
	return p, nil
}

func (p *Publisher) load(ctx context.Context) error {
	if err := p.loadRoots(ctx); err != nil {
		return err
	}
	for kv, err := range store.All(ctx, p.o.Store, releasePrefix) {
		if err != nil {
			return err
		}
		var r Release
		if err := json.Unmarshal(kv.Value, &r); err != nil {
			return fmt.Errorf("%w: %s: %w", errRecord, kv.Key, err)
		}
		p.releases = append(p.releases, r)
	}
	slices.SortFunc(p.releases, func(a, b Release) int { return cmp.Compare(b.Seq, a.Seq) })
	if err := p.loadAll(ctx, p.index); err != nil {
		return err
	}
	if err := p.loadFreshness(ctx); err != nil {
		return fmt.Errorf("loading freshness statements: %w", err)
	}
	if err := p.loadDirectives(ctx); err != nil {
		return err
	}
	return p.sweepStaged(ctx)
}

// loadAll reads all generations that hosts may see into an index.
func (p *Publisher) loadAll(ctx context.Context, x *index) error {
	committed := make(map[string]bool, len(p.releases))
	for _, r := range p.releases {
		committed[string(r.ID)] = true
	}
	if err := p.loadGens(ctx, x, stagedPrefix, func(key string) bool {
		id, _, _ := strings.Cut(strings.TrimPrefix(key, stagedPrefix), "/")
		return committed[id]
	}); err != nil {
		return err
	}
	return p.loadGens(ctx, x, adoptedPrefix, func(string) bool { return true })
}

func (p *Publisher) loadGens(ctx context.Context, x *index, prefix string, visible func(key string) bool) error {
	for kv, err := range store.All(ctx, p.o.Store, prefix) {
		if err != nil {
			return err
		}
		if !visible(kv.Key) {
			continue
		}
		g, err := p.reopen(kv)
		if err != nil {
			p.o.Slog.Warn("a stored generation is not valid any more", "key", kv.Key, "error", err)
			continue
		}
		p.forget(ctx, x.add(g))
	}
	return nil
}

// forget deletes generations that are not kept any more. Where that fails it
// is done at the next start.
func (p *Publisher) forget(ctx context.Context, dropped []*Gen) {
	keys := make([]string, len(dropped))
	for i, g := range dropped {
		keys[i] = g.key
	}
	p.deleteKeys(ctx, keys)
}

func (p *Publisher) deleteKeys(ctx context.Context, keys []string) {
	for chunk := range slices.Chunk(keys, store.MaxOps) {
		ops := make([]store.Op, len(chunk))
		for i, key := range chunk {
			ops[i] = store.Op{Key: key, Delete: true}
		}
		if _, err := p.o.Store.Txn(ctx, nil, ops); err != nil {
			p.o.Slog.Warn("deleting what is not needed any more failed", "error", err)
			return
		}
	}
}

// stagedAge is how long what was staged and not committed is kept.
const stagedAge = 7 * 24 * time.Hour

// sweepStaged deletes releases that were staged long ago and never committed.
func (p *Publisher) sweepStaged(ctx context.Context) error {
	var keys []string
	for kv, err := range store.All(ctx, p.o.Store, stagingPrefix) {
		if err != nil {
			return err
		}
		var at time.Time
		if err := json.Unmarshal(kv.Value, &at); err != nil {
			return fmt.Errorf("%w: %s: %w", errRecord, kv.Key, err)
		}
		if p.o.Now().Sub(at) < stagedAge {
			continue
		}
		for staged, err := range store.All(ctx, p.o.Store, stagedPrefix+strings.TrimPrefix(kv.Key, stagingPrefix)+"/") {
			if err != nil {
				return err
			}
			keys = append(keys, staged.Key)
		}
		// Last, so that what a crash leaves is found again.
		keys = append(keys, kv.Key)
	}
	p.deleteKeys(ctx, keys)
	return nil
}

// reopen verifies a stored generation again.
func (p *Publisher) reopen(kv store.KV) (*Gen, error) {
	generation, secrets, err := decodePair(kv.Value)
	if err != nil {
		return nil, err
	}
	o, stale, err := p.openAny(generation, secrets)
	if err != nil {
		return nil, err
	}
	g := o.gen(kv.Key)
	g.Stale = stale
	return g, nil
}

// Desired returns what is desired of a machine, sorted by profile.
func (p *Publisher) Desired(m fleet.MachineName) []Desired { return p.index.desired(m) }

// Newest returns the newest generation of every profile of every machine, those
// aside whose keys the trust root names no longer.
func (p *Publisher) Newest() []*Gen {
	return slices.DeleteFunc(p.index.all(), func(g *Gen) bool { return g.Stale })
}

// Envelopes returns the signed documents of a generation as they were signed;
// secrets is nil where there are none.
func (p *Publisher) Envelopes(ctx context.Context, g *Gen) (generation, secrets []byte, err error) {
	kv, err := p.o.Store.Get(ctx, g.key)
	if err != nil {
		return nil, nil, fmt.Errorf("reading generation %s of %s: %w", g.Ref.Number, g.Machine, err)
	}
	return decodePair(kv.Value)
}

// MayFetch returns the size of a blob that is desired of the machine, or
// ErrUnnamed.
func (p *Publisher) MayFetch(m fleet.MachineName, d fleet.Digest) (size uint64, err error) {
	if size, ok := p.index.names(m, d); ok {
		return size, nil
	}
	return 0, ErrUnnamed
}

// Head returns the newest committed release; empty before the first.
func (p *Publisher) Head() fleet.ReleaseID {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if len(p.releases) == 0 {
		return ""
	}
	return p.releases[0].ID
}

// Releases returns at most limit committed releases, newest first.
func (p *Publisher) Releases(limit int) []Release {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.Clone(p.releases[:min(limit, len(p.releases))])
}

// Unknown returns those digests of a host's profile that are of no generation
// known here, except of ones too old to be kept.
func (p *Publisher) Unknown(m fleet.MachineName, profile fleet.ProfileName, refs ...fleet.Ref) []fleet.Digest {
	l := p.index.line(m, profile)
	var out []fleet.Digest
	for _, r := range refs {
		if r.Digest == "" || slices.Contains(out, r.Digest) || (l != nil && (l.byDigest(r.Digest) != nil || l.tooOld(r.Number))) {
			continue
		}
		out = append(out, r.Digest)
	}
	return out
}

// Clash returns the known generation with the number of ref and another
// digest, or nil.
func (p *Publisher) Clash(m fleet.MachineName, profile fleet.ProfileName, ref fleet.Ref) *Gen {
	l := p.index.line(m, profile)
	if l == nil || ref.Digest == "" {
		return nil
	}
	for _, g := range l.gens {
		if g.Ref.Number == ref.Number && g.Ref.Digest != ref.Digest {
			return g
		}
	}
	return nil
}
