package agent

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/carry"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// carried is a file with a generation and blobs.
func (h *host) carried(envelope, secrets []byte, blobs ...[]byte) []byte {
	h.t.Helper()
	var list []carry.Blob
	for _, b := range blobs {
		list = append(list, carry.Blob{
			Ref:  fleet.BlobRef{Digest: fleet.DigestOf(b), Size: uint64(len(b))},
			Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
		})
	}
	var file bytes.Buffer
	if err := carry.Write(&file, carry.Documents{Roots: h.fleet.Roots, Generation: envelope, Secrets: secrets}, list); err != nil {
		h.t.Fatal(err)
	}
	return file.Bytes()
}

// TestApply: a file brings a host to a new generation with the coordinator
// gone, and the coordinator hears of it when it is back.
func TestApply(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	h.crash()
	h.coord.Stop()
	h.start()

	// It is signed with a key that only the next root names.
	h.fleet.Release = h.fleet.AddKey(release.RoleRelease)
	h.fleet.NextRoot()
	g, blob := h.generation(2, "two", "")
	own, ok := h.agent.identity.AgeIdentities()[0].(*age.X25519Identity)
	if !ok {
		t.Fatal("no age identity")
	}
	secrets, ref, sealed := h.fleet.SealSecrets(own.Recipient(), map[string]string{"token": "s3cret"})
	g.Secrets = ref
	env, two := h.fleet.Seal(g)
	c := h.client()
	profile, got, err := c.Apply(t.Context(), bytes.NewReader(h.carried(env, secrets, blob, sealed[0])))
	if err != nil || profile != fleet.System || got != two {
		t.Fatalf("got %s, %v, %v", profile, got, err)
	}
	waitKept(t, h)
	h.expectServing("two")
	if b, err := os.ReadFile(filepath.Join(h.config.SecretsDir, "token")); err != nil || string(b) != "s3cret" {
		t.Errorf("secret: %q, %v", b, err)
	}

	// The coordinator, which still desires the first, can't take it back, and
	// has it on record.
	h.coord.Start()
	h.coord.WaitState(fleet.StateConfirmed, two)
	h.expectServing("two")
	if !slices.ContainsFunc(h.coord.Transitions(), func(tr fleet.Transition) bool {
		return tr.Reason.Code == fleet.ReasonAppliedByHand && tr.Ref.Digest == two.Digest
	}) {
		t.Errorf("not on record: %v", h.coord.Transitions())
	}
}

// TestApplyRefuses: a file is believed no more than a coordinator is.
func TestApplyRefuses(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(5, "five")
	g, blob := h.generation(6, "six", "")
	env, _ := h.fleet.Seal(g)
	with := func(change func(*fleet.Generation), signers ...release.Signer) []byte {
		g := g
		change(&g)
		env, _ := h.fleet.Seal(g, signers...)
		return h.carried(env, nil, blob)
	}
	nothing := func(*fleet.Generation) {}
	wrong := bytes.Clone(blob)
	wrong[len(wrong)/2] ^= 1
	damaged := bytes.Replace(h.carried(env, nil, blob), blob, wrong, 1)
	alien := agenttest.NewFleet(t)
	own := h.fleet.Roots
	h.fleet.Roots = alien.Roots
	aliens := h.carried(env, nil, blob)
	h.fleet.Roots = own
	c := h.client()
	for _, tc := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "no trust root"},
		{"no tar", []byte(strings.Repeat("x", 4096)), "not a carried generation"},
		{"cut off", h.carried(env, nil, blob)[:4096], "lacks blob"},
		{"lower number", with(func(g *fleet.Generation) { g.Number.Seq = 4 }), "lower-number"},
		{"same number", with(func(g *fleet.Generation) { g.Number.Seq = 5 }), "number-reused"},
		{"another machine", with(func(g *fleet.Generation) { g.Machine = "magnetite" }), "wrong-machine"},
		{"expired", with(func(g *fleet.Generation) { g.Issued, g.Expires = g.Issued.Add(-2e9), g.Issued.Add(-1e9) }), "expired"},
		{"stranger's key", with(nothing, h.fleet.Stranger), "unknown-key"},
		{"another fleet's root", aliens, "unknown-key"},
		{"blob damaged", damaged, "its digest is"},
		{"blob missing", h.carried(env, nil), "lacks blob"},
		{"blob of nobody", h.carried(env, nil, blob, []byte("x")), "none that the generation names"},
	} {
		_, _, err := c.Apply(t.Context(), bytes.NewReader(tc.file))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
	h.expectServing("five")
	if st := h.agent.journal.State(); st.Profile(fleet.System).Highest.Number.Seq != 5 {
		t.Errorf("it accepted %v", st.Profile(fleet.System).Highest)
	}
	if entries, err := os.ReadDir(h.agent.blobs.Dir); err != nil || len(entries) > 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if _, _, err := c.Apply(t.Context(), bytes.NewReader(h.carried(env, nil, blob))); err != nil {
		t.Errorf("the good one: %v", err)
	}
	waitProfile(t, h, "six", func(p control.Profile) bool { return p.Current.Number.Seq == 6 && p.State == fleet.StateConfirmed })
	h.expectServing("six")
}

