package vars_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

const psk = "vars/shared/psk/psk"

// Links that a merge brought: refused by name, and nothing is encrypted for the entry.
func TestLinksThatAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		link, target string
		parts        []string
	}{
		"out of sops":          {psk + "/users/eve", "../../../../../../etc", []string{"points at", "user eve"}},
		"absolute":             {psk + "/users/eve", "/etc", []string{"relative"}},
		"under another's name": {psk + "/users/mallory", "../../../../../sops/users/carol", []string{"sops/users/carol", "user mallory"}},
		"of another kind":      {psk + "/users/m1", "../../../../../sops/machines/m1", []string{"sops/machines/m1", "user m1"}},
		"to vars":              {psk + "/users/ca", "../../../ca", []string{"vars/shared/ca"}},
		"to itself":            {psk + "/users/loop", "loop", []string{"user loop"}},
		"to a link":            {psk + "/users/dave", "../../../../../sops/users/dave", []string{"a link itself"}},
		"to a file":            {psk + "/users/file", "../../../../../sops/users/file", []string{"no directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := clanTree(t)
			symlink(t, dir, "sops/users/dave", "carol")
			write(t, dir, "sops/users/file", "")
			symlink(t, dir, tt.link, tt.target)
			found := open(t, dir).Check(nil)
			if len(found) != 1 || found[0].Path != tt.link || !errors.Is(found[0], vars.ErrLink) {
				t.Fatalf("check says %v", found)
			}
			says(t, found[0], tt.parts...)
			before := files(t, dir)
			_, err := tryChange(t, dir, "alice", func(c *vars.Change) error { return c.PutSecret(psk, []byte("new"), vars.Access{}) })
			if !errors.Is(err, vars.ErrLink) {
				t.Errorf("a value is written: %v", err)
			}
			c := begin(t, dir, "alice")
			if done := c.Rekey(); len(done.Left) != 1 || done.Left[0].Path != psk {
				t.Errorf("re-keying leaves %v", done.Left)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if got := files(t, dir); len(got) != len(before) || got[psk+"/secret"] != before[psk+"/secret"] {
				t.Error("something was written")
			}
			// Deleting and making it anew mends it.
			change(t, dir, "alice", func(c *vars.Change) error {
				return errors.Join(c.Delete(psk), c.PutSecret(psk, []byte("new"), vars.Access{}))
			})
			healthy(t, dir)
			opensFor(t, dir, psk, "alice")
		})
	}
}

// A link in a group is no better.
func TestGroupWithALinkThatIsRefused(t *testing.T) {
	dir := clanTree(t)
	symlink(t, dir, "sops/groups/admins/users/eve", "../../../users/carol")
	says(t, open(t, dir).Check(nil)[0], "sops/groups/admins/users/eve", "sops/users/carol")
	_, err := tryChange(t, dir, "alice", func(c *vars.Change) error { return c.PutSecret(psk, []byte("new"), vars.Access{}) })
	says(t, err, "sops/groups/admins/users/eve")
}

// A recipient in the document that no link names, and one that is missing.
func TestRecipientsThatLinksDoNotName(t *testing.T) {
	dir := clanTree(t)
	eve := sopstest.NewKey(t)
	file := filepath.Join(dir, psk, "secret")
	d, err := sops.Parse(readFile(t, file))
	if err != nil {
		t.Fatal(err)
	}
	smuggled, err := d.Rewrap(options(t, "alice").Identities, []sops.Recipient{key(t, "alice").Recipient, key(t, "bob").Recipient, key(t, "carol").Recipient, key(t, "m1").Recipient, eve.Recipient})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, smuggled.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	found := open(t, dir).Check(nil)
	if len(found) != 2 {
		t.Fatalf("check says %v", found)
	}
	says(t, found[0], psk+"/secret", eve.Public, "a key that no key.json has")
	says(t, found[1], psk+"/secret", "machine m2", "re-key")
	if one, err := open(t, dir).CheckEntry(psk, nil); err != nil || len(one) != 2 {
		t.Errorf("check of it alone: %v, %v", one, err)
	}
	if one, err := open(t, dir).CheckEntry("vars/shared/ca/key", nil); err != nil || len(one) != 0 {
		t.Errorf("check of another: %v, %v", one, err)
	}
	var exposed []vars.Exposed
	paths := change(t, dir, "alice", func(c *vars.Change) error {
		if done := c.Rekey(); len(done.Left) > 0 || !slices.Equal(done.Changed, []string{psk}) {
			t.Errorf("re-keying: %+v", done)
		}
		exposed = c.Exposed()
		return nil
	})
	if !slices.Equal(paths, []string{psk + "/secret"}) {
		t.Errorf("wrote %q", paths)
	}
	if len(exposed) != 1 || exposed[0].Entry.Path != psk || !strings.Contains(exposed[0].Who[0], eve.Public) {
		t.Errorf("exposed: %+v", exposed)
	}
	healthy(t, dir)
	opensFor(t, dir, psk, everybody...)
	// Default groups are wanted of generators' values, too.
	if found := open(t, dir).Check([]vars.Reader{{Kind: vars.Groups, Name: "admins"}}); len(found) > 0 {
		t.Errorf("with the default group: %v", found)
	}
}

