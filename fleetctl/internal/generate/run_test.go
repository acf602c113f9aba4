package generate

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fleetTree is a tree with one person.
type fleetTree struct {
	t    *testing.T
	dir  string
	key  sopstest.Key
	set  *Set
	asks []string
	// answer is given to each question, with the number of it behind.
	answer string
}

func newTree(t *testing.T, lines ...string) *fleetTree {
	t.Helper()
	f := &fleetTree{t: t, dir: t.TempDir(), key: sopstest.NewKey(t), set: mustResolve(t, lines...)}
	f.change(func(c *vars.Change) error {
		return c.SetKeys(vars.Reader{Kind: vars.Users, Name: "tara"}, []vars.Key{{PublicKey: f.key.Public, Type: vars.AgeKey}})
	})
	return f
}

func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func (f *fleetTree) begin() *vars.Change {
	f.t.Helper()
	c, err := vars.Begin(f.t.Context(), f.dir, vars.Options{Identities: []sops.Identity{f.key.Identity}, Now: now})
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *fleetTree) change(do func(*vars.Change) error) {
	f.t.Helper()
	c := f.begin()
	err := do(c)
	if err == nil {
		_, err = c.Commit()
	}
	if err := errors.Join(err, c.Close()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleetTree) runner(c *vars.Change) *Runner {
	return &Runner{Change: c, Set: f.set, Random: rand.Reader, Now: now, Ask: func(_ context.Context, questions []Question) ([]generator.Value, error) {
		var answers []generator.Value
		for _, q := range questions {
			f.asks = append(f.asks, q.String())
			answers = append(answers, generator.NewValue(fmt.Appendf(nil, "%s%d", f.answer, len(f.asks))))
		}
		return answers, nil
	}}
}

// try runs a request and returns what ran.
func (f *fleetTree) try(r Request) (string, error) {
	f.t.Helper()
	c := f.begin()
	defer c.Close() //nolint:errcheck // A test's.
	ran, err := f.runner(c).Run(f.t.Context(), r)
	if err == nil {
		_, err = c.Commit()
	}
	return namesOf(ran), err
}

func (f *fleetTree) run(r Request) string {
	f.t.Helper()
	ran, err := f.try(r)
	if err != nil {
		f.t.Fatal(err)
	}
	return ran
}

func (f *fleetTree) open() *vars.Tree {
	f.t.Helper()
	tree, err := vars.Open(f.dir)
	if err != nil {
		f.t.Fatal(err)
	}
	return tree
}

func (f *fleetTree) read(path string) string {
	f.t.Helper()
	value, err := f.open().Read(path, []sops.Identity{f.key.Identity})
	if err != nil {
		f.t.Fatal(err)
	}
	return string(value)
}

// snapshot is all that is in the trees.
func (f *fleetTree) snapshot() string {
	f.t.Helper()
	var all bytes.Buffer
	for _, top := range []string{"vars", "sops"} {
		err := filepath.WalkDir(filepath.Join(f.dir, top), func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil //nolint:nilerr // Not there yet.
			}
			data, err := os.ReadFile(p)
			fmt.Fprintf(&all, "%s %x\n", p, data)
			return err
		})
		if err != nil {
			f.t.Fatal(err)
		}
	}
	return all.String()
}

var certificates = []string{
	`openssh: {kind: ssh-host-key}`,
	`openssh-ca: {kind: ssh-ca, share: true}`,
	`openssh-cert: {kind: ssh-host-certificate, settings: {domains: [zt]}}`,
	`token: {kind: token, share: true}`,
}

