package generate

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/sandbox"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// tryScripts runs a request in the real sandbox.
func (f *fleetTree) tryScripts(ctx context.Context, r Request) (string, error) {
	f.t.Helper()
	c := f.begin()
	defer c.Close() //nolint:errcheck // A test's.
	runner := f.runner(c)
	runner.Sandbox = func(ctx context.Context) (Sandbox, error) { return sandbox.Open(ctx, sandbox.Options{}) }
	ran, err := runner.Run(ctx, r)
	if err == nil {
		_, err = c.Commit()
	}
	return namesOf(ran), err
}

var scripts = []string{
	`ca: {kind: ssh-ca, share: true}`,
	`site: {share: true, script: 'cat "$prompts/name" "$prompts/word" >"$out/all"', prompts: {name: {}, word: {type: hidden, persist: true}}, files: {all: {}}}`,
	`cert: {script: 'cat "$in/ca/id_ed25519.pub" >"$out/pub"; printf %s "$machine" >"$out/name"; cat "$in/ca/id_ed25519" "$in/site/all" >"$out/secret"',
      dependencies: [ca, site], rerunOnChange: true, validation: {name: x}, files: {secret: {mode: "0440", owner: web}, pub: {secret: false}, name: {secret: false}}}`,
}

func TestScripts(t *testing.T) {
	f := newTree(t, scripts...)
	f.answer = "answer"
	got, err := f.tryScripts(t.Context(), Request{})
	if err != nil || got != "shared/ca shared/site per-machine/box1/cert per-machine/box2/cert" {
		t.Fatalf("%s: %v", got, err)
	}
	if all := f.read("vars/shared/site/all"); all != "answer1answer2" || f.read("vars/shared/site/word") != "answer2" {
		t.Errorf("site has %q", all)
	}
	// A file called secret is a directory with a file of that name in it.
	if secret := f.read("vars/per-machine/box2/cert/secret"); !strings.HasSuffix(secret, "answer1answer2") || !strings.Contains(secret, "PRIVATE KEY") {
		t.Error("cert lacks what it reads")
	}
	if name, err := f.open().Value("vars/per-machine/box2/cert/name"); err != nil || string(name) != "box2" {
		t.Errorf("%q, %v", name, err)
	}
	if found := f.set.Check(f.open(), f.set.All()); len(found) != 0 {
		t.Errorf("found %v", found)
	}
	// Other readers are no other value; another value is.
	f.change(func(c *vars.Change) error { return c.MachineKey("box3", nil) })
	f.change(func(c *vars.Change) error {
		return c.AddReader("vars/shared/site/all", vars.Reader{Kind: vars.Machines, Name: "box3"})
	})
	if found := f.set.Check(f.open(), f.set.All()); len(found) != 0 {
		t.Errorf("found %v", found)
	}
	f.change(func(c *vars.Change) error { return c.PutSecret("vars/shared/site/all", []byte("set"), vars.Access{}) })
	if found := f.set.Check(f.open(), f.set.All()); len(found) != 2 || found[0].Kind != Stale || !strings.Contains(found[0].Err.Error(), "what that reads") {
		t.Errorf("found %v", found)
	}
	if got, err := f.tryScripts(t.Context(), Request{}); err != nil || got != "per-machine/box1/cert per-machine/box2/cert" {
		t.Errorf("%s: %v", got, err)
	}
	// So is another script, where that is wanted.
	f.set = mustResolve(t, scripts[0], strings.Replace(scripts[1], "cat", "cat --", 1), strings.Replace(scripts[2], "cat", "cat --", 1))
	if got, err := f.tryScripts(t.Context(), Request{}); err != nil || got != "per-machine/box1/cert per-machine/box2/cert" {
		t.Errorf("%s: %v", got, err)
	}
	// And no hash is left where it is wanted no more.
	f.set = mustResolve(t, scripts[0], scripts[1], strings.Replace(scripts[2], "rerunOnChange: true, ", "", 1))
	if got, err := f.tryScripts(t.Context(), Request{}); err != nil || got != "per-machine/box1/cert per-machine/box2/cert" {
		t.Errorf("%s: %v", got, err)
	}
	if h := f.open().ScriptHash(vars.PerMachine("box1"), "cert"); h != "" {
		t.Errorf("hash %s", h)
	}
}

// TestScriptsThatFail: one of them, and the tree is as it was.
func TestScriptsThatFail(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   error
	}{
		"fails":          {`echo x >"$out/a"; exit 1`, sandbox.ErrScript},
		"makes nothing":  {`:`, sandbox.ErrFiles},
		"makes a link":   {`ln -s /etc/passwd "$out/a"`, sandbox.ErrFiles},
		"makes too much": {`head -c 1048577 /dev/zero >"$out/a"`, sandbox.ErrFiles},
		"network":        {`exec 3<>/dev/tcp/192.0.2.1/80; echo x >"$out/a"`, sandbox.ErrScript},
	} {
		f := newTree(t, `token: {kind: token, share: true}`, `bad: {share: true, script: '`+c.script+`', files: {a: {}}}`)
		before := f.snapshot()
		if _, err := f.tryScripts(t.Context(), Request{}); !errors.Is(err, c.want) || !strings.Contains(err.Error(), "shared/bad") {
			t.Errorf("%s: %v", name, err)
		}
		if f.snapshot() != before {
			t.Errorf("%s: the tree changed", name)
		}
	}
	// Interrupted, too.
	f := newTree(t, `a: {share: true, script: 'sleep 600', files: {a: {}}}`)
	before := f.snapshot()
	ctx, stop := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	stop(why)
	if _, err := f.tryScripts(ctx, Request{}); !errors.Is(err, why) || f.snapshot() != before {
		t.Errorf("%v", err)
	}
	// And where there is no sandbox, nobody is asked anything.
	f = newTree(t, scripts...)
	c := f.begin()
	defer c.Close() //nolint:errcheck // A test's.
	runner := f.runner(c)
	runner.Sandbox = func(context.Context) (Sandbox, error) { return nil, sandbox.ErrNone }
	if _, err := runner.Run(t.Context(), Request{}); !errors.Is(err, sandbox.ErrNone) || len(f.asks) > 0 {
		t.Errorf("%v; asked %q", err, f.asks)
	}
}