// A machine key that no key.json has: only people read the value, and check says so.
func TestLostMachineKey(t *testing.T) {
	dir := clanTree(t)
	write(t, dir, "sops/machines/m1/key.json", `[{"publickey":"`+sopstest.NewKey(t).Public+`","type":"age"}]`)
	found := open(t, dir).Check(nil)
	if len(found) != 6 { // Three values of m1, one of which is shared: the old key more, the new one missing.
		t.Errorf("check says %d: %v", len(found), found)
	}
	for i, p := range found {
		says(t, p, []string{"no key.json has", "(machine m1), whom a link names"}[i%2])
	}
	change(t, dir, "bob", func(c *vars.Change) error {
		if done := c.Rekey(); len(done.Changed) != 3 || len(done.Left) > 0 {
			t.Errorf("re-keying: %+v", done)
		}
		return nil
	})
	healthy(t, dir)
}

func TestDocumentsThatAreRefused(t *testing.T) {
	good := string(readFile(t, "testdata/clan-tree/"+psk+"/secret"))
	m1, m2 := "vars/per-machine/m1/pw/tok", "vars/per-machine/m2/pw/tok"
	for name, tt := range map[string]struct {
		content string
		parts   []string
	}{
		"a key more":   {strings.Replace(good, "{", `{"x":"",`, 1), []string{`"x"`, "history"}},
		"a key twice":  {strings.Replace(good, "{", `{"data":"",`, 1), []string{"duplicate"}},
		"another time": {strings.Replace(good, `"lastmodified": "2`, `"lastmodified": "3`, 1), []string{"changed since"}},
		"1 GB":         {"", []string{"too large"}},
		"a merge":      {"<<<<<<< HEAD\n" + good, []string{"line 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := clanTree(t)
			write(t, dir, psk+"/secret", tt.content)
			if name == "1 GB" {
				if err := os.Truncate(filepath.Join(dir, psk, "secret"), 1<<30); err != nil {
					t.Fatal(err)
				}
			}
			_, err := open(t, dir).Read(psk, options(t, "alice").Identities)
			says(t, err, append(tt.parts, psk+"/secret")...)
		})
	}
	// Swapped between two machines: the readers differ, which check says without any key.
	dir := clanTree(t)
	write(t, dir, m1+"/secret", string(readFile(t, filepath.Join(dir, m2, "secret"))))
	found := open(t, dir).Check(nil)
	if len(found) != 2 {
		t.Fatalf("check says %v", found)
	}
	says(t, errors.Join(found[0], found[1]), "(machine m2), whom no link names", "(machine m1), whom a link names")

	// A link instead of a file.
	if err := os.Remove(filepath.Join(dir, m1, "secret")); err != nil {
		t.Fatal(err)
	}
	symlink(t, dir, m1+"/secret", "../../../m2/pw/tok/secret")
	says(t, open(t, dir).Check(nil)[0], m1+"/secret", "a link to one")
}

