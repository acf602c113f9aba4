package publisher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// uploads is how many blobs travel at a time.
const uploads = 4

// carryOut does what the plan says, in the order that the package's comment
// explains.
func (p *Publisher) carryOut(ctx context.Context, t *release.Trust, h *history, pl *plan, revision string) (waiting bool, err error) {
	if err := p.writeSecrets(ctx, pl); err != nil {
		return false, err
	}
	crashpoint.Hit(crashpoint.PublishSecrets)
	p.Reporter.Step(StepSign)
	complete, err := p.sign(ctx, t, pl)
	if err != nil {
		return false, err
	}
	crashpoint.Hit(crashpoint.PublishSigned)
	rel := &repo.Release{
		ID: pl.id, Fleet: p.Fleet, State: repo.ReleasePrepared, Created: pl.issued,
		Operator: p.Operator, Revision: revision, ExpectedHead: h.head,
	}
	for i := range pl.items {
		it := &pl.items[i]
		rel.Generations = append(rel.Generations, repo.Published{
			Machine: it.gen.Machine, Profile: it.gen.Profile, Number: it.gen.Number, Digest: it.digest,
			Generation: it.env.Generation, Secrets: it.env.Secrets,
		})
	}
	if err := p.record(ctx, rel, complete); err != nil {
		return false, err
	}
	if err := p.step(ctx, StepUpload); err != nil {
		return false, err
	}
	if err := p.upload(ctx, pl); err != nil {
		return false, err
	}
	return !complete, p.offer(ctx, rel, complete)
}

// finish records and offers a release whose blobs are at the coordinator.
func (p *Publisher) finish(ctx context.Context, rel *repo.Release, complete bool) error {
	if err := p.record(ctx, rel, complete); err != nil {
		return err
	}
	return p.offer(ctx, rel, complete)
}

// record writes a release to the repository, before the coordinator hears of
// it. One with too few signatures waits for more.
func (p *Publisher) record(ctx context.Context, rel *repo.Release, complete bool) error {
	rel.State = repo.ReleasePrepared
	if !complete {
		rel.State = repo.ReleaseStaged
	}
	if err := p.step(ctx, StepRecord); err != nil {
		return err
	}
	if err := p.Repo.WriteRelease(rel); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.PublishRecorded)
	return nil
}

// offer commits a release, or proposes it to those who have to sign it too.
func (p *Publisher) offer(ctx context.Context, rel *repo.Release, complete bool) error {
	if !complete {
		return p.propose(ctx, &Proposal{Release: rel.ID, Created: rel.Created, Revision: rel.Revision, Signed: rel}, len(rel.Generations))
	}
	envs := make([]client.Envelopes, 0, len(rel.Generations))
	for i := range rel.Generations {
		envs = append(envs, client.Envelopes{Generation: rel.Generations[i].Generation, Secrets: rel.Generations[i].Secrets})
	}
	if err := p.step(ctx, StepStage); err != nil {
		return err
	}
	if err := p.Coordinator.Stage(ctx, rel.ID, envs); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.PublishStaged)
	if err := p.step(ctx, StepCommit); err != nil {
		return err
	}
	return p.commit(ctx, rel)
}

