package vars

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/sops"
)

// MachineKey returns a machine's public key. One that has none gets one, whose private half
// is for people.
func (s *AgeStore) MachineKey(machine string) (string, error) {
	if err := (Reader{Machines, machine}).Check(); err != nil {
		return "", err
	}
	dir := ageKeyDir(machine)
	if pub, err := s.file(path.Join(dir, "pub")); err == nil {
		r, err := sops.ParseRecipient(string(pub), nil)
		return r.Text, at(path.Join(dir, "pub"), err)
	}
	if _, err := s.file(path.Join(dir, "key.age")); err == nil {
		return "", fmt.Errorf("machine %s has a private key (%s/key.age) and no public one: restore %[2]s/pub", machine, dir)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", fmt.Errorf("making a key for machine %s: %w", machine, err)
	}
	text := fmt.Appendf(nil, "# created: %s\n# public key: %s\n%s\n", s.c.o.Now().UTC().Format(time.RFC3339), id.Recipient(), id)
	s.put(path.Join(dir, "pub"), []byte(id.Recipient().String()))
	return id.Recipient().String(), s.sealKey(machine, text)
}

func (s *AgeStore) sealKey(machine string, text []byte) error {
	file, people := path.Join(ageKeyDir(machine), "key.age"), s.people.of(machine)
	data, err := s.sealAge(text, people)
	if err != nil {
		return at(file, err)
	}
	s.c.put(file, data, publicMode)
	s.put(file+".recipients", recipientsFile(people))
	return nil
}

// Rekey encrypts the keys of machines anew whose people are not those that are wanted, and
// returns the machines.
func (s *AgeStore) Rekey() ([]string, error) {
	machines, err := s.machinesOf(ID{Placement: Shared()})
	if err != nil {
		return nil, err
	}
	var changed []string
	for _, m := range machines {
		file := path.Join(ageKeyDir(m), "key.age")
		have, err := s.file(file + ".recipients")
		if err == nil && bytes.Equal(have, recipientsFile(s.people.of(m))) {
			continue
		}
		data, err := s.file(file)
		if errors.Is(err, ErrNotFound) {
			continue // A machine whose key others keep.
		}
		var ids []age.Identity
		for _, i := range s.c.o.Identities {
			ids = append(ids, i.Identity)
		}
		text, oerr := openAge(data, ids)
		if err = errors.Join(err, oerr); err == nil {
			err = s.sealKey(m, text)
		}
		if err != nil {
			return nil, at(file, err)
		}
		changed = append(changed, m)
	}
	return changed, nil
}

// Check names what should not be: keys of machines that are not for the people who are
// wanted, and values for keys that are neither a machine's nor one of theirs. It goes by the
// lists beside the files, since an age file does not say whom it is for; a value of one
// machine has no list. It needs no private key.
func (s *AgeStore) Check() ([]Problem, error) {
	machines, err := s.machinesOf(ID{Placement: Shared()})
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, r := range s.people.Default {
		known[r] = true
	}
	var found []Problem
	for _, m := range machines {
		pub := path.Join(ageKeyDir(m), "pub")
		data, err := s.file(pub)
		if err != nil {
			found = append(found, Problem{pub, errors.New("the machine has no public key: restore it, or remove the directory")})
		}
		known[strings.TrimSpace(string(data))] = true
		for _, r := range s.people.Hosts[m] {
			known[r] = true
		}
		file := path.Join(ageKeyDir(m), "key.age")
		have, err := s.file(file + ".recipients")
		if err != nil || !bytes.Equal(have, recipientsFile(s.people.of(m))) {
			found = append(found, Problem{file, errors.New("it is not for the people who are wanted: re-key it, and if one was taken away, make a new key")})
		}
	}
	err = s.lists(func(file string) error {
		data, err := s.file(file)
		if err != nil {
			return err
		}
		for r := range strings.FieldsSeq(string(data)) {
			if strings.HasPrefix(r, "age1") && !known[r] {
				found = append(found, Problem{file, fmt.Errorf("%.100s is the key of no machine and of nobody who is wanted: set the value anew", r)})
			}
		}
		return nil
	})
	return found, err
}

// lists calls f with each list of recipients beside a value.
func (s *AgeStore) lists(f func(file string) error) error {
	top, left := "secrets/clan-vars", maxEntriesInAll
	if !directory(s.c.t.abs("secrets")) || !directory(s.c.t.abs(top)) {
		return nil
	}
	err := filepath.WalkDir(s.c.t.abs(top), func(p string, d fs.DirEntry, err error) error {
		if left--; left < 0 {
			return fmt.Errorf("%s: %w", top, ErrTooMuch)
		}
		if err != nil || !d.Type().IsRegular() || !strings.HasSuffix(p, ".age.recipients") {
			return err
		}
		rel, err := filepath.Rel(s.c.t.dir, p)
		if err != nil {
			return err //nolint:wrapcheck // It cannot be.
		}
		return f(filepath.ToSlash(rel))
	})
	if err != nil {
		return fmt.Errorf("reading %s: %w", top, err)
	}
	return nil
}