func TestValuesThatAreRefused(t *testing.T) {
	dir := clanTree(t)
	large := make([]byte, sops.MaxValue+1)
	for name, tt := range map[string]struct {
		do    func(*vars.Change) error
		parts []string
	}{
		"a large secret": {func(c *vars.Change) error { return c.PutSecret(psk, large, vars.Access{}) }, []string{"1048577 bytes", "at most"}},
		"a large value": {func(c *vars.Change) error {
			return c.PutPublic(vars.ID{Placement: vars.Shared(), Generator: "g", File: "f"}, large)
		}, []string{"1048577 bytes"}},
		"a name with /": {func(c *vars.Change) error {
			return c.PutPublic(vars.ID{Placement: vars.Shared(), Generator: "g", File: "a/b"}, nil)
		}, []string{"no /"}},
		"a name with a dot": {func(c *vars.Change) error {
			return c.PutPublic(vars.ID{Placement: vars.Shared(), Generator: ".g", File: "f"}, nil)
		}, []string{"no dot first"}},
		"out of the tree":     {func(c *vars.Change) error { return c.PutSecret("vars/shared/../x", nil, vars.Access{}) }, []string{"no dot first"}},
		"no entry":            {func(c *vars.Change) error { return c.PutSecret("etc/passwd", nil, vars.Access{}) }, []string{"is no entry"}},
		"no machine name":     {func(c *vars.Change) error { return c.PutSecret(psk, nil, vars.Access{Machines: []string{"m_1"}}) }, []string{"inner dashes"}},
		"an unknown group":    {func(c *vars.Change) error { return c.PutSecret(psk, nil, vars.Access{Groups: []string{"ops"}}) }, []string{"group ops"}},
		"an export of nobody": {func(c *vars.Change) error { return c.SetValidationHash(vars.PerExport(":::"), "g", "x") }, []string{"SERVICE:INSTANCE"}},
		"an unknown reader":   {func(c *vars.Change) error { return c.AddReader(psk, vars.Reader{Kind: vars.Users, Name: "eve"}) }, []string{"user eve", "add it first"}},
		"an unknown entry": {func(c *vars.Change) error {
			return c.AddReader("vars/shared/x/y", vars.Reader{Kind: vars.Users, Name: "bob"})
		}, []string{"not in the tree"}},
		"no reader of it": {func(c *vars.Change) error {
			return c.RemoveReader("vars/shared/ca/key", vars.Reader{Kind: vars.Users, Name: "bob"})
		}, []string{"through group admins"}},
		"two machine keys": {func(c *vars.Change) error {
			return c.SetKeys(vars.Reader{Kind: vars.Machines, Name: "m1"}, make([]vars.Key, 2))
		}, []string{"just one"}},
		"a public secret": {func(c *vars.Change) error { return c.PutPublic(vars.ID{}, nil) }, []string{"placement"}},
		"a PGP key": {func(c *vars.Change) error {
			r := vars.Reader{Kind: vars.Users, Name: "pat"}
			return errors.Join(c.SetKeys(r, []vars.Key{{PublicKey: "ABCDEF", Type: vars.PGPKey}}), c.AddReader(psk, r))
		}, []string{"user pat", "pgp", "age key"}},
		"a plugin's key": {func(c *vars.Change) error {
			r := vars.Reader{Kind: vars.Users, Name: "pat"}
			k := vars.Key{PublicKey: "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t", Type: vars.AgeKey}
			return errors.Join(c.SetKeys(r, []vars.Key{k}), c.AddReader(psk, r))
		}, []string{"user pat", "plugin"}},
		"nobody is left": {func(c *vars.Change) error {
			return errors.Join(c.Remove(vars.Reader{Kind: vars.Groups, Name: "admins"}), c.Remove(vars.Reader{Kind: vars.Users, Name: "alice"}))
		}, []string{"nobody would be able to read it"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := files(t, dir)
			_, err := tryChange(t, dir, "alice", tt.do)
			says(t, err, tt.parts...)
			if got := files(t, dir); !equal(got, before) {
				t.Error("something was written")
			}
		})
	}
}

func equal(a, b map[string]string) bool {
	for k := range a {
		if a[k] != b[k] {
			return false
		}
	}
	return len(a) == len(b)
}

