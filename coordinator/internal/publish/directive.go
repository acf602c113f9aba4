package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// maxLoosenings bounds those that wait for one machine.
const maxLoosenings = 16

// loosening is a loosening document that has not expired.
type loosening struct {
	Digest   fleet.Digest `json:"digest"`
	Expires  time.Time    `json:"expires"`
	Envelope []byte       `json:"envelope"`
}

func (p *Publisher) loadDirectives(ctx context.Context) error {
	for kv, err := range store.All(ctx, p.o.Store, revertPrefix) {
		if err != nil {
			return err
		}
		var r Revert
		if err := json.Unmarshal(kv.Value, &r); err != nil {
			return fmt.Errorf("%w: %s: %w", errRecord, kv.Key, err)
		}
		p.index.reverts[profileKey{r.Machine, r.Profile}] = r
	}
	var gone []string
	for kv, err := range store.All(ctx, p.o.Store, looseningPrefix) {
		if err != nil {
			return err
		}
		var l loosening
		if err := json.Unmarshal(kv.Value, &l); err != nil {
			return fmt.Errorf("%w: %s: %w", errRecord, kv.Key, err)
		}
		if p.o.Now().After(l.Expires) {
			gone = append(gone, kv.Key)
			continue
		}
		signed, err := p.trust().OpenLoosening(l.Envelope)
		if err != nil {
			p.o.Slog.Warn("a stored loosening is not valid any more", "key", kv.Key, "error", err)
			continue
		}
		p.loosenings[signed.Doc.Machine] = append(p.loosenings[signed.Doc.Machine], l)
	}
	p.deleteKeys(ctx, gone)
	return nil
}

func revertKey(m fleet.MachineName, profile fleet.ProfileName) string {
	return revertPrefix + string(m) + "/" + string(profile)
}

// RollBack sends a profile back to the newest generation in the newest one's
// revert set that was confirmed on the host, until a newer release. Errors:
// ErrNothingDesired, ErrNoTarget.
func (p *Publisher) RollBack(ctx context.Context, actor string, m fleet.MachineName, profile fleet.ProfileName, confirmed []fleet.Ref) (fleet.Ref, error) {
	p.changeMu.Lock()
	defer p.changeMu.Unlock()
	l := p.index.line(m, profile)
	if l == nil {
		return fleet.Ref{}, fmt.Errorf("rolling back %s of %s: %w", profile, m, ErrNothingDesired)
	}
	newest := l.newest()
	// Only what can be sent and taken: after a loss of the store some may be
	// missing, after a change of keys some are refused.
	confirmed = slices.DeleteFunc(slices.Clone(confirmed), func(r fleet.Ref) bool {
		g := l.byDigest(r.Digest)
		return g == nil || g.Stale
	})
	target, ok := rollbackTarget(newest, confirmed)
	if !ok {
		return fleet.Ref{}, fmt.Errorf("rolling back %s of %s: %w: no generation in the revert set of %s was confirmed there", profile, m, ErrNoTarget, newest.Ref.Number)
	}
	r := Revert{Machine: m, Profile: profile, Newest: newest.Ref.Digest, Target: target, Actor: actor, Time: p.o.Now()}
	value, err := json.Marshal(r)
	if err != nil {
		return fleet.Ref{}, fmt.Errorf("rolling back %s of %s: %w", profile, m, err)
	}
	err = p.o.Log.Commit(ctx, audit.Change{
		Ops: []store.Op{{Key: revertKey(m, profile), Value: value}},
		Entries: []audit.Entry{{
			Actor: actor, Kind: KindRollback, Machine: m,
			Message: fmt.Sprintf("%s: from generation %s back to %s", profile, newest.Ref.Number, target.Number),
		}},
	})
	if err != nil {
		return fleet.Ref{}, fmt.Errorf("rolling back %s of %s: %w", profile, m, err)
	}
	p.index.mu.Lock()
	p.index.reverts[profileKey{m, profile}] = r
	p.index.mu.Unlock()
	return target, nil
}

