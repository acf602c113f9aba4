package agent

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// state has the coordinator offer a statement, of that age, that highest is the
// newest.
func (h *host) state(s release.Signer, age time.Duration, root uint64, highest fleet.Ref) {
	h.t.Helper()
	issued := h.fleet.Now().Add(-age).UTC().Truncate(time.Second)
	env, _, err := release.Seal(fleet.TypeFreshness, fleet.Freshness{
		Type: fleet.TypeFreshness, Fleet: agenttest.FleetID, Machine: agenttest.Machine,
		Issued: issued, Expires: issued.Add(6 * time.Hour), Root: root,
		Highest: map[fleet.ProfileName]fleet.Ref{fleet.System: highest},
	}, s)
	if err != nil {
		h.t.Fatal(err)
	}
	h.coord.State(env)
}

// TestFreshness: a host that can't know what is the newest says so, and where
// its policy says so starts nothing, unless a signed document lets it.
func TestFreshness(t *testing.T) {
	h := newHost(t)
	key := h.fleet.AddKey(release.RoleFreshness)
	h.fleet.NextRoot()
	h.start()
	fresh := func(g *fleet.Generation) { g.Policy.Freshness = fleet.Duration(time.Hour) }
	// Without a policy it only says so.
	one := h.publish(1, "one", "")
	h.coord.WaitReason(fleet.ReasonStale)
	h.coord.WaitState(fleet.StateConfirmed, one)
	// With one, it waits for a statement: an old one won't do, a stranger's neither.
	two := h.publish(2, "two", "", fresh)
	h.coord.WaitState(fleet.StateHeld, one)
	h.state(h.fleet.Stranger, 0, 2, two)
	h.state(key, 3*time.Hour, 2, two)
	h.coord.WaitReason(fleet.ReasonStale)
	h.expectServing("one")
	h.state(key, 0, 2, two)
	h.coord.WaitState(fleet.StateConfirmed, two)
	h.coord.WaitReason(fleet.ReasonUpToDate)
	// An older one than the newest seen is refused, and hides nothing.
	h.state(key, time.Minute, 2, one)
	// What is kept back shows, across restarts, until it comes.
	three := fleet.Ref{Number: fleet.Number{Epoch: 1, Seq: 3}, Digest: fleet.DigestOf([]byte("kept back"))}
	h.state(key, -time.Second, 2, three)
	h.coord.WaitReason(fleet.ReasonWithheld)
	h.crash()
	h.start()
	h.coord.WaitReason(fleet.ReasonWithheld)
	h.publish(3, "three", "")
	h.coord.WaitReason(fleet.ReasonUpToDate)
	h.expectServing("three")
	h.state(key, -2*time.Second, 3, three)
	h.coord.WaitReason(fleet.ReasonWithheld) // a trust root
}

// TestLoosenedFreshness: a signed document lets activations start until it
// expires, and works once.
func TestLoosenedFreshness(t *testing.T) {
	h := newHost(t)
	h.start()
	fresh := func(g *fleet.Generation) { g.Policy.Freshness = fleet.Duration(time.Hour) }
	one := h.publish(1, "one", "", fresh)
	h.coord.WaitReason(fleet.ReasonStale)
	now := h.fleet.Now().UTC().Truncate(time.Second)
	env, _, err := release.Seal(fleet.TypeLoosening, fleet.Loosening{
		Type: fleet.TypeLoosening, Fleet: agenttest.FleetID, Machine: agenttest.Machine, Profile: fleet.System,
		Action: fleet.LoosenFreshness, Reason: "the signer is down", Issued: now, Expires: now.Add(time.Hour),
	}, h.fleet.Release)
	if err != nil {
		t.Fatal(err)
	}
	h.coord.Loosen(env)
	h.coord.WaitState(fleet.StateConfirmed, one)
	h.expectServing("one")
	st := h.agent.journal.State()
	if until := st.StaleUntil[fleet.System]; !until.Equal(now.Add(time.Hour)) || len(st.Loosened) != 1 {
		t.Errorf("until %s, %v", until, st.Loosened)
	}
}

