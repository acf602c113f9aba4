package publisher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Sentinels about proposals.
var (
	// ErrProposal is what is no proposal of this fleet's.
	ErrProposal = errors.New("it is no proposal of this fleet's")
	// ErrOtherSettings is a proposal made with other settings than those here.
	ErrOtherSettings = errors.New("the fleet file says something else here than where the release was staged")
	// ErrCommitted is a release that needs no signature any more.
	ErrCommitted = errors.New("the release is committed already")
	// ErrOtherRevision is a proposal made from another revision.
	ErrOtherRevision = errors.New("this checkout is of another revision than what was staged")
)

// proposalFormat is the version of the format that is written.
const proposalFormat = 1

// Proposal is a release that waits for signatures. Either nobody signed yet: it
// says which source each machine should get, and nothing else, because numbers,
// secrets, probes and policy are made by who signs, out of their own checkout.
// Or fewer signed than have to: it is the release with the signatures so far.
type Proposal struct {
	Format   int             `json:"format"`
	Fleet    fleet.FleetID   `json:"fleet"`
	Release  fleet.ReleaseID `json:"release"`
	Created  time.Time       `json:"created"`
	Operator string          `json:"operator"`
	// Revision of the repository that it was made from.
	Revision string         `json:"revision,omitempty"`
	Staged   []StagedSource `json:"staged,omitempty"`
	Signed   *repo.Release  `json:"signed,omitempty"`
}

// StagedSource is what one profile of one machine should get.
type StagedSource struct {
	Machine fleet.MachineName `json:"machine"`
	Profile fleet.ProfileName `json:"profile"`
	Source  fleet.Source      `json:"source"`
	// Settings is a digest of what the fleet file said besides the source.
	Settings fleet.Digest `json:"settings"`
}

// settingsOf names what the fleet file says of a target besides its source.
func settingsOf(t Target) (fleet.Digest, error) {
	type secret struct {
		Name  fleet.SecretName
		Path  string
		Owner string
		Group string
		Mode  uint32
	}
	var secrets []secret
	for _, s := range t.Secrets {
		secrets = append(secrets, secret{s.Name, s.Path, s.Owner, s.Group, s.Mode})
	}
	data, err := json.Marshal(struct {
		Probes  []fleet.Probe
		Policy  fleet.Policy
		Expiry  time.Duration
		Secrets []secret
	}{t.Probes, t.Policy, t.Expiry, secrets})
	if err != nil {
		return "", fmt.Errorf("describing the settings of %s: %w", t.Machine, err)
	}
	return fleet.DigestOf(data), nil
}

// ParseProposal reads a proposal of a release of a fleet.
func ParseProposal(data []byte, f fleet.FleetID, id fleet.ReleaseID) (*Proposal, error) {
	p := &Proposal{}
	err := strictjson.Unmarshal(data, client.MaxProposalBytes, p)
	switch {
	case err != nil:
	case p.Format != proposalFormat:
		err = fmt.Errorf("format %d", p.Format)
	case p.Fleet != f || p.Release != id:
		err = fmt.Errorf("it is release %s of fleet %s", p.Release, p.Fleet)
	case (len(p.Staged) == 0) == (p.Signed == nil):
		err = errors.New("it has no sources and no signed release, or both")
	case p.Signed != nil && (p.Signed.ID != id || p.Signed.Fleet != f):
		err = fmt.Errorf("its signed release is %s of fleet %s", p.Signed.ID, p.Signed.Fleet)
	}
	if err == nil {
		err = p.checkSubjects()
	}
	if err != nil {
		return nil, ui.WithHint(fmt.Errorf("reading what is proposed as %s: %w: %w", id, ErrProposal, err), "update fleetctl if the other one is newer; else stage it again")
	}
	return p, nil
}

// checkSubjects says whether each profile is there once, under a good name.
func (p *Proposal) checkSubjects() error {
	seen := map[subject]bool{}
	note := func(m fleet.MachineName, profile fleet.ProfileName) error {
		if _, err := fleet.ParseMachineName(string(m)); err != nil {
			return err
		}
		if _, err := fleet.ParseProfileName(string(profile)); err != nil {
			return err
		}
		if s := (subject{m, profile}); seen[s] {
			return fmt.Errorf("%s of %s is there twice", profile, m)
		}
		seen[subject{m, profile}] = true
		return nil
	}
	for _, s := range p.Staged {
		if err := note(s.Machine, s.Profile); err != nil {
			return err
		}
	}
	if p.Signed != nil {
		for _, g := range p.Signed.Generations {
			if err := note(g.Machine, g.Profile); err != nil {
				return err
			}
		}
	}
	return nil
}

