package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// Commit is an order to make a release the head.
type Commit struct {
	Actor    string
	Release  fleet.ReleaseID
	Expected fleet.ReleaseID // the head that the publisher saw
	Count    int             // generations that must be staged
	Revision string          // of the fleet's repository, for people
}

// Commit makes a staged release the head, all or nothing, and returns its
// machines. Committing the head again is answered again, so a lost answer
// costs nothing. Errors: ErrHeadMoved, ErrIncomplete, ErrCommitted, refusals
// of pkg/release.
func (p *Publisher) Commit(ctx context.Context, c Commit) ([]fleet.MachineName, error) {
	p.commitMu.Lock()
	defer p.commitMu.Unlock()
	head := p.Releases(1)
	if len(head) == 1 && head[0].ID == c.Release && head[0].Count == c.Count {
		return p.stagedMachines(ctx, c.Release)
	}
	var seq uint64
	if len(head) == 1 {
		seq = head[0].Seq
	}
	if have := p.Head(); have != c.Expected {
		return nil, fmt.Errorf("committing %s: %w: the head is %q, you saw %q", c.Release, ErrHeadMoved, have, c.Expected)
	}
	conds, staged, err := p.commitConds(ctx, c.Release)
	if err != nil {
		return nil, err
	}
	gens, err := p.checkStaged(ctx, c, staged)
	if err != nil {
		return nil, fmt.Errorf("committing %s: %w", c.Release, err)
	}
	machines := machinesOf(gens)
	r := Release{
		ID: c.Release, Committed: p.o.Now(), Actor: c.Actor, Revision: c.Revision,
		Machines: len(machines), Count: len(gens), Seq: seq + 1,
	}
	value, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("committing %s: %w", c.Release, err)
	}
	err = p.o.Log.Commit(ctx, audit.Change{
		Conds: conds,
		Ops: []store.Op{
			{Key: headKey, Value: []byte(c.Release)},
			{Key: releasePrefix + string(c.Release), Value: value},
			{Key: stagingPrefix + string(c.Release), Delete: true},
			{Key: proposalPrefix + string(c.Release), Delete: true},
		},
		Entries: []audit.Entry{{
			Actor: c.Actor, Kind: KindCommitted,
			Message: describe(c, gens, len(machines)),
		}},
	})
	if errors.Is(err, store.ErrConflict) {
		return nil, fmt.Errorf("committing %s: %w: it, or what is staged for it, changed", c.Release, ErrHeadMoved)
	}
	if err != nil {
		return nil, fmt.Errorf("committing %s: %w", c.Release, err)
	}
	p.taken(ctx, r, gens)
	return machines, nil
}

// commitConds are the revisions that must not move while a release is checked,
// and that of its staging record.
func (p *Publisher) commitConds(ctx context.Context, id fleet.ReleaseID) (conds []store.Cond, staged uint64, err error) {
	conds = []store.Cond{{Key: releasePrefix + string(id)}}
	for _, key := range []string{headKey, stagingPrefix + string(id)} {
		kv, err := p.o.Store.Get(ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, 0, fmt.Errorf("committing %s: %w", id, err)
		}
		conds = append(conds, store.Cond{Key: key, Revision: kv.Revision})
		staged = kv.Revision
	}
	return conds, staged, nil
}

// taken takes a committed release into memory: its generations first, so that
// who sees the new head sees their numbers too.
func (p *Publisher) taken(ctx context.Context, r Release, gens []*Gen) {
	dropped := p.index.add(gens...)
	p.mu.Lock()
	p.releases = slices.Insert(p.releases, 0, r)
	p.mu.Unlock()
	p.stageMu.Lock()
	delete(p.staged, r.ID)
	p.stageMu.Unlock()
	p.forget(ctx, dropped)
}