// TestRefusedFreshnessLoosenings: what is signed by somebody else, has ended, or is
// for another host lets nothing start, even handed over by the coordinator.
func TestRefusedFreshnessLoosenings(t *testing.T) {
	h := newHost(t)
	h.start()
	one := h.publish(1, "one", "", func(g *fleet.Generation) { g.Policy.Freshness = fleet.Duration(time.Hour) })
	h.coord.WaitReason(fleet.ReasonStale)
	now := h.fleet.Now().UTC().Truncate(time.Second)
	seal := func(key release.Signer, machine fleet.MachineName, ends time.Duration) []byte {
		env, _, err := release.Seal(fleet.TypeLoosening, fleet.Loosening{
			Type: fleet.TypeLoosening, Fleet: agenttest.FleetID, Machine: machine, Profile: fleet.System,
			Action: fleet.LoosenFreshness, Reason: "let me in", Issued: now.Add(-2 * time.Hour), Expires: now.Add(ends),
		}, key)
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	for _, c := range []struct {
		name     string
		envelope []byte
		want     fleet.ReasonCode
	}{
		{"another's key", seal(h.fleet.Stranger, agenttest.Machine, time.Hour), release.ErrUnknownKey.Code},
		{"ended", seal(h.fleet.Release, agenttest.Machine, -time.Hour), release.ErrExpired.Code},
		{"another host's", seal(h.fleet.Release, "galena", time.Hour), release.ErrWrongMachine.Code},
	} {
		h.coord.Loosen(c.envelope)
		waitStatus(t, h, func(r fleet.Reason) bool { return r.Code == c.want })
		st := h.agent.journal.State()
		if len(st.Loosened) != 0 || !st.StaleUntil[fleet.System].IsZero() {
			t.Errorf("%s: %v may start until %s", c.name, st.Loosened, st.StaleUntil[fleet.System])
		}
	}
	h.coord.Loosen(seal(h.fleet.Release, agenttest.Machine, time.Hour))
	h.coord.WaitState(fleet.StateConfirmed, one)
}

// TestStatesFreshness: an agent with the key states what its checkout of the
// repository has, and itself gets to know it.
func TestStatesFreshness(t *testing.T) {
	h := newHost(t)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	h.fleet.GiveKey(release.RoleFreshness, key)
	h.fleet.NextRoot()
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	write("trust/root/1.json", h.fleet.Roots[0])
	write("trust/root/2.json", h.fleet.Roots[1])
	h.config.Freshness = Freshness{Key: filepath.Join(dir, "key.pem"), Repository: dir}
	g, blob := h.generation(1, "one", "")
	g.Policy.Freshness = fleet.Duration(time.Hour)
	env, one := h.fleet.Seal(g)
	data, err := json.Marshal(map[string]any{"state": "committed", "generations": []any{map[string]any{"generation": env}}})
	if err != nil {
		t.Fatal(err)
	}
	write("releases/r.json", data)
	h.coord.Publish(env, nil, blob)
	h.start()
	h.coord.WaitState(fleet.StateConfirmed, one)
	if f := h.agent.bound.Load().desired.Freshness(); f == nil || f.Doc.Highest[fleet.System].Digest != one.Digest {
		t.Errorf("got %+v", f)
	}
}

func TestFreshnessFlags(t *testing.T) {
	good := Freshness{Key: "/k", Repository: "/r", Interval: time.Hour}
	for _, c := range []struct {
		change func(*Freshness)
		ok     bool
	}{
		{func(*Freshness) {}, true},
		{func(f *Freshness) { *f = Freshness{Interval: time.Hour} }, true},
		{func(f *Freshness) { f.Repository = "" }, false},
		{func(f *Freshness) { f.Key = "" }, false},
		{func(f *Freshness) { f.Key = "k" }, false},
		{func(f *Freshness) { f.Interval = time.Second }, false},
		{func(f *Freshness) { f.Interval = 48 * time.Hour }, false},
	} {
		f := good
		c.change(&f)
		if err := f.check(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", f, err)
		}
	}
}
