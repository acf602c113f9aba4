package attest_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/attest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// checkout is a fleet's repository as far as it counts here.
type checkout struct {
	t   *testing.T
	dir string
	f   *agenttest.Fleet
}

func newCheckout(t *testing.T) *checkout {
	t.Helper()
	c := &checkout{t: t, dir: t.TempDir(), f: agenttest.NewFleet(t)}
	for _, d := range []string{"releases", "trust/root"} {
		if err := os.MkdirAll(filepath.Join(c.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c.roots()
	return c
}

func (c *checkout) roots() {
	for i, r := range c.f.Roots {
		c.write("trust/root/"+strconv.Itoa(i+1)+".json", r)
	}
}

func (c *checkout) write(name string, data []byte) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), data, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *checkout) release(name, state string, seq uint64, signers ...release.Signer) fleet.Ref {
	c.t.Helper()
	src := fleet.Source{Driver: "bundle", Bundle: &fleet.BundleSource{Digest: fleet.DigestOf([]byte(name)), Size: 1}}
	env, ref := c.f.Seal(c.f.Generation(seq, src), signers...)
	data, err := json.Marshal(map[string]any{"id": name, "state": state, "generations": []any{map[string]any{"generation": env}}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.write("releases/"+name+".json", data)
	return ref
}

func TestNewest(t *testing.T) {
	c := newCheckout(t)
	c.release("r1", "committed", 1)
	want := c.release("r2", "committed", 3)
	c.release("r3", "committed", 2)
	c.release("r4", "prepared", 4)
	c.release("r5", "abandoned", 5)
	c.release("r6", "committed", 6, c.f.Stranger)
	n, err := attest.Read(c.dir, c.f.RootPin)
	if err != nil {
		t.Fatal(err)
	}
	if got := n.Machines[agenttest.Machine][fleet.System]; got != want || n.Root != 1 || len(n.Machines) != 1 {
		t.Errorf("got %+v", n)
	}
	// What is signed is admitted where the root names the key for it.
	c.f.AddKey(release.RoleRelease)
	signer := c.f.AddKey(release.RoleFreshness)
	c.f.NextRoot()
	c.roots()
	n, err = attest.Read(c.dir, c.f.RootPin)
	if err != nil || n.Root != 2 {
		t.Fatalf("got %+v, %v", n, err)
	}
	envs, err := n.Sign(agenttest.FleetID, c.f.Issued, c.f.Issued.Add(time.Hour), signer)
	if err != nil || len(envs) != 1 {
		t.Fatalf("%d statements, %v", len(envs), err)
	}
	trust, err := release.OpenChain(c.f.Roots, c.f.RootPin)
	if err != nil {
		t.Fatal(err)
	}
	s, err := trust.OpenFreshness(envs[0])
	if err != nil || s.Doc.Highest[fleet.System] != want || s.Doc.Root != 2 {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, err := n.Sign(agenttest.FleetID, c.f.Issued, c.f.Issued.Add(2*fleet.MaxFreshness), signer); err == nil {
		t.Error("a statement was signed that counts for too long")
	}
}

// TestDoubtfulCheckouts: nothing is stated that isn't known.
// TestLaterPin: a host that enrolled after a rotation is pinned to a later root,
// and reads the same.
func TestLaterPin(t *testing.T) {
	c := newCheckout(t)
	c.f.NextRoot()
	c.f.NextRoot()
	c.roots()
	second, err := release.OpenChain(c.f.Roots[:2], c.f.RootPin)
	if err != nil {
		t.Fatal(err)
	}
	for _, pin := range []fleet.Digest{c.f.RootPin, second.Digest()} {
		if n, err := attest.Read(c.dir, pin); err != nil || n.Root != 3 {
			t.Errorf("pinned to %s: %+v, %v", pin, n, err)
		}
	}
	if _, err := attest.Read(c.dir, fleet.DigestOf([]byte("none"))); !errors.Is(err, release.ErrRootPin) {
		t.Errorf("pinned to none of them: %v", err)
	}
}

func TestDoubtfulCheckouts(t *testing.T) {
	for name, spoil := range map[string]func(c *checkout){
		"no trust root":      func(c *checkout) { _ = os.Remove(filepath.Join(c.dir, "trust/root/1.json")) },
		"another trust root": func(c *checkout) { c.write("trust/root/1.json", agenttest.NewFleet(t).Roots[0]) },
		"damaged release":    func(c *checkout) { c.write("releases/r2.json", []byte(`{"state":`)) },
		"altered generation": func(c *checkout) {
			c.write("releases/r2.json", []byte(`{"state":"committed","generations":[{"generation":"e30="}]}`))
		},
		"directory as release": func(c *checkout) { _ = os.Mkdir(filepath.Join(c.dir, "releases/x.json"), 0o700) },
	} {
		c := newCheckout(t)
		c.release("r1", "committed", 1)
		if _, err := attest.Read(c.dir, c.f.RootPin); err != nil {
			t.Fatal(err)
		}
		spoil(c)
		if _, err := attest.Read(c.dir, c.f.RootPin); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}

func TestUpdate(t *testing.T) {
	dir := t.TempDir()
	if err := attest.Update(t.Context(), dir); err != nil {
		t.Errorf("no git checkout: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, ".git"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := attest.Update(t.Context(), dir); err == nil {
		t.Error("a broken git checkout counts as up to date")
	}
}
