package publish

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// MaxStatements bounds the freshness statements of one call: they go into one
// transaction.
const MaxStatements = 64

// maxStatementBytes bounds one statement, so that a transaction has room for
// all of a call.
const maxStatementBytes = 8 << 10

// statement is a machine's newest freshness statement.
type statement struct {
	doc      fleet.Freshness
	envelope []byte
}

// newsAfter is how much younger a statement is news, though it says the same: a policy
// may ask for one that is younger than the one before. The usual interval is longer.
const newsAfter = time.Hour

// adds says whether s tells a host something at now that old does not. Hosts ask again
// by themselves, but not as soon.
func (s statement) adds(old statement, now time.Time) bool {
	return s.doc.Issued.Sub(old.doc.Issued) >= newsAfter || !now.Before(old.doc.Expires) || s.doc.Root != old.doc.Root || !maps.Equal(s.doc.Highest, old.doc.Highest)
}

func (p *Publisher) loadFreshness(ctx context.Context) error {
	for kv, err := range store.All(ctx, p.o.Store, freshnessPrefix) {
		if err != nil {
			return err
		}
		signed, err := p.trust().OpenFreshness(kv.Value)
		if err != nil {
			p.o.Slog.Warn("a stored freshness statement is not valid any more", "key", kv.Key, "error", err)
			continue
		}
		p.freshness[signed.Doc.Machine] = statement{signed.Doc, kv.Value}
	}
	return nil
}

// TakeFreshness verifies freshness statements and keeps each that is newer than
// the one before of its machine. by is the host that brings them; news are the machines
// that are told something new by them. Errors: refusals of pkg/release; nothing is kept
// then.
func (p *Publisher) TakeFreshness(ctx context.Context, by fleet.MachineName, envelopes [][]byte) (news []fleet.MachineName, err error) {
	var opened []*release.Signed[fleet.Freshness]
	for _, e := range envelopes {
		if len(e) > maxStatementBytes {
			return nil, fmt.Errorf("taking a freshness statement of %d bytes: %w", len(e), release.ErrTooLarge)
		}
		s, err := p.trust().OpenFreshness(e)
		if err != nil {
			return nil, fmt.Errorf("taking freshness statements: %w", err)
		}
		// Else the host's clock floor would be raised beyond what is.
		if ahead := s.Doc.Issued.Sub(p.o.Now()); ahead > clockSlack {
			return nil, fmt.Errorf("taking a freshness statement for %s: %w: by %s", s.Doc.Machine, ErrFuture, ahead.Round(time.Second))
		}
		opened = append(opened, s)
	}
	p.changeMu.Lock()
	defer p.changeMu.Unlock()
	var c audit.Change
	next := map[fleet.MachineName]statement{}
	for _, s := range opened {
		m := s.Doc.Machine
		p.mu.RLock()
		old, ok := p.freshness[m]
		p.mu.RUnlock()
		if newer, twice := next[m]; twice {
			old, ok = newer, true
		}
		if ok && !s.Doc.Issued.After(old.doc.Issued) {
			continue
		}
		next[m] = statement{s.Doc, s.Envelope}
	}
	if len(next) == 0 {
		return nil, nil
	}
	for m, s := range next {
		c.Ops = append(c.Ops, store.Op{Key: freshnessPrefix + string(m), Value: s.envelope})
	}
	c.Entries = []audit.Entry{{
		Actor: "host/" + string(by), Kind: KindFreshness, Machine: by,
		Message: fmt.Sprintf("what is the newest was stated for %d machines", len(next)),
	}}
	if err := p.o.Log.Commit(ctx, c); err != nil {
		return nil, fmt.Errorf("taking freshness statements: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Now()
	for m, s := range next {
		if s.adds(p.freshness[m], now) {
			news = append(news, m)
		}
	}
	maps.Copy(p.freshness, next)
	return news, nil
}

// Freshness returns the newest statement for a machine; nil where there is none.
func (p *Publisher) Freshness(m fleet.MachineName) []byte {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.freshness[m].envelope
}
