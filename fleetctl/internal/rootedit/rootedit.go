// Package rootedit changes trust roots: each function makes one change of the
// root that is to come. It signs nothing.
package rootedit

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// DefaultExpiry is how long a trust root lives: long enough that nobody is
// stranded, short enough that a lost key ends some day.
const DefaultExpiry = 2 * 365 * 24 * time.Hour

// WarnBefore is how long before its end a trust root is warned about.
const WarnBefore = 30 * 24 * time.Hour

// Sentinels that errors of this package wrap.
var (
	ErrRole      = errors.New("no such role")
	ErrKey       = errors.New("no such key")
	ErrHasKey    = errors.New("the role has this key already")
	ErrThreshold = errors.New("a threshold that the role's keys cannot reach")
)

// ParseRole checks the name of a role.
func ParseRole(s string) (release.RoleName, error) {
	r := release.RoleName(s)
	if slices.Contains(release.AllRoles(), r) {
		return r, nil
	}
	var names []string
	for _, r := range release.AllRoles() {
		names = append(names, string(r))
	}
	return "", ui.WithHint(fmt.Errorf("%w: %.40q", ErrRole, s), "roles are "+strings.Join(names, ", "))
}

// Next begins the root that follows: the same keys, the next version. The
// caller's slices and maps are not touched by changes of it.
func Next(r *release.Root, now time.Time) *release.Root {
	n := Clone(r)
	n.Version++
	Renew(n, now, DefaultExpiry)
	return n
}

// Clone copies a root.
func Clone(r *release.Root) *release.Root {
	n := *r
	n.Keys = maps.Clone(r.Keys)
	n.CAs = slices.Clone(r.CAs)
	n.Roles = make(map[release.RoleName]release.RoleKeys, len(r.Roles))
	for name, k := range r.Roles {
		n.Roles[name] = release.RoleKeys{Threshold: k.Threshold, KeyIDs: slices.Clone(k.KeyIDs)}
	}
	return &n
}

// Renew gives the root a new expiry.
func Renew(r *release.Root, now time.Time, expiry time.Duration) {
	r.Issued = now.UTC().Truncate(time.Second)
	r.Expires = r.Issued.Add(expiry)
}

// RaiseEpoch makes all numbers of generations begin anew above all that were
// ever used.
func RaiseEpoch(r *release.Root) { r.Epoch++ }

// AddKey adds a key to a role. A role that nobody fills yet begins with it.
func AddKey(r *release.Root, role release.RoleName, id string, key release.Key) error {
	k := r.Roles[role]
	if slices.Contains(k.KeyIDs, id) {
		return fmt.Errorf("adding key %.12s to role %s: %w", id, role, ErrHasKey)
	}
	r.Keys[id] = key
	k.KeyIDs = append(k.KeyIDs, id)
	k.Threshold = max(k.Threshold, 1)
	r.Roles[role] = k
	return nil
}

// RemoveKey takes a key, named by the begin of its id, from a role, and out of
// the root where no other role has it.
func RemoveKey(r *release.Root, role release.RoleName, prefix string) (id string, err error) {
	if id, err = FindKey(r, role, prefix); err != nil {
		return "", err
	}
	k := r.Roles[role]
	if left := len(k.KeyIDs) - 1; left < k.Threshold {
		return "", ui.WithHint(fmt.Errorf("removing key %.12s from role %s: %w: %d of %d", id, role, ErrThreshold, k.Threshold, left),
			"add another key first, lower the threshold (fleetctl trust set-threshold), or replace the key (fleetctl trust rotate)")
	}
	k.KeyIDs = slices.DeleteFunc(k.KeyIDs, func(o string) bool { return o == id })
	r.Roles[role] = k
	sweep(r)
	return id, nil
}

// Replace puts a key in the place of another one of a role.
func Replace(r *release.Root, role release.RoleName, prefix, id string, key release.Key) (old string, err error) {
	if old, err = FindKey(r, role, prefix); err != nil {
		return "", err
	}
	k := r.Roles[role]
	if slices.Contains(k.KeyIDs, id) {
		return "", fmt.Errorf("replacing key %.12s of role %s: %w", old, role, ErrHasKey)
	}
	k.KeyIDs[slices.Index(k.KeyIDs, old)] = id
	r.Keys[id] = key
	sweep(r)
	return old, nil
}

// sweep takes keys away that no role has.
func sweep(r *release.Root) {
	maps.DeleteFunc(r.Keys, func(id string, _ release.Key) bool {
		for _, k := range r.Roles {
			if slices.Contains(k.KeyIDs, id) {
				return false
			}
		}
		return true
	})
}

// SetThreshold says how many keys of a role have to sign.
func SetThreshold(r *release.Root, role release.RoleName, threshold int) error {
	k := r.Roles[role]
	if threshold < 1 || threshold > len(k.KeyIDs) {
		return ui.WithHint(fmt.Errorf("threshold %d of role %s, which has %d keys: %w", threshold, role, len(k.KeyIDs), ErrThreshold),
			"add keys first: fleetctl trust add-key")
	}
	k.Threshold = threshold
	r.Roles[role] = k
	return nil
}

// SetCAs says which CAs count, by their certificates in DER.
func SetCAs(r *release.Root, ders ...[]byte) { r.CAs = ders }

func hasCA(r *release.Root, der []byte) bool {
	return slices.ContainsFunc(r.CAs, func(have []byte) bool { return bytes.Equal(have, der) })
}

// FindKey finds the one key of a role whose id begins so; an empty prefix finds
// the only one.
func FindKey(r *release.Root, role release.RoleName, prefix string) (string, error) {
	var found []string
	for _, id := range r.Roles[role].KeyIDs {
		if strings.HasPrefix(id, strings.ToLower(prefix)) {
			found = append(found, id)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0:
		return "", ui.WithHint(fmt.Errorf("role %s: %w: %.64q", role, ErrKey, prefix), `see "fleetctl trust show" for its keys`)
	}
	return "", ui.WithHint(fmt.Errorf("role %s: %w: %.64q may be one of %d", role, ErrKey, prefix, len(found)), "name more of its id; fleetctl trust show has them")
}

// Differences says in words what b changes of a.
func Differences(a, b *release.Root) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if a.Epoch != b.Epoch {
		say("epoch %d → %d", a.Epoch, b.Epoch)
	}
	for _, role := range release.AllRoles() {
		x, y := a.Roles[role], b.Roles[role]
		for _, id := range y.KeyIDs {
			if !slices.Contains(x.KeyIDs, id) {
				say("%s: key %.12s is added (%s)", role, id, b.Keys[id].Scheme)
			}
		}
		for _, id := range x.KeyIDs {
			if !slices.Contains(y.KeyIDs, id) {
				say("%s: key %.12s is removed", role, id)
			}
		}
		if x.Threshold != y.Threshold {
			say("%s: threshold %d → %d", role, x.Threshold, y.Threshold)
		}
	}
	for _, ca := range b.CAs {
		if !hasCA(a, ca) {
			say("CA %s is added", fleet.DigestOf(ca).Short())
		}
	}
	for _, ca := range a.CAs {
		if !hasCA(b, ca) {
			say("CA %s is removed", fleet.DigestOf(ca).Short())
		}
	}
	if x, y := a.Expires.UTC().Format(time.DateOnly), b.Expires.UTC().Format(time.DateOnly); x == y {
		say("expires %s, as before", x)
	} else {
		say("expires %s → %s", x, y)
	}
	return out
}
