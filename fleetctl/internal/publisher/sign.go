package publisher

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// SignRequest says which proposal to sign.
type SignRequest struct {
	Release fleet.ReleaseID
	// Targets are those that the fleet file has here.
	Targets   []Target
	Inventory client.Inventory
	// Revision of this checkout.
	Revision string
	// AnyRevision signs what was staged from another revision.
	AnyRevision bool
}

// Review is a proposal that was checked and waits for a person's yes.
type Review struct {
	Proposal *Proposal
	Changes  []Change
	// Signers are the ids of the keys that would sign.
	Signers []string

	trust *release.Trust
	hist  *history
	pl    *plan // of a staged one
	req   SignRequest
}

// Change is what signing would change of one profile.
type Change struct {
	Machine fleet.MachineName
	Profile fleet.ProfileName
	// Before is what hosts were offered last; its number is zero where there was
	// nothing.
	Before, After Generation
	// Secrets that are new or have a new version, by name.
	Secrets []string
	// Settings says what differs besides the source and secrets.
	Settings []string
	// Checked says how the source compares with what is here.
	Checked SourceCheck
}

// SourceCheck is how a staged source compares with the same one made here.
type SourceCheck string

// The outcomes.
const (
	// SourceSame was made here too, and is the same.
	SourceSame SourceCheck = "same"
	// SourceDiffers was made here, and is another one.
	SourceDiffers SourceCheck = "differs"
	// SourceUnchecked can't be made here without building.
	SourceUnchecked SourceCheck = "unchecked"
)

// Review fetches a proposal and makes every check that does not need the
// operator: what it names exists, it is of this checkout's revision and
// settings, it follows what was published. The repository must be locked until
// Sign is done. Errors: ErrCommitted, ErrOtherRevision and others.
func (p *Publisher) Review(ctx context.Context, req SignRequest) (*Review, error) {
	trust, _, err := p.Repo.Trust()
	if err != nil {
		return nil, err
	}
	if err := p.checkClock(trust); err != nil {
		return nil, err
	}
	n, err := p.proposal(ctx, req.Release)
	if err != nil {
		return nil, err
	}
	if n.Revision != req.Revision && !req.AnyRevision {
		return nil, ui.WithHint(fmt.Errorf("signing %s: %w: %s, here %s", n.Release, ErrOtherRevision, orNone(n.Revision), orNone(req.Revision)),
			"check that revision out, or, if you mean it, say --any-revision")
	}
	p.Reporter.Step(StepHostKeys)
	if _, err := p.CollectHostKeys(ctx, true); err != nil {
		return nil, err
	}
	p.Reporter.Step(StepHead)
	hist, err := p.look(ctx, trust, p.Repo.Releases, true)
	if err != nil {
		return nil, err
	}
	r := &Review{Proposal: n, trust: trust, hist: hist, req: req}
	p.Reporter.Step(StepPlan)
	if n.Signed != nil {
		err = p.reviewSigned(r)
	} else {
		err = p.reviewStaged(r)
	}
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", n.Release, err)
	}
	if err := p.checkSources(ctx, r); err != nil {
		return nil, fmt.Errorf("signing %s: %w", n.Release, err)
	}
	signers, err := p.newSigners(trust, release.RoleRelease, r.signed())
	if err != nil {
		return nil, err
	}
	for _, s := range signers {
		r.Signers = append(r.Signers, s.KeyID())
	}
	return r, nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (r *Review) target(s subject) (Target, error) {
	i := slices.IndexFunc(r.req.Targets, func(t Target) bool { return t.Machine == s.machine && t.Profile == s.profile })
	if i < 0 {
		return Target{}, ui.WithHint(fmt.Errorf("%s of %s: %w: it has no source, or is disabled or banned", s.profile, s.machine, ErrOtherSettings),
			"compare fleet.yaml with the revision that was staged, and stage it again")
	}
	return r.req.Targets[i], nil
}

