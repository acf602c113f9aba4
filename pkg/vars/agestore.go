package vars

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/sops"
)

// maxAgeFile bounds an age file: the largest value, armored, and many recipients.
const maxAgeFile = sops.MaxDocument

// AgePeople are the public keys of people, as clan.vars.settings.recipients has them.
type AgePeople struct {
	// Hosts are those for what is of one machine.
	Hosts map[string][]string
	// Default are those for everything else.
	Default []string
}

func (p AgePeople) of(machine string) []string {
	if keys := p.Hosts[machine]; len(keys) > 0 {
		return keys
	}
	return p.Default
}

// AgeStore keeps secrets in age files below secrets/, as clan's age backend does: a value is
// for machines, whose private keys are for people; what no machine reads is for people.
type AgeStore struct {
	c      *Change
	people AgePeople
}

var _ Store = (*AgeStore)(nil)

// AgeStore is the store of a change in age files.
func (c *Change) AgeStore(people AgePeople) *AgeStore { return &AgeStore{c, people} }

func ageFile(id ID) string {
	return path.Join("secrets/clan-vars", id.String(), id.File+".age")
}

func ageKeyDir(machine string) string { return path.Join("secrets/age-keys/machines", machine) }

// file returns a file as the change leaves it; ErrNotFound where there is none.
func (s *AgeStore) file(p string) ([]byte, error) {
	if st, ok := s.c.steps[p]; ok {
		if st.Do == doRemove {
			return nil, fmt.Errorf("%s: %w", p, ErrNotFound)
		}
		return st.data, nil
	}
	for i := range p {
		if p[i] == '/' && !directory(s.c.t.abs(p[:i])) {
			return nil, fmt.Errorf("%s: %w", p, ErrNotFound)
		}
	}
	if !regular(s.c.t.abs(p)) {
		return nil, fmt.Errorf("%s: %w", p, ErrNotFound)
	}
	return atomicfile.ReadAtMost(s.c.t.abs(p), maxAgeFile) //nolint:wrapcheck // It names the file.
}

func (s *AgeStore) put(p string, data []byte) {
	if old, err := s.file(p); err != nil || !bytes.Equal(old, data) {
		s.c.put(p, data, publicMode)
	}
}

// Has says whether there is a secret.
func (s *AgeStore) Has(id ID) bool {
	_, err := s.file(ageFile(id))
	return err == nil
}

// Read opens a secret with the identities, or with the key of a machine that they open.
func (s *AgeStore) Read(id ID) ([]byte, error) {
	data, err := s.file(ageFile(id))
	if err != nil {
		return nil, err
	}
	ids := make([]age.Identity, 0, len(s.c.o.Identities))
	for _, i := range s.c.o.Identities {
		ids = append(ids, i.Identity)
	}
	value, err := openAge(data, ids)
	if !errors.Is(err, sops.ErrNoIdentity) {
		return value, at(ageFile(id), err)
	}
	machines, merr := s.machinesOf(id)
	if merr != nil {
		return nil, merr
	}
	for _, m := range machines {
		keyFile, kerr := s.file(path.Join(ageKeyDir(m), "key.age"))
		if kerr != nil {
			continue
		}
		text, kerr := openAge(keyFile, ids)
		if errors.Is(kerr, sops.ErrNoIdentity) {
			continue
		}
		key, perr := sops.ParseIdentities(text, nil)
		if kerr = errors.Join(kerr, perr); kerr != nil {
			return nil, at(path.Join(ageKeyDir(m), "key.age"), kerr)
		}
		if value, verr := openAge(data, []age.Identity{key[0].Identity}); !errors.Is(verr, sops.ErrNoIdentity) {
			return value, at(ageFile(id), verr)
		}
	}
	return nil, fmt.Errorf("%s: %w, nor the key of a machine (%s) that it is for; ask who has one to add you", ageFile(id), err, strings.Join(machines, ", "))
}

