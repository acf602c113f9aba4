package vars

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/cameronraysmith/fleet/pkg/sops"
)

// Check compares what documents say with what links come to, without any private key. It
// returns every difference, by path: recipients that nothing links (who put them there can
// read the value), readers that are linked and cannot read, links that are refused,
// documents that are none. A fleet with findings must not publish; [Change.Rekey] mends
// those about recipients. groups are readers that every entry of a generator has by
// default; they may be nil.
func (t *Tree) Check(groups []Reader) []Problem {
	var found []Problem
	for _, name := range slices.Sorted(maps.Keys(t.badGroups)) {
		found = append(found, t.badGroups[name]...)
	}
	for _, p := range slices.Sorted(maps.Keys(t.entries)) {
		e := t.entries[p].clone()
		found = append(found, e.Bad...)
		if e.Secret && e.Public {
			found = append(found, Problem{path.Join(p, "value"), errors.New("a public value beside the secret: remove one of them")})
		}
		if !e.Secret {
			if len(e.Links) > 0 && !e.Public {
				found = append(found, Problem{p, errors.New("readers are linked, and there is no secret: generate or set it")})
			}
			continue
		}
		if len(e.Bad) > 0 {
			continue
		}
		if e.ID != (ID{}) {
			e.Links = union(e.Links, groups)
		}
		found = append(found, t.checkRecipients(e)...)
	}
	return found
}

// CheckEntry is Check of one entry.
func (t *Tree) CheckEntry(entry string, groups []Reader) ([]Problem, error) {
	e, ok := t.entries[entry]
	if !ok {
		return nil, fmt.Errorf("%s: %w", entry, ErrNotFound)
	}
	one := *t
	one.entries, one.badGroups = map[string]*Entry{entry: e}, map[string][]Problem{}
	return one.Check(groups), nil
}

func (t *Tree) checkRecipients(e *Entry) (found []Problem) {
	file := path.Join(e.Path, "secret")
	d, err := t.document(e)
	if err != nil {
		return []Problem{{file, err}}
	}
	want, err := t.recipientsOf(e)
	if err != nil {
		return []Problem{{e.Path, err}}
	}
	wanted, have := map[string]bool{}, map[string]bool{}
	for _, r := range want {
		wanted[sops.Canonical(r)] = true
	}
	for _, r := range d.Recipients() {
		c := sops.Canonical(r)
		if !wanted[c] && !have[c] {
			found = append(found, Problem{file, fmt.Errorf("it is encrypted to %.100s (%s), whom no link names: if that is not meant, re-key it and make a new value; else add the reader", r, t.NameKey(r))})
		}
		have[c] = true
	}
	for _, r := range d.OtherRecipients() {
		found = append(found, Problem{file, fmt.Errorf("it is encrypted to %.100s, too, which is no key of age: %w", r, sops.ErrUnsupported)})
	}
	for _, r := range want {
		if !have[sops.Canonical(r)] {
			found = append(found, Problem{file, fmt.Errorf("it is not encrypted to %.100s (%s), whom a link names: re-key it", r, t.NameKey(r))})
		}
	}
	return found
}

// union returns readers of both, sorted.
func union(a, b []Reader) []Reader {
	all := slices.Concat(a, b)
	sortReaders(all)
	return slices.Compact(all)
}