// reviewStaged makes what would be signed: the proposal says the sources, this
// checkout all the rest.
func (p *Publisher) reviewStaged(r *Review) error {
	recipients, err := p.Repo.Recipients()
	if err != nil {
		return err
	}
	now := p.Now().UTC().Truncate(time.Second)
	r.pl = &plan{id: r.Proposal.Release, issued: now, blobs: map[fleet.Digest]blob{}}
	b := &builder{p: p, t: r.trust, h: r.hist, pl: r.pl, recipients: recipients, plain: map[string][]byte{}}
	for _, s := range r.Proposal.Staged {
		target, err := r.target(subject{s.Machine, s.Profile})
		if err != nil {
			return err
		}
		settings, err := settingsOf(target)
		if err != nil {
			return err
		}
		if settings != s.Settings {
			return ui.WithHint(fmt.Errorf("%s: %w", s.Machine, ErrOtherSettings), "check out the revision that was staged, or stage it again")
		}
		if s.Source.Driver != target.Source.Driver {
			return ui.WithHint(fmt.Errorf("%s: %w: driver %s, here %s", s.Machine, ErrOtherSettings, s.Source.Driver, target.Source.Driver), "stage it again")
		}
		it, err := b.begin(target, fleet.Generation{Source: s.Source, Probes: target.Probes, Policy: target.Policy})
		if err != nil {
			return err
		}
		entries, err := b.secrets(target, it)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Machine, err)
		}
		if err := b.finish(it, entries); err != nil {
			return err
		}
		r.pl.items = append(r.pl.items, *it)
		var secrets fleet.SecretsManifest
		if it.manifest != nil {
			secrets = *it.manifest
		}
		c, err := r.change(it.gen, secrets, target)
		if err != nil {
			return err
		}
		c.After = it.result()
		r.Changes = append(r.Changes, c)
	}
	return nil
}

// reviewSigned judges a release that others signed as a host would, but for the
// number of signatures.
func (p *Publisher) reviewSigned(r *Review) error {
	for i := range r.Proposal.Signed.Generations {
		g := &r.Proposal.Signed.Generations[i]
		s := subject{g.Machine, g.Profile}
		host := release.Host{Fleet: p.Fleet, Machine: g.Machine, Profile: g.Profile, Highest: r.hist.of(s).highest}
		j, err := judge(r.trust, host, client.Envelopes{Generation: g.Generation, Secrets: g.Secrets}, p.Now())
		if err != nil {
			return fmt.Errorf("%s: %w", g.Machine, err)
		}
		if j.gen.Digest != g.Digest || j.gen.Doc.Number != g.Number || j.gen.Doc.Release != r.Proposal.Release {
			return fmt.Errorf("%s: %w: its documents are of something else than it says", g.Machine, ErrProposal)
		}
		target, err := r.target(s)
		if err != nil {
			return err
		}
		var secrets fleet.SecretsManifest
		if j.secrets != nil {
			secrets = j.secrets.Doc
		}
		c, err := r.change(j.gen.Doc, secrets, target)
		if err != nil {
			return err
		}
		c.After = Generation{
			Machine: g.Machine, Profile: g.Profile, Number: g.Number, Digest: g.Digest, Source: j.gen.Doc.Source,
			Expires: j.gen.Doc.Expires, Secrets: len(secrets.Entries), SecretsChanged: len(c.Secrets),
		}
		if !reflect.DeepEqual(j.gen.Doc.Policy, target.Policy) || !reflect.DeepEqual(j.gen.Doc.Probes, target.Probes) && len(target.Probes)+len(j.gen.Doc.Probes) > 0 {
			c.Settings = append(c.Settings, "probes or policy are not those of fleet.yaml here")
		}
		r.Changes = append(r.Changes, c)
	}
	return nil
}

// change compares a generation with what was offered before.
func (r *Review) change(gen fleet.Generation, secrets fleet.SecretsManifest, target Target) (Change, error) {
	c := Change{Machine: gen.Machine, Profile: gen.Profile, Checked: checkHere(target, gen.Source)}
	old := r.hist.of(subject{gen.Machine, gen.Profile})
	var before fleet.Generation
	var had fleet.SecretsManifest
	if len(old.committed) > 0 {
		var err error
		if before, had, err = newest(old); err != nil {
			return c, err
		}
		c.Before = Generation{Machine: before.Machine, Profile: before.Profile, Number: before.Number, Source: before.Source, Expires: before.Expires, Secrets: len(had.Entries)}
		if !reflect.DeepEqual(before.Policy, gen.Policy) {
			c.Settings = append(c.Settings, "policy changes")
		}
		if len(before.Probes)+len(gen.Probes) > 0 && !reflect.DeepEqual(before.Probes, gen.Probes) {
			c.Settings = append(c.Settings, probeChange(before.Probes, gen.Probes))
		}
	}
	c.Settings = append(c.Settings, revocations(had, secrets)...)
	for _, e := range secrets.Entries {
		if !slices.ContainsFunc(had.Entries, func(o fleet.SecretEntry) bool {
			return o.Name == e.Name && o.Version == e.Version && o.Digest == e.Digest
		}) {
			c.Secrets = append(c.Secrets, string(e.Name))
		}
	}
	return c, nil
}

