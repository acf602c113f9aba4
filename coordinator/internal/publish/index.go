// Package publish keeps releases: staged ones, which no host sees, committed
// ones, and what is therefore desired of each machine. Everything that it
// stores was verified against the trust root, although hosts verify again.
package publish

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// keptGenerations is how many generations of a profile are kept: the newest
// with its whole revert set, and as many again for hosts that lag behind.
const keptGenerations = 2 * (fleet.MaxRevertTo + 1)

// Gen is what is remembered of a signed generation. It is immutable.
type Gen struct {
	Machine  fleet.MachineName
	Profile  fleet.ProfileName
	Ref      fleet.Ref
	RevertTo []fleet.Ref
	Expires  time.Time
	// Blobs that the generation and its secrets name.
	Blobs []fleet.BlobRef
	// Stale says that the trust root no longer names the keys that signed it:
	// hosts would refuse it.
	Stale bool
	// key in the store.
	key string
}

// index is what is desired of every machine, in memory.
type index struct {
	mu       sync.RWMutex
	machines map[fleet.MachineName]map[fleet.ProfileName]*line
	reverts  map[profileKey]Revert
}

type profileKey struct {
	machine fleet.MachineName
	profile fleet.ProfileName
}

// line is the generations of one profile, highest number first. It is
// replaced, never changed.
type line struct{ gens []*Gen }

// newest is the one that is desired.
func (l *line) newest() *Gen { return l.gens[0] }

func (l *line) byDigest(d fleet.Digest) *Gen {
	for _, g := range l.gens {
		if g.Ref.Digest == d {
			return g
		}
	}
	return nil
}

// tooOld says whether a generation of this number would not be kept.
func (l *line) tooOld(n fleet.Number) bool {
	return len(l.gens) == keptGenerations && n.Compare(l.gens[len(l.gens)-1].Ref.Number) <= 0
}

func newIndex() *index {
	return &index{
		machines: map[fleet.MachineName]map[fleet.ProfileName]*line{},
		reverts:  map[profileKey]Revert{},
	}
}

// with returns the line with g in its place, and those that fall off its end.
// l may be nil.
func (l *line) with(g *Gen) (*line, []*Gen) {
	var gens []*Gen
	if l != nil {
		if l.byDigest(g.Ref.Digest) != nil {
			return l, nil
		}
		gens = slices.Clone(l.gens)
	}
	at := slices.IndexFunc(gens, func(o *Gen) bool { return o.Ref.Number.Compare(g.Ref.Number) < 0 })
	if at < 0 {
		at = len(gens)
	}
	gens = slices.Insert(gens, at, g)
	kept := min(len(gens), keptGenerations)
	return &line{gens: gens[:kept:kept]}, slices.Clone(gens[kept:])
}

// add takes generations in and returns those that are not kept any more.
func (x *index) add(gens ...*Gen) (dropped []*Gen) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, g := range gens {
		profiles := x.machines[g.Machine]
		if profiles == nil {
			profiles = map[fleet.ProfileName]*line{}
			x.machines[g.Machine] = profiles
		}
		next, off := profiles[g.Profile].with(g)
		profiles[g.Profile] = next
		dropped = append(dropped, off...)
	}
	return dropped
}

// line returns the generations of a profile, or nil.
func (x *index) line(m fleet.MachineName, p fleet.ProfileName) *line {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.machines[m][p]
}

// Desired is what is desired of one profile.
type Desired struct {
	Newest *Gen
	// Revert is set while the coordinator sends the host back.
	Revert *Gen
}

// desired returns what is desired of a machine, sorted by profile.
func (x *index) desired(m fleet.MachineName) []Desired {
	x.mu.RLock()
	defer x.mu.RUnlock()
	profiles := x.machines[m]
	out := make([]Desired, 0, len(profiles))
	for p, l := range profiles {
		d := Desired{Newest: l.newest()}
		// A revert is of one newest generation: a newer one clears it.
		if r, ok := x.reverts[profileKey{m, p}]; ok && r.Newest == d.Newest.Ref.Digest {
			d.Revert = l.byDigest(r.Target.Digest)
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Desired) int { return strings.Compare(string(a.Newest.Profile), string(b.Newest.Profile)) })
	return out
}

// names says how large a blob is that a desired document of the machine names.
func (x *index) names(m fleet.MachineName, digest fleet.Digest) (size uint64, ok bool) {
	for _, d := range x.desired(m) {
		for _, g := range []*Gen{d.Newest, d.Revert} {
			if g == nil {
				continue
			}
			for _, b := range g.Blobs {
				if b.Digest == digest {
					return b.Size, true
				}
			}
		}
	}
	return 0, false
}

// all returns the newest generation of every profile.
func (x *index) all() []*Gen {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var out []*Gen
	for _, m := range slices.Sorted(maps.Keys(x.machines)) {
		for _, p := range slices.Sorted(maps.Keys(x.machines[m])) {
			out = append(out, x.machines[m][p].newest())
		}
	}
	return out
}

// rollbackTarget is the newest generation in newest's revert set that was
// confirmed on the host; ok is false where there is none.
func rollbackTarget(newest *Gen, confirmed []fleet.Ref) (target fleet.Ref, ok bool) {
	for _, r := range newest.RevertTo {
		was := slices.ContainsFunc(confirmed, func(c fleet.Ref) bool { return c.Digest == r.Digest })
		if was && r.Digest != newest.Ref.Digest && (!ok || r.Number.Compare(target.Number) > 0) {
			target, ok = r, true
		}
	}
	return target, ok
}