// machinesOf are the machines that a secret may be for.
func (s *AgeStore) machinesOf(id ID) ([]string, error) {
	if m := id.Placement.Machine(); m != "" {
		return []string{m}, nil
	}
	sc := scanner{t: s.c.t, left: maxEntriesInAll}
	list, err := sc.list("secrets/age-keys/machines")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range list {
		if d.IsDir() {
			names = append(names, d.Name())
		}
	}
	for p := range s.c.steps { // And those that the change makes.
		if f := strings.Split(p, "/"); len(f) == 5 && path.Join(f[:3]...) == "secrets/age-keys/machines" && !slices.Contains(names, f[3]) {
			names = append(names, f[3])
		}
	}
	slices.Sort(names)
	return names, nil
}

// Put encrypts a secret to the keys of its machines, which get one if need be, or to people
// where no machine is to read it.
func (s *AgeStore) Put(id ID, value []byte, a Access) error {
	if err := id.Check(); err != nil {
		return err
	}
	if len(value) > sops.MaxValue {
		return fmt.Errorf("%s: the value has %d bytes: at most %d can be a secret", id, len(value), sops.MaxValue)
	}
	var to []string
	if a.Undeployed || len(a.Machines) == 0 {
		to = slices.Clone(s.people.of(id.Placement.Machine()))
	} else {
		for _, m := range a.Machines {
			pub, err := s.MachineKey(m)
			if err != nil {
				return err
			}
			to = append(to, pub)
		}
	}
	file := ageFile(id)
	listed := !id.Placement.oneMachine() || a.Undeployed || len(a.Machines) == 0
	wanted := recipientsFile(to)
	if old, err := s.Read(id); err == nil && bytes.Equal(old, value) {
		if have, err := s.file(file + ".recipients"); listed && err == nil && bytes.Equal(have, wanted) || !listed && errors.Is(err, ErrNotFound) {
			return nil
		}
	}
	data, err := s.sealAge(value, to)
	if err != nil {
		return at(file, err)
	}
	s.c.put(file, data, publicMode)
	if listed {
		s.put(file+".recipients", wanted)
	} else if _, err := s.file(file + ".recipients"); err == nil {
		s.c.remove(file + ".recipients")
	}
	return nil
}

func (p Placement) oneMachine() bool { return p.area == perMachine }

// Delete removes a secret.
func (s *AgeStore) Delete(id ID) error {
	if _, err := s.file(ageFile(id)); err != nil {
		return err
	}
	s.c.remove(ageFile(id))
	s.c.remove(ageFile(id) + ".recipients")
	return nil
}

func recipientsFile(to []string) []byte {
	to = slices.Compact(slices.Sorted(slices.Values(to)))
	return []byte(strings.Join(to, "\n") + "\n")
}

func (s *AgeStore) sealAge(value []byte, to []string) ([]byte, error) {
	if len(to) == 0 {
		return nil, errors.New("nobody would be able to read it: name people in clan.vars.settings.recipients")
	}
	var rs []age.Recipient
	for _, text := range slices.Compact(slices.Sorted(slices.Values(to))) {
		r, err := sops.ParseRecipient(text, s.c.o.Plugins)
		if err != nil {
			return nil, err //nolint:wrapcheck // It names the key.
		}
		rs = append(rs, r.Recipient)
	}
	var out bytes.Buffer
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, rs...)
	if err == nil {
		_, err = w.Write(value)
	}
	if err == nil {
		err = errors.Join(w.Close(), a.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return out.Bytes(), nil
}

// openAge opens an armored age file; ErrNoIdentity where it is for others, ErrTampered where
// it was changed.
func openAge(data []byte, ids []age.Identity) ([]byte, error) {
	if len(ids) == 0 {
		return nil, sops.ErrNoIdentity
	}
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(data)), ids...)
	if noMatch := (*age.NoIdentityMatchError)(nil); errors.As(err, &noMatch) {
		return nil, sops.ErrNoIdentity
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", sops.ErrTampered, err)
	}
	value, err := io.ReadAll(io.LimitReader(r, sops.MaxValue+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", sops.ErrTampered, err)
	}
	if len(value) > sops.MaxValue {
		return nil, fmt.Errorf("%w: the value has more than %d bytes", sops.ErrFormat, sops.MaxValue)
	}
	return value, nil
}

// at names the file of an error.
func at(file string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", file, err)
}
