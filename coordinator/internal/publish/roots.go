package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// ErrRootFork is a trust root in the place of another one that is known.
var ErrRootFork = errors.New("another trust root of this version is known")

// chain is all trust roots, oldest first. It is replaced, never changed.
type chain struct {
	trusts    []*release.Trust
	envelopes [][]byte
}

func newChain(roots [][]byte, pin fleet.Digest) (*chain, error) {
	if len(roots) == 0 {
		return nil, release.ErrRootVersion
	}
	first, err := release.OpenRoot(roots[0], pin)
	if err != nil {
		return nil, err
	}
	c := &chain{trusts: []*release.Trust{first}, envelopes: roots[:1]}
	for _, env := range roots[1:] {
		if c, err = c.with(env); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *chain) newest() *release.Trust { return c.trusts[len(c.trusts)-1] }

func (p *Publisher) trust() *release.Trust { return p.roots.Load().newest() }

// Trust is the newest trust root.
func (p *Publisher) Trust() *release.Trust { return p.trust() }

// Roots returns the envelopes of all trust roots, oldest first. Callers must not
// change them.
func (p *Publisher) Roots() [][]byte { return p.roots.Load().envelopes }

// openAny verifies a document that hosts may have accepted long ago: by the
// newest trust root, or by an older one, and says which it was. By an older one
// it is history: hosts would refuse it now.
func (p *Publisher) openAny(generation, secrets []byte) (o opened, stale bool, err error) {
	c := p.roots.Load()
	for i, t := range slices.Backward(c.trusts) {
		got, oerr := open(t, generation, secrets)
		if oerr == nil {
			return got, i < len(c.trusts)-1, nil
		}
		if err == nil {
			err = oerr
		}
		if !errors.Is(oerr, release.ErrUnknownKey) && !errors.Is(oerr, release.ErrThreshold) {
			break
		}
	}
	return opened{}, false, err
}

func rootKey(version uint64) string { return fmt.Sprintf("%s%020d", rootPrefix, version) }

// with returns the chain with a root that follows.
func (c *chain) with(envelope []byte) (*chain, error) {
	next, err := c.newest().Next(envelope)
	if err != nil {
		return nil, err
	}
	return &chain{trusts: append(slices.Clip(c.trusts), next), envelopes: append(slices.Clip(c.envelopes), envelope)}, nil
}

// loadRoots goes on from the kit's trust roots with those of the store. A kit
// that has later ones is newer than the store.
func (p *Publisher) loadRoots(ctx context.Context) error {
	c := p.roots.Load()
	for kv, err := range store.All(ctx, p.o.Store, rootPrefix) {
		if err != nil {
			return err
		}
		if known := len(c.envelopes); kv.Key <= rootKey(uint64(known)) {
			continue
		}
		next, err := c.with(kv.Value)
		if err != nil {
			// The kit's chain counts: it comes from the fleet's repository.
			p.o.Slog.Error("a stored trust root does not follow those of the kit", "key", kv.Key, "error", err)
			break
		}
		c = next
	}
	p.roots.Store(c)
	return nil
}

// AddRoots takes in trust roots that follow the newest one, oldest first, and
// returns the version of the newest one then and whether any was new. Those that
// are here are passed over; another one in the place of one that is here is
// refused with an alarm. Errors: ErrRootFork, ErrFuture, ErrTooMany, refusals of
// pkg/release.
func (p *Publisher) AddRoots(ctx context.Context, actor string, envelopes [][]byte) (version uint64, changed bool, err error) {
	p.commitMu.Lock()
	defer p.commitMu.Unlock()
	p.changeMu.Lock()
	defer p.changeMu.Unlock()
	for _, env := range envelopes {
		c := p.roots.Load()
		if slices.ContainsFunc(c.envelopes, func(known []byte) bool { return bytes.Equal(known, env) }) {
			continue
		}
		if err := p.addRoot(ctx, actor, c, env); err != nil {
			return 0, changed, fmt.Errorf("adding a trust root: %w", err)
		}
		changed = true
	}
	if changed {
		err = p.reload(ctx)
	}
	return p.trust().Root().Version, changed, err
}

func (p *Publisher) addRoot(ctx context.Context, actor string, c *chain, env []byte) error {
	if len(env) > maxEnvelope {
		return release.ErrTooLarge
	}
	if len(c.envelopes) >= kit.MaxRoots {
		return fmt.Errorf("%w: %d trust roots", ErrTooMany, len(c.envelopes))
	}
	next, err := c.with(env)
	if err != nil {
		return errors.Join(err, p.fork(ctx, actor, c, env))
	}
	root := next.newest().Root()
	// No clock of a host goes back behind it.
	if now := p.o.Now(); root.Issued.After(now.Add(clockSlack)) {
		return fmt.Errorf("%w: %s, now it is %s", ErrFuture, root.Issued.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	err = p.o.Log.Commit(ctx, audit.Change{
		Ops: []store.Op{{Key: rootKey(root.Version), Value: env}},
		Entries: []audit.Entry{{
			Actor: actor, Kind: KindTrustRoot,
			Message: fmt.Sprintf("version %d, epoch %d (%s)", root.Version, root.Epoch, next.newest().Digest().Short()),
		}},
	})
	if err != nil {
		return err
	}
	p.roots.Store(next)
	return nil
}

// fork raises an alarm where the root that was refused is signed like the one in
// its place: somebody signs behind the others' back. It returns ErrRootFork then.
func (p *Publisher) fork(ctx context.Context, actor string, c *chain, env []byte) error {
	for i, before := range c.trusts[:len(c.trusts)-1] {
		other, err := before.Next(env)
		if err != nil {
			continue
		}
		msg := fmt.Sprintf("version %d is here, and another one, signed by enough keys, was handed over (%s)", i+2, other.Digest().Short())
		return errors.Join(ErrRootFork, p.o.Log.Commit(ctx, audit.Change{Entries: []audit.Entry{{
			Actor: actor, Kind: KindRootFork, Message: msg, Alarm: true,
		}}}))
	}
	return nil
}

// reload judges everything anew by the newest trust root: what a key signed that
// is none any more, is not offered any longer. commitMu and changeMu are held.
func (p *Publisher) reload(ctx context.Context) error {
	fresh := newIndex()
	if err := p.loadAll(ctx, fresh); err != nil {
		return fmt.Errorf("judging releases by the new trust root: %w", err)
	}
	p.index.mu.Lock()
	p.index.machines = fresh.machines
	p.index.mu.Unlock()
	p.stageMu.Lock()
	clear(p.staged) // Commit verifies again what it finds in the store.
	p.stageMu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.freshness, func(_ fleet.MachineName, s statement) bool {
		_, err := p.trust().OpenFreshness(s.envelope)
		return err != nil
	})
	for m, all := range p.loosenings {
		p.loosenings[m] = slices.DeleteFunc(slices.Clone(all), func(l loosening) bool {
			_, err := p.trust().OpenLoosening(l.Envelope)
			return err != nil
		})
	}
	return nil
}