// revocations tell what a manifest revokes besides.
func revocations(before, now fleet.SecretsManifest) (list []string) {
	for _, name := range slices.Sorted(maps.Keys(now.Floors)) {
		if now.Floors[name] > before.Floors[name] {
			list = append(list, fmt.Sprintf("versions of %s below %d are revoked", name, now.Floors[name]))
		}
	}
	if now.RevokedBefore.After(before.RevokedBefore) {
		list = append(list, "nobody goes back to generations from before "+now.RevokedBefore.UTC().Format(time.DateTime))
	}
	return list
}

func probeChange(a, b []fleet.Probe) string {
	names := func(list []fleet.Probe) string {
		var out []string
		for _, p := range list {
			out = append(out, p.Name)
		}
		return strings.Join(out, " ")
	}
	return fmt.Sprintf("probes change: [%s] → [%s]", names(a), names(b))
}

// checkHere packs a bundle again, where it is here, and compares.
func checkHere(target Target, s fleet.Source) SourceCheck {
	dir := target.Source.Bundle
	if s.Bundle == nil || dir == "" {
		return SourceUnchecked
	}
	switch src, err := bundle.Digest(dir); {
	case err != nil:
		return SourceUnchecked
	case src == *s.Bundle:
		return SourceSame
	}
	return SourceDiffers
}

// checkSources makes sure that the coordinator has each blob that the documents
// name, as they name it.
func (p *Publisher) checkSources(ctx context.Context, r *Review) error {
	checked := map[fleet.Digest]bool{}
	for _, c := range r.Changes {
		for _, ref := range c.After.Source.Blobs() {
			if checked[ref.Digest] {
				continue
			}
			checked[ref.Digest] = true
			has, err := p.Coordinator.Has(ctx, ref)
			if err != nil {
				return err
			}
			if !has {
				return ui.WithHint(fmt.Errorf("%s: %w: the coordinator does not have %s", c.Machine, ErrSourceGone, ref.Digest.Short()), "stage it again")
			}
		}
	}
	return nil
}

// signed are the keys whose signatures the proposal has already.
func (r *Review) signed() []string {
	if r.Proposal.Signed == nil {
		return nil
	}
	var out []string
	for i := range r.Proposal.Signed.Generations {
		t, err := r.trust.Signatures(fleet.TypeGeneration, release.RoleRelease, r.Proposal.Signed.Generations[i].Generation)
		if err != nil || i > 0 && !slices.Equal(out, t.Signed) {
			return out // judge told what is wrong with it.
		}
		out = t.Signed
	}
	return out
}

// newSigners are the keys of a role that can sign here and did not yet.
func (p *Publisher) newSigners(t *release.Trust, role release.RoleName, signed []string) ([]release.Signer, error) {
	ids := slices.DeleteFunc(slices.Clone(t.Root().Roles[role].KeyIDs), func(id string) bool { return slices.Contains(signed, id) })
	signers, err := p.Repo.AllSigners(ids, p.Keys)
	if missing := t.Root().Roles[role].Threshold - len(signed); len(signers) > missing && missing > 0 {
		signers = signers[:missing]
	}
	if len(signers) > 0 {
		return signers, nil
	}
	none := fmt.Errorf("%w: no %s key that has not signed yet can be used here", repo.ErrNoKey, role)
	if err != nil {
		return nil, ui.WithHint(fmt.Errorf("%w: %w", none, err), ui.HintOf(err))
	}
	return nil, ui.WithHint(none, "have who holds another one sign it")
}

// Sign signs what was reviewed. With enough signatures it is committed, like a
// release that was published at once; else it waits for more.
func (p *Publisher) Sign(ctx context.Context, r *Review) (*Result, error) {
	p.Reporter.Step(StepInventory)
	if _, err := p.Coordinator.ApplyInventory(ctx, r.req.Inventory); err != nil {
		return nil, err
	}
	if err := p.handOverRoots(ctx, r.trust, r.hist.rootVersion); err != nil {
		return nil, err
	}
	res := &Result{Release: r.Proposal.Release, Expected: r.hist.head}
	for _, c := range r.Changes {
		res.Generations = append(res.Generations, c.After)
	}
	if r.pl != nil {
		waiting, err := p.carryOut(ctx, r.trust, r.hist, r.pl, r.Proposal.Revision)
		if err != nil {
			return nil, err
		}
		res.Waiting = waiting
		res.Generations = nil
		for i := range r.pl.items {
			res.Generations = append(res.Generations, r.pl.items[i].result())
		}
		return res, nil
	}
	rel := *r.Proposal.Signed
	complete, err := p.countersign(r.trust, &rel)
	if err != nil {
		return nil, err
	}
	rel.ExpectedHead = r.hist.head
	res.Waiting = !complete
	return res, p.finish(ctx, &rel, complete)
}