// Loosen verifies a loosening document and keeps it for its machine until it
// expires. A retry of the newest generation ends a rollback from it. Errors:
// refusals of pkg/release, ErrTooMany.
func (p *Publisher) Loosen(ctx context.Context, actor string, document []byte) (fleet.MachineName, error) {
	if len(document) > maxEnvelope {
		return "", fmt.Errorf("taking a loosening: %w", release.ErrTooLarge)
	}
	signed, err := p.trust().OpenLoosening(document)
	if err != nil {
		return "", fmt.Errorf("taking a loosening: %w", err)
	}
	d := signed.Doc
	now := p.o.Now()
	h := release.Host{Fleet: d.Fleet, Machine: d.Machine, Profile: d.Profile}
	if err := p.trust().AdmitLoosening(h, signed, now); err != nil {
		return "", fmt.Errorf("taking a loosening: %w", err)
	}
	p.changeMu.Lock()
	defer p.changeMu.Unlock()
	next := loosening{Digest: signed.Digest, Expires: d.Expires, Envelope: document}
	value, err := json.Marshal(next)
	if err != nil {
		return "", fmt.Errorf("taking a loosening: %w", err)
	}
	c := audit.Change{
		Ops: []store.Op{{Key: looseningKey(d.Machine, signed.Digest), Value: value}},
		Entries: []audit.Entry{{
			Actor: actor, Kind: KindLoosened, Machine: d.Machine,
			Message: describeLoosening(&d),
		}},
	}
	p.mu.RLock()
	kept, gone := splitExpired(p.loosenings[d.Machine], now)
	p.mu.RUnlock()
	if slices.ContainsFunc(kept, func(l loosening) bool { return l.Digest == signed.Digest }) {
		return d.Machine, nil
	}
	if len(kept) >= maxLoosenings {
		return "", fmt.Errorf("taking a loosening: %w: %d wait for %s already", ErrTooMany, len(kept), d.Machine)
	}
	for _, l := range gone {
		c.Ops = append(c.Ops, store.Op{Key: looseningKey(d.Machine, l.Digest), Delete: true})
	}
	key := profileKey{d.Machine, d.Profile}
	p.index.mu.RLock()
	r, reverted := p.index.reverts[key]
	p.index.mu.RUnlock()
	reverted = reverted && d.Action == fleet.LoosenRetry && r.Newest == d.Digest
	if reverted {
		c.Ops = append(c.Ops, store.Op{Key: revertKey(d.Machine, d.Profile), Delete: true})
	}
	if err := p.o.Log.Commit(ctx, c); err != nil {
		return "", fmt.Errorf("taking a loosening: %w", err)
	}
	if reverted {
		p.index.mu.Lock()
		delete(p.index.reverts, key)
		p.index.mu.Unlock()
	}
	p.mu.Lock()
	p.loosenings[d.Machine] = append(kept, next)
	p.mu.Unlock()
	return d.Machine, nil
}

func describeLoosening(d *fleet.Loosening) string {
	s := string(d.Profile) + ": " + d.Action
	if d.Digest != "" {
		s += " of " + d.Digest.Short()
	}
	s += ", until " + d.Expires.UTC().Format(time.DateTime)
	if d.Reason != "" {
		s += ": " + d.Reason
	}
	return s
}

func looseningKey(m fleet.MachineName, d fleet.Digest) string {
	return looseningPrefix + string(m) + "/" + d.Hex()
}

func splitExpired(all []loosening, now time.Time) (kept, gone []loosening) {
	for _, l := range all {
		if now.After(l.Expires) {
			gone = append(gone, l)
		} else {
			kept = append(kept, l)
		}
	}
	return kept, gone
}

// Loosenings returns the documents that wait for a machine.
func (p *Publisher) Loosenings(m fleet.MachineName) [][]byte {
	p.mu.RLock()
	defer p.mu.RUnlock()
	kept, _ := splitExpired(p.loosenings[m], p.o.Now())
	out := make([][]byte, 0, len(kept))
	for _, l := range kept {
		out = append(out, l.Envelope)
	}
	return out
}