// Who is no user, or has no key at hand, is told what to do.
func TestStrangers(t *testing.T) {
	dir := clanTree(t)
	o := options(t, "alice")
	for want, ids := range map[string][]sops.Identity{
		"add yourself as a user with that key": {sopstest.NewKey(t).Identity},
		"SOPS_AGE_KEY_FILE":                    nil,
	} {
		o.Identities = ids
		c, err := vars.Begin(t.Context(), dir, o)
		if err != nil {
			t.Fatal(err)
		}
		says(t, c.PutSecret(psk, []byte("x"), vars.Access{}), want)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	// A user who reads nothing of it cannot let himself in.
	_, err := tryChange(t, dir, "carol", func(c *vars.Change) error {
		return c.AddReader("vars/shared/ca/key", vars.Reader{Kind: vars.Users, Name: "carol"})
	})
	if !errors.Is(err, sops.ErrNoIdentity) {
		t.Errorf("carol lets herself in: %v", err)
	}
	says(t, err, "user alice", "user bob")
}

func TestBounds(t *testing.T) {
	dir := t.TempDir()
	for i := range 1<<14 + 1 {
		if err := os.WriteFile(filepath.Join(dir, "f"+strings.Repeat("x", i%100)+time.Duration(i).String()), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "vars"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+"-x"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "vars"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+"-x", filepath.Join(dir, "vars", "shared")); err != nil {
		t.Fatal(err)
	}
	if _, err := vars.Open(dir); !errors.Is(err, vars.ErrTooMuch) || !strings.Contains(err.Error(), "vars/shared") {
		t.Errorf("a large directory: %v", err)
	}
	_, err := vars.Open(filepath.Join(dir, "none"))
	says(t, err, "name the directory")
	write(t, dir, "file", "")
	_, err = vars.Open(filepath.Join(dir, "file"))
	says(t, err, "no directory")
	dir = clanTree(t)
	write(t, dir, "sops/users/alice/key.json", strings.Repeat(" ", 1<<20))
	_, err = vars.Open(dir)
	says(t, err, "sops/users/alice/key.json", "more than")
}

// Two at once: the second waits, and is refused when its time is over.
func TestTwoRunsAtOnce(t *testing.T) {
	dir := clanTree(t)
	first := begin(t, dir, "alice")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := vars.Begin(ctx, dir, options(t, "bob"))
	if !errors.Is(err, vars.ErrLocked) {
		t.Errorf("the second run: %v", err)
	}
	says(t, err, "process", "wait until it ends")
	second := make(chan error, 1)
	go func() {
		c, err := vars.Begin(t.Context(), dir, options(t, "bob"))
		if err == nil {
			if v, rerr := c.Read(psk); rerr != nil || string(v) != "by the first" {
				err = errors.Join(rerr, errors.New("it does not see what the first wrote"))
			}
			err = errors.Join(err, c.Close())
		}
		second <- err
	}()
	if err := first.PutSecret(psk, []byte("by the first"), vars.Access{}); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Errorf("the second run, which waited: %v", err)
	}
	if _, err := first.Commit(); err == nil {
		t.Error("a closed change commits")
	}
}

// What cannot be carried out is not begun: something in the way, a tree that is read-only.
func TestWhatIsInTheWay(t *testing.T) {
	dir := clanTree(t)
	put := func(c *vars.Change) error {
		return errors.Join(c.PutSecret(psk, []byte("new"), vars.Access{}), c.PutSecret("vars/shared/new/new", []byte("new"), vars.Access{}))
	}
	write(t, dir, "vars/shared/new", "a file")
	before := files(t, dir)
	_, err := tryChange(t, dir, "alice", put)
	says(t, err, "vars/shared/new", "move it away")
	if got := files(t, dir); !equal(got, before) {
		t.Error("something was written")
	}
	if err := os.Remove(filepath.Join(dir, "vars/shared/new")); err != nil {
		t.Fatal(err)
	}
	symlink(t, dir, "vars/shared/new", t.TempDir())
	_, err = tryChange(t, dir, "alice", put)
	says(t, err, "vars/shared/new", "move it away")
	symlink(t, filepath.Dir(dir), "linked", dir)
	other := t.TempDir()
	symlink(t, other, ".fleet-vars", t.TempDir())
	_, err = vars.Begin(t.Context(), other, options(t, "alice"))
	says(t, err, "no directory: move it away")
}

// A list of steps that a merge brought is not trusted.
func TestForgedChange(t *testing.T) {
	for name, steps := range map[string]string{
		"out of the tree": `{"path":"../x","do":"remove"}`,
		"elsewhere":       `{"path":"flake.nix","do":"remove"}`,
		"a link out":      `{"path":"` + psk + `/users/eve","do":"link","target":"../../../../../../etc"}`,
		"another's link":  `{"path":"` + psk + `/users/eve","do":"link","target":"../../../../../sops/users/carol"}`,
		"another's file":  `{"path":"` + psk + `/secret","do":"put","staged":"../../../../etc/passwd"}`,
		"no step":         `{"path":"` + psk + `/secret","do":"chmod"}`,
		"nothing staged":  `{"path":"vars/shared/x/y/secret","do":"put","staged":"0"}`,
		"no JSON":         `{`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := clanTree(t)
			write(t, dir, ".fleet-vars/change.json", `{"steps":[`+steps+`]}`)
			before := files(t, dir)
			_, err := vars.Begin(t.Context(), dir, options(t, "alice"))
			says(t, err, "interrupted")
			if got := files(t, dir); !equal(got, before) {
				t.Error("something was written")
			}
		})
	}
}