// TestApplyWithOlderRoots: a host whose newest trust roots were lost takes
// nothing that a file's older ones judge.
func TestApplyWithOlderRoots(t *testing.T) {
	h := newHost(t)
	h.fleet.NextRoot()
	h.start()
	h.confirmed(1, "one")
	h.crash()
	h.coord.Stop()
	if err := os.RemoveAll(filepath.Join(h.config.StateDir, "desired", "roots")); err != nil {
		t.Fatal(err)
	}
	h.start()
	g, blob := h.generation(2, "two", "")
	env, _ := h.fleet.Seal(g)
	all := h.fleet.Roots
	h.fleet.Roots = all[:1]
	c := h.client()
	if _, _, err := c.Apply(t.Context(), bytes.NewReader(h.carried(env, nil, blob))); err == nil || !strings.Contains(err.Error(), "root-version") {
		t.Errorf("got %v", err)
	}
	h.expectServing("one")
	h.fleet.Roots = all
	if _, _, err := c.Apply(t.Context(), bytes.NewReader(h.carried(env, nil, blob))); err != nil {
		t.Errorf("with all roots: %v", err)
	}
}

func TestApplyToAnUnenrolledHost(t *testing.T) {
	h := newHost(t)
	h.config.Join = ""
	h.start()
	var err error
	for range 1000 {
		if _, _, err = h.socket().Apply(t.Context(), bytes.NewReader(nil)); !errors.Is(err, control.ErrNoAgent) {
			break // It listens.
		}
		time.Sleep(5 * time.Millisecond)
	}
	if !errors.Is(err, control.ErrNotPossible) {
		t.Errorf("got %v", err)
	}
}

// TestTrustReset: the keys of another root count from then on, numbers are
// counted anew, and the coordinator has it on record.
func TestTrustReset(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(5, "five")
	old, oldRoots := h.fleet.Release, h.fleet.Roots
	next := agenttest.NewFleet(t)
	c := h.client()
	for name, bad := range map[string]struct {
		root []byte
		pin  fleet.Digest
	}{
		"another pin":  {next.Roots[0], h.fleet.RootPin},
		"no root":      {[]byte("{}"), next.RootPin},
		"the same one": {h.fleet.Roots[0], h.fleet.RootPin},
	} {
		if _, err := c.ResetTrust(t.Context(), bad.root, bad.pin); !errors.Is(err, control.ErrNotPossible) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if v, err := c.ResetTrust(t.Context(), next.Roots[0], next.RootPin); err != nil || v != 1 {
		t.Fatalf("got %d, %v", v, err)
	}
	h.expectServing("five")
	// What the old keys sign is refused, whatever its number.
	h.publish(6, "six", "")
	h.coord.WaitReason(release.ErrUnknownKey.Code)
	h.fleet.Roots, h.fleet.Release = next.Roots, next.Release
	h.confirmed(2, "two")
	h.crash()
	h.start()
	h.confirmed(3, "three")
	h.fleet.Roots, h.fleet.Release = oldRoots, old
	if !slices.ContainsFunc(h.coord.Transitions(), func(tr fleet.Transition) bool { return tr.Reason.Code == fleet.ReasonTrustReset }) {
		t.Errorf("not on record: %v", h.coord.Transitions())
	}
}

// TestTrustResetCutShort: once the intent is on record, the next agent carries
// it out; before that, nothing happened.
func TestTrustResetCutShort(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	h.crash()
	next := agenttest.NewFleet(t)
	root, err := release.OpenRoot(next.Roots[0], next.RootPin)
	if err != nil {
		t.Fatal(err)
	}
	a, err := h.open()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.bound.Load().desired.PrepareReset(root); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if a, err = h.open(); err != nil {
		t.Fatal(err)
	}
	if got := a.bound.Load().desired.Trust().Digest(); got != h.fleet.RootPin {
		t.Errorf("a root that was only prepared counts: %s", got)
	}
	err = a.journal.Append(journal.Record{Kind: journal.KindTrustReset, Root: &journal.Root{Version: 1, Digest: next.RootPin}})
	if err := errors.Join(err, a.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if a, err = h.open(); err != nil {
			t.Fatal(err)
		}
		st := a.journal.State()
		if got := a.bound.Load().desired.Trust().Digest(); got != next.RootPin || st.Reset != nil || st.Root.Digest != next.RootPin {
			t.Errorf("got root %s, record %+v", got, st.Root)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
