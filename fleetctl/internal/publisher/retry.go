package publisher

import (
	"context"
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// retryExpiry is how long a signed retry is good.
const retryExpiry = time.Hour

// Retry signs that a machine may try its newest generation again and hands
// that over. Which one this is, is taken from signed documents only: else the
// coordinator could have any generation forgiven.
func (p *Publisher) Retry(ctx context.Context, m fleet.MachineName, profile fleet.ProfileName) (*fleet.Loosening, fleet.Number, error) {
	trust, _, err := p.Repo.Trust()
	if err != nil {
		return nil, fleet.Number{}, err
	}
	if err := p.checkClock(trust); err != nil {
		return nil, fleet.Number{}, err
	}
	p.Reporter.Step(StepHead)
	hist, err := p.look(ctx, trust, p.Repo.Releases, false)
	if err != nil {
		return nil, fleet.Number{}, err
	}
	if err := p.handOverRoots(ctx, trust, hist.rootVersion); err != nil {
		return nil, fleet.Number{}, err
	}
	old := hist.of(subject{m, profile})
	if len(old.committed) == 0 {
		return nil, fleet.Number{}, ui.WithHint(fmt.Errorf("retrying %s: %w", m, ErrNeverPublished), "publish first")
	}
	newest := old.committed[0]
	now := p.Now().UTC().Truncate(time.Second)
	doc := &fleet.Loosening{
		Type: fleet.TypeLoosening, Fleet: p.Fleet, Machine: m, Profile: profile,
		Action: fleet.LoosenRetry, Digest: newest.Digest, Issued: now, Expires: now.Add(retryExpiry),
	}
	if err := p.loosen(ctx, trust, doc); err != nil {
		return nil, fleet.Number{}, err
	}
	return doc, newest.Number, nil
}