// step tells the reporter and stops where the operator asked to.
func (p *Publisher) step(ctx context.Context, s Step) error {
	p.Reporter.Step(s)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (p *Publisher) writeSecrets(ctx context.Context, pl *plan) error {
	if err := p.step(ctx, StepSecrets); err != nil {
		return err
	}
	for i := range pl.items {
		for _, s := range pl.items[i].fresh {
			if err := p.Repo.WriteSecret(pl.items[i].gen.Machine, s.name, s.data, s.meta); err != nil {
				return err
			}
		}
	}
	return nil
}

// sign seals all documents with the keys that are here, and opens and admits
// each as a host would: what a host refuses must not be published. complete says
// whether these keys are enough.
func (p *Publisher) sign(ctx context.Context, t *release.Trust, pl *plan) (complete bool, err error) {
	releaseKeys, err := p.someKeys(t, release.RoleRelease)
	if err != nil {
		return false, err
	}
	var secretsKeys []release.Signer
	complete = true
	for i := range pl.items {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		it := &pl.items[i]
		if it.manifest != nil && secretsKeys == nil {
			if secretsKeys, err = p.someKeys(t, release.RoleSecrets); err != nil {
				return false, err
			}
		}
		enough, err := it.sign(t, releaseKeys, secretsKeys)
		if err != nil {
			return false, fmt.Errorf("signing for %s: %w", it.gen.Machine, err)
		}
		complete = complete && enough
	}
	return complete, nil
}

// someKeys returns the keys of a role that are here, at most as many as have to
// sign. None is an error; too few is none, where others can add theirs.
func (p *Publisher) someKeys(t *release.Trust, role release.RoleName) ([]release.Signer, error) {
	if keys, _ := p.Repo.SomeSigners(t, role, p.Keys); len(keys) > 0 {
		return keys, nil
	}
	return p.Repo.Signers(t, role, p.Keys) // It says why.
}

func (it *item) sign(t *release.Trust, releaseKeys, secretsKeys []release.Signer) (complete bool, err error) {
	if it.manifest != nil {
		env, digest, err := release.Seal(fleet.TypeSecrets, it.manifest, secretsKeys...)
		if err != nil {
			return false, err
		}
		it.env.Secrets = env
		it.gen.Secrets = &fleet.SecretsRef{Digest: digest}
	}
	if it.env.Generation, it.digest, err = release.Seal(fleet.TypeGeneration, &it.gen, releaseKeys...); err != nil {
		return false, err
	}
	host := release.Host{Fleet: it.gen.Fleet, Machine: it.gen.Machine, Profile: it.gen.Profile, Highest: it.highest}
	j, err := judge(t, host, it.env, it.gen.Issued)
	if err != nil {
		return false, err
	}
	return j.complete, nil
}

// upload hands over the blobs that the coordinator lacks.
func (p *Publisher) upload(ctx context.Context, pl *plan) error {
	list := make([]blob, 0, len(pl.blobs))
	for _, b := range pl.blobs {
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b blob) int { return strings.Compare(string(a.ref.Digest), string(b.ref.Digest)) })
	sum := &meter{report: p.Reporter.Uploaded}
	for _, b := range list {
		sum.total += b.ref.Size
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	for _, b := range list {
		g.Go(func() error { return p.uploadOne(ctx, b, sum) })
	}
	return g.Wait()
}

func (p *Publisher) uploadOne(ctx context.Context, b blob, sum *meter) error {
	has, err := p.Coordinator.Has(ctx, b.ref)
	if err != nil {
		return fmt.Errorf("uploading %s: %w", b.name, err)
	}
	progress := sum.blob()
	if has {
		progress(b.ref.Size)
		return nil
	}
	src, err := b.open()
	if err != nil {
		return err
	}
	err = p.Coordinator.Upload(ctx, b.ref, src, progress)
	if cerr := src.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("uploading %s: %w", b.name, err)
	}
	crashpoint.Hit(crashpoint.PublishUploaded)
	return nil
}

// meter adds up the progress of several uploads.
type meter struct {
	total  uint64
	report func(done, total uint64)
	mu     sync.Mutex // guards done, and keeps reports in order
	done   uint64
}

// blob returns what is to be told how far one blob is.
func (m *meter) blob() func(done uint64) {
	var mine uint64
	return func(done uint64) {
		m.mu.Lock()
		defer m.mu.Unlock()
		// An upload that was taken up again may have lost something.
		m.done = m.done - mine + done
		mine = done
		m.report(m.done, m.total)
	}
}

// commit shows the release to hosts. Where the answer got lost, it asks.
func (p *Publisher) commit(ctx context.Context, rel *repo.Release) error {
	err := p.Coordinator.Commit(ctx, rel.ID, rel.ExpectedHead, len(rel.Generations), rel.Revision)
	if errors.Is(err, client.ErrUnreachable) {
		head, herr := p.Coordinator.Head(ctx)
		switch {
		case herr != nil:
			return ui.WithHint(fmt.Errorf("whether release %s was committed is not known: %w", rel.ID, err),
				"run publish again when the coordinator is back: it finds out")
		case head.Release == rel.ID:
			err = nil
		}
	}
	switch {
	case errors.Is(err, client.ErrConflict):
		rel.State = repo.ReleaseAbandoned
		cause := ui.WithHint(err, "run publish again")
		if head, herr := p.Coordinator.Head(ctx); herr == nil && head.Release != rel.ID {
			cause = ui.WithHint(fmt.Errorf("%w: the head is release %s now", err, head.Release), "run publish again")
		} else if herr == nil {
			rel.State, cause = repo.ReleaseCommitted, nil
		}
		return errors.Join(cause, p.Repo.WriteRelease(rel))
	case err != nil:
		return err
	}
	p.Reporter.Step(StepMark)
	crashpoint.Hit(crashpoint.PublishCommitted)
	rel.State = repo.ReleaseCommitted
	err = p.Repo.WriteRelease(rel)
	crashpoint.Hit(crashpoint.PublishMarked)
	if err != nil {
		return ui.WithHint(fmt.Errorf("release %s is committed and hosts see it, but releases/ does not say so: %w", rel.ID, err),
			"make room on the disk of this repository where that is what it lacks; the next publish puts it right")
	}
	return nil
}
