package publisher

import (
	"context"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// LoosenFreshness signs that activations of a profile may start without a fresh
// statement of what is the newest, for a while, and hands that over.
func (p *Publisher) LoosenFreshness(ctx context.Context, m fleet.MachineName, profile fleet.ProfileName, d time.Duration, reason string) (*fleet.Loosening, error) {
	trust, _, err := p.Repo.Trust()
	if err != nil {
		return nil, err
	}
	if err := p.checkClock(trust); err != nil {
		return nil, err
	}
	now := p.Now().UTC().Truncate(time.Second)
	doc := &fleet.Loosening{
		Type: fleet.TypeLoosening, Fleet: p.Fleet, Machine: m, Profile: profile,
		Action: fleet.LoosenFreshness, Reason: reason, Issued: now, Expires: now.Add(d),
	}
	return doc, p.loosen(ctx, trust, doc)
}

// loosen signs a loosening with the release key, and hands it over.
func (p *Publisher) loosen(ctx context.Context, trust *release.Trust, doc *fleet.Loosening) error {
	p.Reporter.Step(StepSign)
	keys, err := p.Repo.Signers(trust, release.RoleRelease, p.Keys)
	if err != nil {
		return err
	}
	env, _, err := release.Seal(fleet.TypeLoosening, doc, keys...)
	if err != nil {
		return err
	}
	if _, err := trust.OpenLoosening(env); err != nil {
		return err
	}
	return p.Coordinator.Loosen(ctx, env)
}
