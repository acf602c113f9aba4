package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

const (
	stageOps   = 64
	stageBytes = store.MaxTxnBytes - 4*maxEnvelope/2
)

// Stager takes the generations of one release.
type Stager struct {
	p  *Publisher
	id fleet.ReleaseID
	// trust is the newest root when staging began.
	trust *release.Trust
	ops   map[string]store.Op
	gens  map[string]*Gen
	size  int
}

// Stage begins or goes on with the staging of a release, which stays invisible
// to hosts until it is committed.
func (p *Publisher) Stage(id fleet.ReleaseID) *Stager {
	return &Stager{p: p, id: id, trust: p.trust(), ops: map[string]store.Op{}, gens: map[string]*Gen{}}
}

// Add verifies one generation and takes it in; it is durable after Close.
// Staging the same machine and profile again replaces what was staged. Errors:
// refusals of pkg/release, ErrCommitted.
func (s *Stager) Add(ctx context.Context, generation, secrets []byte) error {
	o, err := open(s.trust, generation, secrets)
	if err != nil {
		return err
	}
	d := o.generation.Doc
	if d.Release != s.id {
		return fmt.Errorf("staging %s: %w: generation %s of %s is of release %s", s.id, release.ErrMalformed, d.Number, d.Machine, d.Release)
	}
	if err := s.p.admit(o); err != nil {
		return err
	}
	key := stagedPrefix + string(s.id) + "/" + string(d.Machine) + "/" + string(d.Profile)
	value := encodePair(generation, secrets)
	if s.size+len(value) > stageBytes || len(s.ops) >= stageOps {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	s.ops[key] = store.Op{Key: key, Value: value}
	s.gens[key] = o.gen(key)
	s.size += len(value)
	return nil
}

// clockSlack is how far the clocks of a publisher and the coordinator may
// differ.
const clockSlack = time.Hour

// admit makes the checks that a host which has all that is known here would,
// and one that a host can't make: no clock of a host goes back behind a time
// that was signed, so one far in the future would end all certificates there.
func (p *Publisher) admit(o opened) error {
	d := o.generation.Doc
	latest := d.Issued
	if o.secrets != nil && o.secrets.Doc.Issued.After(latest) {
		latest = o.secrets.Doc.Issued
	}
	if now := p.o.Now(); latest.After(now.Add(clockSlack)) {
		return fmt.Errorf("generation %s for %s: %w: %s, now it is %s", d.Number, d.Machine, ErrFuture,
			latest.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	h := release.Host{Fleet: p.trust().Root().Fleet, Machine: d.Machine, Profile: d.Profile}
	if l := p.index.line(d.Machine, d.Profile); l != nil {
		h.Highest = l.newest().Ref
	}
	return p.trust().Admit(h, o.generation, o.secrets, p.o.Now())
}

func (s *Stager) flush(ctx context.Context) error {
	if len(s.ops) == 0 {
		return nil
	}
	if err := s.p.writeStaged(ctx, s.id, slices.Collect(maps.Values(s.ops)), s.gens, s.trust); err != nil {
		return fmt.Errorf("staging %s: %w", s.id, err)
	}
	clear(s.ops)
	clear(s.gens)
	s.size = 0
	return nil
}

// staging is what is staged for one release, when this process staged all of
// it: Commit then need not read and verify it again.
type staging struct {
	// revision of the staging record: another one means that somebody else, or
	// an earlier run of the program, staged something too.
	revision uint64
	// trust is the root that all of it was verified by.
	trust *release.Trust
	gens  map[string]*Gen
}

// writeStaged makes staged generations durable.
func (p *Publisher) writeStaged(ctx context.Context, id fleet.ReleaseID, ops []store.Op, gens map[string]*Gen, trust *release.Trust) error {
	mark, err := json.Marshal(p.o.Now())
	if err != nil {
		return err
	}
	key := stagingPrefix + string(id)
	p.stageMu.Lock()
	defer p.stageMu.Unlock()
	before, err := p.o.Store.Get(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	// The condition keeps a committed release as it is, even in a race.
	revision, err := p.o.Store.Txn(ctx, []store.Cond{{Key: releasePrefix + string(id)}}, append(ops, store.Op{Key: key, Value: mark}))
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("%w: publish under a new id", ErrCommitted)
	}
	if err != nil {
		return err
	}
	st := p.staged[id]
	switch {
	case st == nil && before.Revision == 0:
		st = &staging{trust: trust, gens: map[string]*Gen{}}
		p.staged[id] = st
	case st == nil || st.revision != before.Revision || st.trust != trust:
		delete(p.staged, id)
		return nil
	}
	st.revision = revision
	maps.Copy(st.gens, gens)
	return nil
}

// Close makes durable what was added, and returns how many generations are
// staged for the release now.
func (s *Stager) Close(ctx context.Context) (count int, err error) {
	if err := s.flush(ctx); err != nil {
		return 0, err
	}
	for _, err := range store.All(ctx, s.p.o.Store, stagedPrefix+string(s.id)+"/") {
		if err != nil {
			return 0, fmt.Errorf("staging %s: %w", s.id, err)
		}
		count++
	}
	return count, nil
}
