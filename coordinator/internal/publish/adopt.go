package publish

import (
	"context"
	"fmt"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// Adopt takes in a generation that a host accepted and this coordinator never
// saw, because its store is new. Only signatures and machine are judged: the
// host judged the rest when it accepted it. It says whether the generation was
// new. One that stands above what was published here, or beside it under the
// same number, is an alarm: somebody else signs. Errors: refusals of
// pkg/release.
func (p *Publisher) Adopt(ctx context.Context, m fleet.MachineName, generation, secrets []byte) (bool, error) {
	o, stale, err := p.openAny(generation, secrets)
	if err != nil {
		return false, fmt.Errorf("adopting a generation of %s: %w", m, err)
	}
	d := o.generation.Doc
	if d.Machine != m {
		return false, fmt.Errorf("adopting a generation of %s: %w", m, release.ErrWrongMachine)
	}
	if err := checkSecrets(o); err != nil {
		return false, fmt.Errorf("adopting a generation of %s: %w", m, err)
	}
	p.changeMu.Lock()
	defer p.changeMu.Unlock()
	key := adoptedPrefix + string(m) + "/" + o.generation.Digest.Hex() + "/" + string(d.Profile)
	g := o.gen(key)
	g.Stale = stale
	entry := audit.Entry{
		Actor: "host/" + string(m), Kind: KindAdopted, Machine: m,
		Message: fmt.Sprintf("%s: generation %s of %s (%s) runs there and was not known here", d.Profile, d.Number, d.Release, o.generation.Digest.Short()),
	}
	if l := p.index.line(m, d.Profile); l != nil {
		if l.byDigest(g.Ref.Digest) != nil {
			return false, nil
		}
		if l.tooOld(g.Ref.Number) {
			return false, nil
		}
		newest := l.newest()
		if clash := p.Clash(m, d.Profile, g.Ref); clash != nil {
			entry.Kind, entry.Alarm = KindNumberReused, true
			entry.Message += "; " + clash.Ref.Digest.Short() + " has the same number"
		} else if !p.adopted(newest) && g.Ref.Number.Compare(newest.Ref.Number) > 0 {
			entry.Alarm = true
			entry.Message += "; it is above all that was published here"
		}
	}
	err = p.o.Log.Commit(ctx, audit.Change{
		Ops:     []store.Op{{Key: key, Value: encodePair(generation, secrets)}},
		Entries: []audit.Entry{entry},
	})
	if err != nil {
		return false, fmt.Errorf("adopting a generation of %s: %w", m, err)
	}
	p.forget(ctx, p.index.add(g))
	return true, nil
}

// adopted says whether a generation came from a host.
func (p *Publisher) adopted(g *Gen) bool {
	return len(g.key) > len(adoptedPrefix) && g.key[:len(adoptedPrefix)] == adoptedPrefix
}

// checkSecrets says whether the manifest is the one that the generation names.
func checkSecrets(o opened) error {
	switch named := o.generation.Doc.Secrets; {
	case named == nil && o.secrets == nil:
		return nil
	case named == nil || o.secrets == nil || o.secrets.Digest != named.Digest:
		return release.ErrSecretsMismatch
	}
	return nil
}