// countersign adds this operator's signatures to all documents of a release and
// says whether these are enough.
func (p *Publisher) countersign(t *release.Trust, rel *repo.Release) (complete bool, err error) {
	p.Reporter.Step(StepSign)
	rel.Generations = slices.Clone(rel.Generations)
	complete = true
	// Which keys are missing is the same for most documents.
	found := map[string][]release.Signer{}
	find := func(role release.RoleName, signed []string) ([]release.Signer, error) {
		key := string(role) + " " + strings.Join(signed, " ")
		if s, ok := found[key]; ok {
			return s, nil
		}
		s, err := p.newSigners(t, role, signed)
		if err == nil {
			found[key] = s
		}
		return s, err
	}
	add := func(docType string, role release.RoleName, env []byte) ([]byte, error) {
		have, err := t.Signatures(docType, role, env)
		if err != nil || have.Met() {
			return env, err
		}
		signers, err := find(role, have.Signed)
		if err != nil {
			if role == release.RoleSecrets && errors.Is(err, repo.ErrNoKey) {
				return env, nil // Somebody else's to add.
			}
			return nil, err
		}
		return release.AddSignatures(docType, env, signers...)
	}
	for i := range rel.Generations {
		g := &rel.Generations[i]
		if g.Generation, err = add(fleet.TypeGeneration, release.RoleRelease, g.Generation); err != nil {
			return false, err
		}
		if len(g.Secrets) > 0 {
			if g.Secrets, err = add(fleet.TypeSecrets, release.RoleSecrets, g.Secrets); err != nil {
				return false, err
			}
		}
		host := release.Host{Fleet: p.Fleet, Machine: g.Machine, Profile: g.Profile}
		j, err := judge(t, host, client.Envelopes{Generation: g.Generation, Secrets: g.Secrets}, p.Now())
		if err != nil {
			return false, fmt.Errorf("signing for %s: %w", g.Machine, err)
		}
		complete = complete && j.complete
	}
	return complete, nil
}

// judged is a generation that a host would take, but for the number of
// signatures.
type judged struct {
	gen      *release.Signed[fleet.Generation]
	secrets  *release.Signed[fleet.SecretsManifest]
	complete bool
}

// judge makes every check of a host, except that one good signature is enough.
func judge(t *release.Trust, host release.Host, env client.Envelopes, now time.Time) (*judged, error) {
	j := &judged{complete: true}
	gen, met, err := partly[fleet.Generation](t, fleet.TypeGeneration, release.RoleRelease, env.Generation)
	if err != nil {
		return nil, err
	}
	j.gen, j.complete = gen, met
	if met {
		if _, err := t.OpenGeneration(env.Generation); err != nil {
			return nil, err
		}
	}
	if err := gen.Doc.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", release.ErrMalformed, err)
	}
	if len(env.Secrets) > 0 {
		j.secrets, met, err = partly[fleet.SecretsManifest](t, fleet.TypeSecrets, release.RoleSecrets, env.Secrets)
		if err != nil {
			return nil, err
		}
		j.complete = j.complete && met
		if met {
			if _, err := t.OpenSecrets(env.Secrets); err != nil {
				return nil, err
			}
		}
		if err := j.secrets.Doc.Validate(); err != nil {
			return nil, fmt.Errorf("%w: %w", release.ErrMalformed, err)
		}
	}
	return j, t.Admit(host, j.gen, j.secrets, now)
}

// partly reads a document that at least one key of the role signed.
func partly[T any](t *release.Trust, docType string, role release.RoleName, env []byte) (*release.Signed[T], bool, error) {
	tally, err := t.Signatures(docType, role, env)
	if err != nil {
		return nil, false, err
	}
	if len(tally.Signed) == 0 {
		return nil, false, release.ErrUnknownKey
	}
	doc, err := repo.Decode[T](env)
	if err != nil {
		return nil, false, err
	}
	digest, err := repo.PayloadDigest(env)
	return &release.Signed[T]{Doc: doc, Digest: digest, Envelope: env}, tally.Met(), err
}