// Stage pins and uploads what a request names and proposes it as a release for
// people to sign. It needs no release key, changes nothing that hosts see, and
// tells the coordinator nothing of the inventory.
func (p *Publisher) Stage(ctx context.Context, req Request) (*Result, error) {
	trust, _, err := p.Repo.Trust()
	if err != nil {
		return nil, err
	}
	p.Reporter.Step(StepSources)
	defer p.Nix.Ended() //nolint:errcheck // As in Publish.
	pins, revision, err := p.pinSources(ctx, trust, req)
	if err != nil {
		return nil, err
	}
	p.Reporter.Step(StepPlan)
	now := p.Now().UTC().Truncate(time.Second)
	id, err := newReleaseID(now)
	if err != nil {
		return nil, err
	}
	pl := &plan{id: id, issued: now, blobs: map[fleet.Digest]blob{}}
	b := &builder{p: p, t: trust, pl: pl, pins: pins, bundles: map[string]fleet.BundleSource{}}
	n := &Proposal{Release: id, Created: now, Revision: revision}
	res := &Result{Release: id, Revision: revision}
	for _, target := range req.Targets {
		pin, err := b.pin(target.Source)
		if err != nil {
			return nil, fmt.Errorf("preparing %s: %w", target.name(), err)
		}
		settings, err := settingsOf(target)
		if err != nil {
			return nil, err
		}
		n.Staged = append(n.Staged, StagedSource{target.Machine, target.Profile, pin.source, settings})
		res.Generations = append(res.Generations, Generation{Machine: target.Machine, Profile: target.Profile, Source: pin.source, Unbuilt: pin.unbuilt})
	}
	if err := p.Nix.Ended(); err != nil {
		return nil, err
	}
	if req.DryRun {
		return res, nil
	}
	if err := p.step(ctx, StepUpload); err != nil {
		return nil, err
	}
	if err := p.upload(ctx, pl); err != nil {
		return nil, err
	}
	return res, p.propose(ctx, n, len(n.Staged))
}

// propose hands a proposal to the coordinator.
func (p *Publisher) propose(ctx context.Context, n *Proposal, count int) error {
	n.Format, n.Fleet, n.Operator = proposalFormat, p.Fleet, p.Operator
	data, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("proposing release %s: %w", n.Release, err)
	}
	if len(data) > client.MaxProposalBytes {
		return ui.WithHint(fmt.Errorf("proposing release %s: %d bytes, at most %d", n.Release, len(data), client.MaxProposalBytes), "publish fewer machines at a time")
	}
	ref := fleet.BlobRef{Digest: fleet.DigestOf(data), Size: uint64(len(data))}
	if err := p.step(ctx, StepStage); err != nil {
		return err
	}
	if err := p.Coordinator.Upload(ctx, ref, bytes.NewReader(data), func(uint64) {}); err != nil {
		return err
	}
	return p.Coordinator.Propose(ctx, client.Proposal{Release: n.Release, Blob: ref, Revision: n.Revision, Count: count})
}

// proposal fetches what waits as a release: from the coordinator, or, where it
// has nothing, from the repository, to which somebody who signed committed it.
// ErrCommitted where it waits no more: whoever signed last may have been
// interrupted, or not have heard of it. The repository knows it then.
func (p *Publisher) proposal(ctx context.Context, id fleet.ReleaseID) (*Proposal, error) {
	_, data, err := p.Coordinator.Proposal(ctx, id)
	if err == nil {
		return ParseProposal(data, p.Fleet, id)
	}
	if !errors.Is(err, client.ErrNotFound) {
		return nil, err
	}
	releases, rerr := p.Repo.Releases()
	if rerr != nil {
		return nil, rerr
	}
	committed, rerr := p.Coordinator.Releases(ctx, maxAsked)
	if rerr != nil {
		return nil, rerr
	}
	if slices.ContainsFunc(committed, func(c client.Release) bool { return c.ID == id }) {
		if err := p.markAs(committed, releases, true); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("signing %s: %w", id, ErrCommitted)
	}
	for _, r := range releases {
		if r.ID == id && r.State == repo.ReleaseStaged {
			return &Proposal{Format: proposalFormat, Fleet: p.Fleet, Release: id, Created: r.Created, Operator: r.Operator, Revision: r.Revision, Signed: r}, nil
		}
	}
	return nil, err
}
