package secrets

import (
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Floors are the lowest versions of secrets that a host may have, by name.
type Floors map[fleet.SecretName]uint64

// Raise returns the entries of a manifest that a host may have: of those below their
// floors it has the newest of newer that is not, and of which the ciphertext is here, at
// the place and for the users that the manifest says. Those that have none are left out,
// and named.
func (f Floors) Raise(entries, newer []fleet.SecretEntry, here func(fleet.BlobRef) bool) (raised []fleet.SecretEntry, left []fleet.SecretName) {
	for _, e := range entries {
		if e.Version >= f[e.Name] {
			raised = append(raised, e)
			continue
		}
		best := f.Newest(e.Name, newer, here)
		if best == nil {
			left = append(left, e.Name)
			continue
		}
		e.Version, e.Format, e.Digest, e.Size = best.Version, best.Format, best.Digest, best.Size
		raised = append(raised, e)
	}
	return raised, left
}

// Newest is the newest of entries with a name that is not below its floor, and of which
// the ciphertext is here; nil for none.
func (f Floors) Newest(name fleet.SecretName, entries []fleet.SecretEntry, here func(fleet.BlobRef) bool) *fleet.SecretEntry {
	var best *fleet.SecretEntry
	for i, e := range entries {
		if e.Name == name && e.Version >= f[name] && (best == nil || e.Version > best.Version) && here(fleet.BlobRef{Digest: e.Digest, Size: e.Size}) {
			best = &entries[i]
		}
	}
	return best
}

// Above says whether no entry is below its floor.
func (f Floors) Above(entries []fleet.SecretEntry) bool {
	for _, e := range entries {
		if e.Version < f[e.Name] {
			return false
		}
	}
	return true
}
