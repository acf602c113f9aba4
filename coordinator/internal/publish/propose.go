package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// ErrNoProposal names a release that nobody proposed.
var ErrNoProposal = errors.New("no release of this name waits for signatures")

const (
	// maxProposals bounds those that wait at a time.
	maxProposals = 256
	// proposalAge is how long one waits.
	proposalAge = 30 * 24 * time.Hour
	// maxProposalBytes bounds one: the signed documents of a large fleet.
	maxProposalBytes = 256 << 20
)

// Proposal is a release that waits for people's signatures. What it consists of
// is in a blob, which this coordinator does not look into: who signs judges it.
type Proposal struct {
	Release  fleet.ReleaseID `json:"release"`
	Digest   fleet.Digest    `json:"digest"`
	Size     uint64          `json:"size"`
	Revision string          `json:"revision,omitempty"`
	Actor    string          `json:"actor"`
	Time     time.Time       `json:"time"`
	// Count of generations, for people.
	Count uint32 `json:"count"`
}

// Propose announces a proposal whose blob is here, in place of an earlier one of
// the same release. Errors: ErrCommitted, ErrIncomplete, ErrTooMany,
// release.ErrTooLarge.
func (p *Publisher) Propose(ctx context.Context, n Proposal) error {
	if n.Size == 0 || n.Size > maxProposalBytes {
		return fmt.Errorf("proposing %s: %w: %d bytes, at most %d", n.Release, release.ErrTooLarge, n.Size, maxProposalBytes)
	}
	if st, err := p.o.Blobs.Stat(n.Digest, n.Size); err != nil || !st.Complete {
		return errors.Join(fmt.Errorf("proposing %s: %w: its blob is not there", n.Release, ErrIncomplete), err)
	}
	p.changeMu.Lock()
	defer p.changeMu.Unlock()
	all, gone, err := p.proposals(ctx)
	if err != nil {
		return err
	}
	p.deleteKeys(ctx, gone)
	at := slices.IndexFunc(all, func(o Proposal) bool { return o.Release == n.Release })
	switch {
	case at >= 0 && all[at].Digest == n.Digest:
		return nil
	case at < 0 && len(all) >= maxProposals:
		return fmt.Errorf("proposing %s: %w: %d releases wait already", n.Release, ErrTooMany, len(all))
	}
	n.Time = p.o.Now().UTC()
	value, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("proposing %s: %w", n.Release, err)
	}
	message := fmt.Sprintf("%s: generations %d, proposal %s", n.Release, n.Count, n.Digest.Short())
	if n.Revision != "" {
		message += ", revision " + n.Revision
	}
	err = p.o.Log.Commit(ctx, audit.Change{
		Conds:   []store.Cond{{Key: releasePrefix + string(n.Release)}},
		Ops:     []store.Op{{Key: proposalPrefix + string(n.Release), Value: value}},
		Entries: []audit.Entry{{Actor: n.Actor, Kind: KindProposed, Message: message}},
	})
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("proposing %s: %w", n.Release, ErrCommitted)
	}
	if err != nil {
		return fmt.Errorf("proposing %s: %w", n.Release, err)
	}
	return nil
}

// Proposals returns those that wait, newest first.
func (p *Publisher) Proposals(ctx context.Context) ([]Proposal, error) {
	all, _, err := p.proposals(ctx)
	return all, err
}

// Proposal returns one, or ErrNoProposal.
func (p *Publisher) Proposal(ctx context.Context, id fleet.ReleaseID) (Proposal, error) {
	all, err := p.Proposals(ctx)
	if err != nil {
		return Proposal{}, err
	}
	for _, n := range all {
		if n.Release == id {
			return n, nil
		}
	}
	return Proposal{}, fmt.Errorf("%w: %s", ErrNoProposal, id)
}

// proposals reads those that wait, and the keys of those that do no longer.
func (p *Publisher) proposals(ctx context.Context) (all []Proposal, gone []string, err error) {
	committed := map[fleet.ReleaseID]bool{}
	p.mu.RLock()
	for _, r := range p.releases {
		committed[r.ID] = true
	}
	p.mu.RUnlock()
	for kv, err := range store.All(ctx, p.o.Store, proposalPrefix) {
		if err != nil {
			return nil, nil, fmt.Errorf("reading proposals: %w", err)
		}
		var n Proposal
		if err := json.Unmarshal(kv.Value, &n); err != nil {
			return nil, nil, fmt.Errorf("%w: %s: %w", errRecord, kv.Key, err)
		}
		if committed[n.Release] || p.o.Now().Sub(n.Time) > proposalAge {
			gone = append(gone, kv.Key)
			continue
		}
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b Proposal) int { return b.Time.Compare(a.Time) })
	return all, gone, nil
}