// stagedGens returns what is staged for a release: from memory where the
// staging record has the revision that is known, else from the store, verified
// again.
func (p *Publisher) stagedGens(ctx context.Context, id fleet.ReleaseID, revision uint64) ([]*Gen, error) {
	p.stageMu.Lock()
	defer p.stageMu.Unlock()
	if st := p.staged[id]; st != nil && st.revision == revision && st.trust == p.trust() {
		return slices.Collect(maps.Values(st.gens)), nil
	}
	var gens []*Gen
	for kv, err := range store.All(ctx, p.o.Store, stagedPrefix+string(id)+"/") {
		if err != nil {
			return nil, err
		}
		generation, secrets, err := decodePair(kv.Value)
		if err != nil {
			return nil, err
		}
		o, err := open(p.trust(), generation, secrets)
		if err != nil {
			return nil, err
		}
		if err := p.admit(o); err != nil {
			return nil, err
		}
		gens = append(gens, o.gen(kv.Key))
	}
	return gens, nil
}

// stagedMachines returns the machines of a release by the keys in the store.
func (p *Publisher) stagedMachines(ctx context.Context, id fleet.ReleaseID) ([]fleet.MachineName, error) {
	prefix := stagedPrefix + string(id) + "/"
	var names []fleet.MachineName
	for kv, err := range store.All(ctx, p.o.Store, prefix) {
		if err != nil {
			return nil, err
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(kv.Key, prefix), "/")
		names = append(names, fleet.MachineName(name))
	}
	return slices.Compact(names), nil // They come sorted.
}

// checkStaged returns what is staged, when all of it may become desired now.
func (p *Publisher) checkStaged(ctx context.Context, c Commit, revision uint64) ([]*Gen, error) {
	gens, err := p.stagedGens(ctx, c.Release, revision)
	if err != nil {
		return nil, err
	}
	if len(gens) != c.Count || len(gens) == 0 {
		return nil, fmt.Errorf("%w: %d generations are staged, %d are expected: publish again", ErrIncomplete, len(gens), c.Count)
	}
	checked := map[fleet.Digest]bool{}
	for _, g := range gens {
		if err := p.checkNumber(g); err != nil {
			return nil, err
		}
		for _, b := range g.Blobs {
			if checked[b.Digest] {
				continue
			}
			checked[b.Digest] = true
			if st, err := p.o.Blobs.Stat(b.Digest, b.Size); err != nil || !st.Complete {
				return nil, errors.Join(fmt.Errorf("%w: blob %s of %s is not there: publish again", ErrIncomplete, b.Digest.Short(), g.Machine), err)
			}
		}
	}
	return gens, nil
}

// checkNumber judges again what may have moved since staging.
func (p *Publisher) checkNumber(g *Gen) error {
	l := p.index.line(g.Machine, g.Profile)
	if l == nil || l.newest().Ref.Digest == g.Ref.Digest {
		return nil
	}
	switch n := g.Ref.Number.Compare(l.newest().Ref.Number); {
	case n < 0:
		return fmt.Errorf("generation %s for %s: %w: %s", g.Ref.Number, g.Machine, release.ErrLowerNumber, l.newest().Ref.Number)
	case n == 0:
		return fmt.Errorf("generation %s for %s: %w", g.Ref.Number, g.Machine, release.ErrNumberReused)
	}
	return nil
}

func machinesOf(gens []*Gen) []fleet.MachineName {
	seen := map[fleet.MachineName]bool{}
	for _, g := range gens {
		seen[g.Machine] = true
	}
	// Sorted, so that who reads along sees the same each time.
	return slices.Sorted(maps.Keys(seen))
}

// digestOf names all generations of a release by one digest: whoever has the
// fleet's repository can tell whether it has the same ones.
func digestOf(gens []*Gen) fleet.Digest {
	digests := make([]fleet.Digest, len(gens))
	for i, g := range gens {
		digests[i] = g.Ref.Digest
	}
	return fleet.DigestOfAll(digests)
}

// describe tells of a commit in one line.
func describe(c Commit, gens []*Gen, machines int) string {
	s := fmt.Sprintf("%s: generations %d, machines %d", c.Release, len(gens), machines)
	if c.Revision != "" {
		s += ", revision " + c.Revision
	}
	return s + ", digests " + string(digestOf(gens))
}
