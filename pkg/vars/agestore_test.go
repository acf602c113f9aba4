package vars_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// ageOpens has Debian's age open a file of a tree; "" where it does not.
func ageOpens(t testing.TB, dir, file, private string) string {
	t.Helper()
	keys := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keys, []byte(private), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err := sopstest.Age(t, dir, nil, "--decrypt", "--identity", keys, file)
	if err != nil {
		return ""
	}
	return string(out)
}

func TestAgeStore(t *testing.T) {
	dir := t.TempDir()
	alice, bob, carol := key(t, "alice"), key(t, "bob"), key(t, "carol")
	people := vars.AgePeople{Default: []string{bob.Public, alice.Public}, Hosts: map[string][]string{"m2": {carol.Public}}}
	own := vars.ID{Placement: vars.PerMachine("m1"), Generator: "ssh", File: "id"}
	common := vars.ID{Placement: vars.Shared(), Generator: "psk", File: "psk"}
	ca := vars.ID{Placement: vars.Shared(), Generator: "ca", File: "key"}
	change(t, dir, "alice", func(c *vars.Change) error {
		s := c.AgeStore(people)
		if s.Has(own) {
			t.Error("it has what nobody put")
		}
		if _, err := s.Read(own); !errors.Is(err, vars.ErrNotFound) {
			t.Errorf("reading what nobody put: %v", err)
		}
		return errors.Join(
			s.Put(own, []byte("own"), vars.Access{Machines: []string{"m1"}}),
			s.Put(common, []byte("common"), vars.Access{Machines: []string{"m1", "m2"}}),
			s.Put(ca, []byte{0, 1, 2}, vars.Access{Undeployed: true}),
		)
	})
	want := []string{
		"secrets/age-keys/machines/m1/key.age", "secrets/age-keys/machines/m1/key.age.recipients", "secrets/age-keys/machines/m1/pub",
		"secrets/age-keys/machines/m2/key.age", "secrets/age-keys/machines/m2/key.age.recipients", "secrets/age-keys/machines/m2/pub",
		"secrets/clan-vars/per-machine/m1/ssh/id/id.age",
		"secrets/clan-vars/shared/ca/key/key.age", "secrets/clan-vars/shared/ca/key/key.age.recipients",
		"secrets/clan-vars/shared/psk/psk/psk.age", "secrets/clan-vars/shared/psk/psk/psk.age.recipients",
	}
	if got := names(files(t, dir)); !slices.Equal(got, want) {
		t.Errorf("wrote %q", got)
	}
	m1 := ageOpens(t, dir, want[0], alice.Private)
	m2 := ageOpens(t, dir, want[3], carol.Private)
	if !strings.HasPrefix(m1, "# created: 2026-11-23T01:02:03Z\n# public key: "+files(t, dir)[want[2]]+"\nAGE-SECRET-KEY-1") || m2 == "" {
		t.Errorf("machine keys are %q and %q", m1, m2)
	}
	for _, tt := range []struct{ file, private, want string }{
		{want[6], m1, "own"},
		{want[6], m2, ""},
		{want[6], alice.Private, ""},
		{want[7], alice.Private, "\x00\x01\x02"},
		{want[7], carol.Private, ""},
		{want[9], m2, "common"},
		{want[3], alice.Private, ""},
	} {
		if got := ageOpens(t, dir, tt.file, tt.private); got != tt.want {
			t.Errorf("%s opens to %q, want %q", tt.file, got, tt.want)
		}
	}
	// People read through the keys of machines.
	for who, reads := range map[string]map[vars.ID]string{
		"bob":   {own: "own", common: "common", ca: "\x00\x01\x02"},
		"carol": {common: "common", own: "", ca: ""},
	} {
		c := begin(t, dir, who)
		for id, want := range reads {
			got, err := c.AgeStore(people).Read(id)
			if string(got) != want || (want == "") != errors.Is(err, sops.ErrNoIdentity) {
				t.Errorf("%s reads %s: %q, %v", who, id, got, err)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	// A file that age itself wrote is read.
	theirs, stderr, err := sopstest.Age(t, dir, []byte("theirs"), "--encrypt", "--armor", "-r", files(t, dir)[want[2]])
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	write(t, dir, "secrets/clan-vars/per-machine/m1/ssh/theirs/theirs.age", string(theirs))
	c := begin(t, dir, "bob")
	id := vars.ID{Placement: vars.PerMachine("m1"), Generator: "ssh", File: "theirs"}
	if got, err := c.AgeStore(people).Read(id); err != nil || string(got) != "theirs" {
		t.Errorf("what age wrote: %q, %v", got, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	// What is equal is left; other people get the machines' keys anew.
	if paths := change(t, dir, "bob", func(c *vars.Change) error {
		s := c.AgeStore(people)
		return errors.Join(s.Put(own, []byte("own"), vars.Access{Machines: []string{"m1"}}), s.Put(common, []byte("common"), vars.Access{Machines: []string{"m2", "m1"}}))
	}); len(paths) > 0 {
		t.Errorf("equal values: wrote %q", paths)
	}
	check := func(want ...string) {
		t.Helper()
		c := begin(t, dir, "bob")
		found, err := c.AgeStore(people).Check()
		if err = errors.Join(err, c.Close()); err != nil || len(found) != len(want) {
			t.Fatalf("check says %v, %v", found, err)
		}
		for i, p := range found {
			says(t, p, want[i])
		}
	}
	check()
	eve := sopstest.NewKey(t)
	list := files(t, dir)[want[10]]
	write(t, dir, want[10], list+eve.Public+"\n")
	check(want[10] + ": " + eve.Public)
	write(t, dir, want[10], list)
	people.Default = []string{bob.Public, carol.Public}
	check(want[0]+": it is not for the people", want[8]+": "+alice.Public)
	paths := change(t, dir, "bob", func(c *vars.Change) error {
		machines, err := c.AgeStore(people).Rekey()
		if !slices.Equal(machines, []string{"m1"}) {
			t.Errorf("re-keyed %q", machines)
		}
		return err
	})
	if !slices.Equal(paths, want[:2]) || ageOpens(t, dir, want[0], carol.Private) != m1 || ageOpens(t, dir, want[0], alice.Private) != "" {
		t.Errorf("re-keying wrote %q", paths)
	}
	change(t, dir, "bob", func(c *vars.Change) error { return c.AgeStore(people).Delete(common) })
	if _, err := os.Lstat(filepath.Join(dir, "secrets/clan-vars/shared/psk")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was deleted is there: %v", err)
	}
}

func TestAgeStoreRefuses(t *testing.T) {
	dir := t.TempDir()
	alice := key(t, "alice")
	id := vars.ID{Placement: vars.PerMachine("m1"), Generator: "g", File: "f"}
	people := vars.AgePeople{Default: []string{alice.Public}}
	_, err := tryChange(t, dir, "alice", func(c *vars.Change) error {
		return c.AgeStore(vars.AgePeople{}).Put(id, nil, vars.Access{})
	})
	says(t, err, "f.age", "name people")
	_, err = tryChange(t, dir, "alice", func(c *vars.Change) error {
		return c.AgeStore(people).Put(id, make([]byte, sops.MaxValue+1), vars.Access{})
	})
	says(t, err, "at most")
	change(t, dir, "alice", func(c *vars.Change) error {
		return c.AgeStore(people).Put(id, []byte("x"), vars.Access{Machines: []string{"m1"}})
	})
	file := "secrets/clan-vars/per-machine/m1/g/f/f.age"
	write(t, dir, file, "-----BEGIN AGE ENCRYPTED FILE-----\nx\n-----END AGE ENCRYPTED FILE-----\n")
	c := begin(t, dir, "alice")
	_, err = c.AgeStore(people).Read(id)
	if !errors.Is(err, sops.ErrTampered) {
		t.Errorf("a damaged file: %v", err)
	}
	says(t, err, file)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	// A link in the way is not followed.
	if err := os.RemoveAll(filepath.Join(dir, "secrets/clan-vars/per-machine/m1/g")); err != nil {
		t.Fatal(err)
	}
	symlink(t, dir, "secrets/clan-vars/per-machine/m1/g", t.TempDir())
	_, err = tryChange(t, dir, "alice", func(c *vars.Change) error {
		return c.AgeStore(people).Put(id, []byte("x"), vars.Access{Machines: []string{"m1"}})
	})
	says(t, err, "move it away")
	if err := os.Remove(filepath.Join(dir, "secrets/age-keys/machines/m1/pub")); err != nil {
		t.Fatal(err)
	}
	_, err = tryChange(t, dir, "alice", func(c *vars.Change) error {
		return c.AgeStore(people).Put(id, []byte("x"), vars.Access{Machines: []string{"m1"}})
	})
	says(t, err, "restore secrets/age-keys/machines/m1/pub")
}

// Callers may not care which store it is.
func TestStores(t *testing.T) {
	for name, of := range map[string]func(*vars.Change) vars.Store{
		"sops": func(c *vars.Change) vars.Store { return c.SopsStore() },
		"age": func(c *vars.Change) vars.Store {
			return c.AgeStore(vars.AgePeople{Default: []string{key(t, "alice").Public}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := clanTree(t)
			id := vars.ID{Placement: vars.Shared(), Generator: "a store's", File: "secret"}
			c := begin(t, dir, "alice")
			s := of(c)
			for _, value := range []string{"one", "", "two\n"} {
				if err := s.Put(id, []byte(value), vars.Access{Machines: []string{"m1"}}); err != nil {
					t.Fatal(err)
				}
				if got, err := s.Read(id); err != nil || string(got) != value || !s.Has(id) {
					t.Errorf("before the commit: %q, %v", got, err)
				}
			}
			if _, err := c.Commit(); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Read(id); err != nil || string(got) != "two\n" {
				t.Errorf("after the commit: %q, %v", got, err)
			}
			if err := s.Delete(id); err != nil || s.Has(id) {
				t.Errorf("deleting: %v", err)
			}
			if err := s.Delete(id); !errors.Is(err, vars.ErrNotFound) {
				t.Errorf("deleting again: %v", err)
			}
			if err := s.Put(vars.ID{Placement: vars.Shared(), Generator: "../x", File: "y"}, nil, vars.Access{}); !errors.Is(err, vars.ErrName) {
				t.Errorf("a name that is none: %v", err)
			}
		})
	}
}