func TestGenerate(t *testing.T) {
	f := newTree(t, certificates...)
	// What box1 lacks, and what reads the shared CA, which is new, on box2: with what that needs.
	if got := f.run(Request{Machines: []string{"box1"}}); got != "shared/openssh-ca shared/token per-machine/box1/openssh per-machine/box2/openssh per-machine/box1/openssh-cert per-machine/box2/openssh-cert" {
		t.Errorf("first: %s", got)
	}
	before := f.snapshot()
	if got := f.run(Request{}); got != "" || f.snapshot() != before {
		t.Errorf("nothing lacks, and ran: %s", got)
	}
	if found := f.set.Check(f.open(), f.set.All()); len(found) != 0 {
		t.Errorf("found %v", found)
	}
	token := f.read("vars/shared/token/token")
	// A named one runs whether or not something lacks, and what reads it.
	if got := f.run(Request{Machines: []string{"box2"}, Generator: "openssh"}); got != "per-machine/box2/openssh per-machine/box2/openssh-cert" {
		t.Errorf("one: %s", got)
	}
	if got := f.run(Request{Generator: "token"}); got != "shared/token" || f.read("vars/shared/token/token") == token {
		t.Errorf("token: %s", got)
	}
	if got := f.run(Request{Machines: []string{"box1"}, Regenerate: true}); !strings.Contains(got, "shared/openssh-ca shared/token per-machine/box1/openssh") {
		t.Errorf("all of box1: %s", got)
	}
	// A file that is gone has its generator run.
	f.change(func(c *vars.Change) error {
		return c.Delete("vars/per-machine/box1/openssh-cert/ssh.id_ed25519-cert.pub")
	})
	if got := f.run(Request{}); got != "per-machine/box1/openssh-cert" {
		t.Errorf("the missing one: %s", got)
	}
	// So has another validation, and what it leaves is not looked at twice.
	f.set = mustResolve(t, append(certificates[:2:2], `openssh-cert: {kind: ssh-host-certificate, settings: {domains: [zt, lan]}}`, certificates[3])...)
	if found := f.set.Check(f.open(), f.set.All()); len(found) != 2 || found[0].Kind != Stale {
		t.Errorf("found %v", found)
	}
	if got := f.run(Request{}); got != "per-machine/box1/openssh-cert per-machine/box2/openssh-cert" {
		t.Errorf("the stale ones: %s", got)
	}
	for _, r := range []Request{{Machines: []string{"box3"}}, {Generator: "tokn"}} {
		if _, err := f.try(r); !errors.Is(err, ErrUnknown) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

// TestAnswersOfEachMachine: they are the generator's and the machine's, and not the last
// one's for all; what is kept is not asked again.
func TestAnswersOfEachMachine(t *testing.T) {
	f := newTree(t, `root: {kind: root-password}`)
	f.answer = "correct horse "
	f.run(Request{})
	if got := strings.Join(f.asks, ", "); got != "password of per-machine/box1/root, password of per-machine/box2/root" {
		t.Fatalf("asked for %s", got)
	}
	for n, m := range []string{"box1", "box2"} {
		if got := f.read("vars/per-machine/" + m + "/root/password"); got != fmt.Sprintf("correct horse %d", n+1) {
			t.Errorf("%s has %q", m, got)
		}
	}
	hash := f.read("vars/per-machine/box1/root/password-hash")
	f.run(Request{Machines: []string{"box1"}, Generator: "root"})
	if len(f.asks) != 2 || f.read("vars/per-machine/box1/root/password") != "correct horse 1" || f.read("vars/per-machine/box1/root/password-hash") == hash {
		t.Errorf("the kept answer: asked %v", f.asks)
	}
	f.run(Request{Machines: []string{"box1"}, Regenerate: true})
	if len(f.asks) != 3 || f.read("vars/per-machine/box1/root/password") != "correct horse 3" {
		t.Errorf("made anew: asked %v", f.asks)
	}
	if e, err := f.open().Entry("vars/per-machine/box1/root/password"); err != nil || len(e.Links) != 1 {
		t.Errorf("a password that people keep is read by %v, %v", e.Links, err)
	}
}

// TestNothingWithoutAll: one generator fails, and nothing is changed, keys of machines
// among that.
func TestNothingWithoutAll(t *testing.T) {
	f := newTree(t, append(certificates[:3:3], `root: {kind: root-password, machines: [box2]}`)...)
	f.answer = strings.Repeat("x", 600) // Longer than a hash takes.
	before := f.snapshot()
	if _, err := f.try(Request{}); err == nil || !strings.Contains(err.Error(), "per-machine/box2/root") || strings.Contains(err.Error(), "xxx") {
		t.Errorf("got %v", err)
	}
	if f.snapshot() != before {
		t.Error("something was changed")
	}
	ctx, stop := context.WithCancelCause(t.Context())
	stop(errors.New("interrupted"))
	c := f.begin()
	f.answer = "fine"
	if _, err := f.runner(c).Run(ctx, Request{}); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("interrupted: %v", err)
	}
	if err := c.Close(); err != nil || f.snapshot() != before {
		t.Errorf("something was changed: %v", err)
	}
}

func TestFilesThatAreNotDeclared(t *testing.T) {
	s := mustResolve(t, `wg: {kind: wireguard-key, machines: [box1]}`)
	one := generator.NewValue([]byte("x"))
	large := generator.NewValue(make([]byte, sops.MaxValue+1))
	for want, files := range map[string]generator.Files{
		`missing are ["publickey"]`:   {"privatekey": one},
		"it made 3 files":             {"privatekey": one, "publickey": one, "other": one},
		"privatekey has 1048577 byte": {"privatekey": large, "publickey": one},
	} {
		if err := check(s.all[0], files); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestMachineThatComesToShare(t *testing.T) {
	f := newTree(t, `token: {kind: token, share: true, machines: [box1]}`)
	f.run(Request{})
	token := f.read("vars/shared/token/token")
	f.set = mustResolve(t, `token: {kind: token, share: true}`)
	if found := f.set.Check(f.open(), f.set.All()); len(found) != 1 || found[0].Kind != Readers || !strings.Contains(found[0].Err.Error(), "box2") {
		t.Errorf("found %v", found)
	}
	if got := f.run(Request{Machines: []string{"box2"}}); got != "" || f.read("vars/shared/token/token") != token {
		t.Errorf("ran %s", got)
	}
	if found := f.set.Check(f.open(), f.set.All()); len(found) != 0 {
		t.Errorf("found %v", found)
	}
	// It ceases to be shared: each machine gets its own, and the old one goes.
	f.set = mustResolve(t, `token: {kind: token}`)
	if got := f.run(Request{}); got != "per-machine/box1/token per-machine/box2/token" {
		t.Errorf("ran %s", got)
	}
	if _, err := f.open().Entry("vars/shared/token/token"); !errors.Is(err, vars.ErrNotFound) {
		t.Errorf("the shared one: %v", err)
	}
	f.set = mustResolve(t, `token: {kind: token, share: true}`)
	f.run(Request{})
	if _, err := f.open().Entry("vars/per-machine/box2/token/token"); !errors.Is(err, vars.ErrNotFound) {
		t.Errorf("that of box2: %v", err)
	}
}

// TestSmuggledRecipient: a key that nobody linked stops what would give the value on, and
// fix takes it away.
func TestSmuggledRecipient(t *testing.T) {
	f := newTree(t, certificates...)
	f.run(Request{})
	other := sopstest.NewKey(t)
	file := filepath.Join(f.dir, "vars/shared/openssh-ca/id_ed25519/secret")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d, err := sops.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if d, err = d.Rewrap([]sops.Identity{f.key.Identity}, []sops.Recipient{f.key.Recipient, other.Recipient}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, d.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	before := f.snapshot()
	for _, r := range []Request{{}, {Machines: []string{"box1"}}, {Generator: "openssh"}} {
		if _, err := f.try(r); !errors.Is(err, ErrReaders) || !strings.Contains(err.Error(), other.Public) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if f.snapshot() != before {
		t.Error("something was changed")
	}
	f.change(func(c *vars.Change) error {
		changed, err := f.set.Fix(c, f.set.All())
		if len(changed) != 1 || len(c.Exposed()) != 1 {
			t.Errorf("changed %v, exposed %v", changed, c.Exposed())
		}
		return err
	})
	if found := f.set.Check(f.open(), f.set.All()); len(found) != 0 {
		t.Errorf("found %v", found)
	}
}

// TestUndeployed: a machine loses what is not for it any more.
func TestUndeployed(t *testing.T) {
	f := newTree(t, `token: {kind: token, share: true}`)
	f.run(Request{})
	f.set = mustResolve(t, `token: {kind: token, share: true, files: {token: {deploy: false}}}`)
	if found := f.set.Check(f.open(), f.set.All()); len(found) != 2 {
		t.Errorf("found %v", found)
	}
	f.change(func(c *vars.Change) error {
		_, err := f.set.Fix(c, f.set.All())
		if exposed := c.Exposed(); len(exposed) != 1 || len(exposed[0].Who) != 2 {
			t.Errorf("exposed %v", exposed)
		}
		return err
	})
	if found := f.set.Check(f.open(), f.set.All()); len(found) != 0 {
		t.Errorf("found %v", found)
	}
}

func TestGroups(t *testing.T) {
	f := newTree(t, `token: {kind: token, share: true}`)
	f.set.Groups = []string{"admins"}
	if _, err := f.try(Request{}); !errors.Is(err, vars.ErrNotFound) {
		t.Errorf("without the group: %v", err)
	}
	dana := sopstest.NewKey(t)
	f.change(func(c *vars.Change) error {
		r := vars.Reader{Kind: vars.Users, Name: "dana"}
		return errors.Join(c.SetKeys(r, []vars.Key{{PublicKey: dana.Public, Type: vars.AgeKey}}), c.AddMember("admins", r))
	})
	f.run(Request{})
	if _, err := f.open().Read("vars/shared/token/token", []sops.Identity{dana.Identity}); err != nil {
		t.Error(err)
	}
}
