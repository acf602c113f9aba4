package vars

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/sops"
)

// readersOf are the users and machines that links come to, members of groups included.
func (t *Tree) readersOf(links []Reader) ([]Reader, error) {
	all := map[Reader]bool{}
	for _, r := range links {
		if r.Kind != Groups {
			all[r] = true
			continue
		}
		if bad := t.badGroups[r.Name]; len(bad) > 0 {
			return nil, bad[0]
		}
		for _, m := range t.groups[r.Name] {
			all[m] = true
		}
	}
	return slices.SortedFunc(maps.Keys(all), compareReaders), nil
}

// ReadersOf returns the users and machines that may read an entry, directly or through a
// group. It fails where a link is refused.
func (t *Tree) ReadersOf(e Entry) ([]Reader, error) {
	if len(e.Bad) > 0 {
		return nil, e.Bad[0]
	}
	return t.readersOf(e.Links)
}

// recipientsOf are the public keys of the readers of an entry: sorted, none twice.
func (t *Tree) recipientsOf(e *Entry) ([]string, error) {
	readers, err := t.ReadersOf(*e)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, r := range readers {
		for _, k := range t.keys[r] {
			if k.Type != AgeKey {
				return nil, fmt.Errorf("%s has a key of type %s (%s): %w; give it an age key", r, k.Type, k.PublicKey, sops.ErrUnsupported)
			}
			if c := sops.Canonical(k.PublicKey); all[c] == "" || k.PublicKey < all[c] {
				all[c] = k.PublicKey
			}
		}
	}
	return slices.Sorted(maps.Values(all)), nil
}

// Person returns the user whose private keys these are: who has a public key of one of
// them. Of several users with one key it prefers who is linked already, and then the first
// by name, so that it does not change from run to run.
func (t *Tree) Person(ids []sops.Identity, linked []Reader) (Reader, error) {
	mine := map[string]bool{}
	for _, id := range ids {
		if id.Recipient != "" {
			mine[sops.Canonical(id.Recipient)] = true
		}
	}
	var found []Reader
	for _, u := range t.Readers(Users) {
		if slices.ContainsFunc(t.keys[u], func(k Key) bool { return mine[sops.Canonical(k.PublicKey)] }) {
			found = append(found, u)
		}
	}
	if i := slices.IndexFunc(found, func(u Reader) bool { return slices.Contains(linked, u) }); i >= 0 {
		return found[i], nil
	}
	if len(found) > 0 {
		return found[0], nil
	}
	if len(mine) == 0 {
		return Reader{}, errors.New("there is no private key at hand whose public key is known: set SOPS_AGE_KEY_FILE, or make a key and add yourself as a user")
	}
	return Reader{}, fmt.Errorf("no user has %s: %w; add yourself as a user with that key", strings.Join(slices.Sorted(maps.Keys(mine)), " or "), ErrNotFound)
}

// NameKey says whose public key it is: "user alice", several with "or", or "a key that no
// key.json has".
func (t *Tree) NameKey(publicKey string) string {
	var names []string
	for _, kind := range []Kind{Machines, Users} {
		for _, r := range t.Readers(kind) {
			if slices.ContainsFunc(t.keys[r], func(k Key) bool { return sops.Canonical(k.PublicKey) == sops.Canonical(publicKey) }) {
				names = append(names, r.String())
			}
		}
	}
	if len(names) == 0 {
		return "a key that no key.json has"
	}
	return strings.Join(names, " or ")
}
