package publisher

import (
	"context"
	"fmt"
	"slices"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// maxRevert is how many earlier generations a new one lists in revert_to.
const maxRevert = 5

// subject is what has generations of its own.
type subject struct {
	machine fleet.MachineName
	profile fleet.ProfileName
}

// past is what is known of one subject's earlier generations.
type past struct {
	highest fleet.Ref
	// committed generations that hosts could see, newest first.
	committed []fleet.Ref
	// newest of them.
	newest client.Envelopes
	// digests by number, to notice a number that is used twice.
	digests map[fleet.Number]fleet.Digest
}

// history is what was published before, by anybody, as far as can be known.
type history struct {
	head fleet.ReleaseID
	// rootVersion of the coordinator's trust root; 0 where it is not known.
	rootVersion uint64
	subjects    map[subject]*past
	// versions are the highest ones of each machine's secrets.
	versions map[fleet.MachineName]map[fleet.SecretName]uint64
	// revoked is what was ever signed as revoked.
	revoked map[fleet.MachineName]*repo.Revoked
	signed  signedAt
	// unknown are generations of the coordinator that this repository lacks.
	unknown []fleet.Ref
}

func (h *history) of(s subject) *past {
	p := h.subjects[s]
	if p == nil {
		p = &past{digests: map[fleet.Number]fleet.Digest{}}
		h.subjects[s] = p
	}
	return p
}

// read begins to read the repository's releases, of which there may be many.
// releases waits for them, and reads them again where that failed or some came
// since, as by a git pull; end waits until nothing is read any more.
func (p *Publisher) read(ctx context.Context) (releases func() ([]*repo.Release, error), end func()) {
	before := p.Repo.ReleasesStamp()
	early, end := ahead(ctx, func(context.Context) ([]*repo.Release, error) { return p.Repo.Releases() })
	return func() ([]*repo.Release, error) {
		if p.Repo.ReleasesStamp() != before {
			return p.Repo.Releases()
		}
		return early()
	}, end
}

// look takes the repository's releases and the coordinator's head, and checks
// both against each other. With write it records which release the coordinator
// turned out to have committed.
func (p *Publisher) look(ctx context.Context, t *release.Trust, read func() ([]*repo.Release, error), write bool) (*history, error) {
	asked := p.Now()
	head, err := p.Coordinator.Head(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkAhead(asked, head.Time); err != nil {
		return nil, err
	}
	releases, err := read()
	if err != nil {
		return nil, err
	}
	if err := p.markCommitted(ctx, releases, write); err != nil {
		return nil, err
	}
	h, err := gather(t, releases, head)
	if err != nil {
		return nil, err
	}
	for _, u := range h.unknown {
		p.Reporter.Alarm(fmt.Sprintf("the coordinator has generation %s of release %s, validly signed, that this repository lacks: "+
			"get the other publisher's commit; if nobody published it, the release key is stolen", u.Number, u.Release))
	}
	return h, h.signed.checkBehind(p.Now())
}

// maxAsked is how many releases back one that was interrupted is looked for: as
// many as a coordinator tells.
const maxAsked = 1000

// markCommitted finds the releases whose publisher was interrupted between
// Commit and its record, by now perhaps below others' on top.
func (p *Publisher) markCommitted(ctx context.Context, releases []*repo.Release, write bool) error {
	if !slices.ContainsFunc(releases, isOpen) {
		return nil
	}
	committed, err := p.Coordinator.Releases(ctx, maxAsked)
	if err != nil {
		return err
	}
	return p.markAs(committed, releases, write)
}

// isOpen says whether the record of a release leaves open if hosts see it.
func isOpen(r *repo.Release) bool {
	return r.State == repo.ReleasePrepared || r.State == repo.ReleaseStaged
}

// markAs marks those releases that the coordinator says are committed.
func (p *Publisher) markAs(committed []client.Release, releases []*repo.Release, write bool) error {
	for _, r := range releases {
		if !isOpen(r) || !slices.ContainsFunc(committed, func(c client.Release) bool { return c.ID == r.ID }) {
			continue
		}
		r.State = repo.ReleaseCommitted
		if write {
			if err := p.Repo.WriteRelease(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// gather is the pure part of look.
func gather(t *release.Trust, releases []*repo.Release, head client.Head) (*history, error) {
	h := &history{head: head.Release, rootVersion: head.RootVersion, subjects: map[subject]*past{}, versions: map[fleet.MachineName]map[fleet.SecretName]uint64{}, revoked: map[fleet.MachineName]*repo.Revoked{}}
	mine := map[fleet.Digest]bool{}
	for _, r := range releases {
		if r.State == repo.ReleaseCommitted {
			h.signed.note(r.Created, r.ID)
		}
		for i := range r.Generations {
			g := &r.Generations[i]
			mine[g.Digest] = true
			if err := h.add(subject{g.Machine, g.Profile}, g.Ref(r.ID), client.Envelopes{Generation: g.Generation, Secrets: g.Secrets}, r.State); err != nil {
				return nil, err
			}
		}
	}
	for _, env := range head.Generations {
		if err := h.addHead(t, env, mine); err != nil {
			return nil, err
		}
	}
	for _, p := range h.subjects {
		slices.SortFunc(p.committed, func(a, b fleet.Ref) int { return b.Number.Compare(a.Number) })
	}
	return h, nil
}

// addHead takes up a generation from the coordinator. It counts when a key of
// the trust root signed it, or when this repository has published it: before a
// change of keys, say.
func (h *history) addHead(t *release.Trust, env client.Envelopes, mine map[fleet.Digest]bool) error {
	digest, err := repo.PayloadDigest(env.Generation)
	if err == nil && !mine[digest] {
		_, err = t.OpenGeneration(env.Generation)
	}
	var g fleet.Generation
	if err == nil {
		g, err = repo.Decode[fleet.Generation](env.Generation)
	}
	switch {
	case err != nil:
	case g.Secrets != nil:
		err = checkManifest(t, env.Secrets, g.Secrets.Digest, mine[digest])
	case len(env.Secrets) > 0:
		err = release.ErrSecretsMismatch
	}
	if err != nil {
		return alarm(fmt.Errorf("the coordinator shows a generation that this fleet's keys did not sign: %w", err),
			"somebody altered the coordinator's store, or this repository is behind: get its newest commits")
	}
	h.signed.note(g.Issued, g.Release)
	ref := fleet.Ref{Number: g.Number, Digest: digest, Release: g.Release}
	if !mine[digest] {
		h.unknown = append(h.unknown, ref)
	}
	return h.add(subject{g.Machine, g.Profile}, ref, env, repo.ReleaseCommitted)
}

func checkManifest(t *release.Trust, env []byte, want fleet.Digest, mine bool) error {
	digest, err := repo.PayloadDigest(env)
	switch {
	case err != nil:
		return err
	case digest != want:
		return release.ErrSecretsMismatch
	case mine:
		return nil
	}
	_, err = t.OpenSecrets(env)
	return err
}

func (h *history) add(s subject, ref fleet.Ref, env client.Envelopes, state repo.ReleaseState) error {
	p := h.of(s)
	if ref.Number.Compare(p.highest.Number) > 0 {
		p.highest = ref
	}
	if err := h.addVersions(s.machine, env.Secrets); err != nil {
		return err
	}
	// What hosts never saw uses up its number and says nothing else.
	if state != repo.ReleaseCommitted {
		return nil
	}
	switch old := p.digests[ref.Number]; {
	case old == ref.Digest:
		return nil
	case old != "":
		return alarm(fmt.Errorf("number %s of %s has two digests: %s and %s", ref.Number, s.machine, old.Short(), ref.Digest.Short()),
			"two repositories published at once, or the release key is stolen: compare releases/ with the event log")
	}
	p.digests[ref.Number] = ref.Digest
	if len(p.committed) == 0 || ref.Number.Compare(p.committed[0].Number) > 0 {
		p.newest = env
		p.committed = slices.Insert(p.committed, 0, ref)
		return nil
	}
	p.committed = append(p.committed, ref)
	return nil
}

// addVersions remembers which versions of secrets were ever signed, and which revoked.
func (h *history) addVersions(m fleet.MachineName, env []byte) error {
	if len(env) == 0 {
		return nil
	}
	manifest, err := repo.Decode[fleet.SecretsManifest](env)
	if err != nil {
		return fmt.Errorf("reading a published secrets manifest of %s: %w", m, err)
	}
	if h.versions[m] == nil {
		h.versions[m] = map[fleet.SecretName]uint64{}
	}
	if h.revoked[m] == nil {
		h.revoked[m] = &repo.Revoked{}
	}
	h.revoked[m].Raise(repo.Revoked{Floors: manifest.Floors, Before: manifest.RevokedBefore})
	for _, e := range manifest.Entries {
		h.versions[m][e.Name] = max(h.versions[m][e.Name], e.Version)
	}
	return nil
}

// next is the number that follows everything that was ever signed for s.
func (h *history) next(s subject, epoch uint64) (fleet.Number, error) {
	n := h.of(s).highest.Number
	switch {
	case n.Epoch > epoch:
		return fleet.Number{}, ui.WithHint(fmt.Errorf("%s has generation %s, beyond this trust root's epoch %d: %w", s.machine, n, epoch, release.ErrWrongEpoch),
			"this repository is behind: get its newest commits")
	case n.Epoch < epoch:
		return fleet.Number{Epoch: epoch, Seq: 1}, nil
	}
	return fleet.Number{Epoch: epoch, Seq: n.Seq + 1}, nil
}

// revertTo are the newest generations that hosts could see.
func (h *history) revertTo(s subject) []fleet.Ref {
	refs := h.of(s).committed
	return slices.Clone(refs[:min(len(refs), maxRevert)])
}

func alarm(err error, hint string) error {
	return ui.WithHint(fmt.Errorf("%w: %w", ErrAlarm, err), hint)
}
