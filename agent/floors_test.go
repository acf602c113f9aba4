package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// revoking is a host whose generations have a secret "app/token" and floors.
type revoking struct {
	*host
	recipient age.Recipient
}

func newRevoking(t *testing.T) *revoking {
	r := &revoking{host: newHost(t)}
	r.start()
	r.coord.Wait("enrolment", func() bool { return r.coord.HostKeys().Age != "" })
	var err error
	if r.recipient, err = age.ParseX25519Recipient(r.coord.HostKeys().Age); err != nil {
		t.Fatal(err)
	}
	return r
}

// with publishes a generation with the values of secrets, by path; edits change what is signed.
func (r *revoking) with(seq uint64, script string, values map[string]string, edit func(*fleet.SecretsManifest), change ...func(*fleet.Generation)) fleet.Ref {
	env, named, sealed := r.fleet.SealSecrets(r.recipient, values, edit)
	g, blob := r.generation(seq, fmt.Sprint(seq), script)
	g.Secrets = named
	for _, c := range change {
		c(&g)
	}
	genv, ref := r.fleet.Seal(g)
	r.coord.Publish(genv, env, append([][]byte{blob}, sealed...)...)
	return ref
}

// version is that of all entries, and the floor of what had one.
func version(v, floor uint64) func(*fleet.SecretsManifest) {
	return func(m *fleet.SecretsManifest) {
		for i := range m.Entries {
			m.Entries[i].Version = v
		}
		if floor > 0 {
			m.Floors, m.Critical = map[fleet.SecretName]uint64{"app-token": floor}, []string{fleet.CriticalFloors}
		}
	}
}

func (r *revoking) token() string {
	b, err := os.ReadFile(filepath.Join(r.config.SecretsDir, "app/token"))
	if errors.Is(err, fs.ErrNotExist) {
		return "none"
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

func (r *revoking) expectToken(want string) {
	r.t.Helper()
	if got := r.token(); got != want {
		r.t.Errorf("the host has the secret %q, want %q", got, want)
	}
}

// holds says whether a plaintext is anywhere among the host's secrets.
func (r *revoking) holds(plain string) bool {
	found := false
	err := filepath.WalkDir(r.config.SecretsDir+".d", func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil //nolint:nilerr // It is being removed.
		}
		b, err := os.ReadFile(p) //nolint:gosec // A test's.
		found = found || err == nil && bytes.Contains(b, []byte(plain))
		return nil //nolint:nilerr // As above.
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}

// TestRevokedStaysAway: once the generation that revokes a value was made ready, neither its
// failure, nor a person, nor a boot brings the value back: the older generation has the new
// one, at its own place.
func TestRevokedStaysAway(t *testing.T) {
	r := newRevoking(t)
	token := func(v string) map[string]string { return map[string]string{"app/token": v} }
	first := r.with(1, "", token("one"), version(1, 0))
	r.coord.WaitState(fleet.StateConfirmed, first)
	r.expectToken("one")

	r.with(2, "exit 1", token("two"), version(2, 2))
	r.coord.WaitState(fleet.StateRolledBack, first)
	r.expectServing("1")
	r.expectToken("two")
	r.coord.Wait("the revoked value being gone", func() bool { return !r.holds("one") })

	boot := func() {
		r.t.Helper()
		r.crash()
		if err := os.RemoveAll(r.config.SecretsDir + ".d"); err != nil {
			t.Fatal(err)
		}
		c := (&restarting{host: r.host}).offline()
		if err := RestoreSecrets(t.Context(), c, false); err != nil {
			t.Error(err)
		}
		if r.holds("one") {
			t.Error("a boot brought the revoked value back")
		}
	}
	boot()
	r.expectToken("two")
	r.start()

	// What comes next is there, and not yet ready: the value that takes the revoked one's
	// place is kept.
	release := r.coord.Hold("GetBlob")
	r.with(3, "", token("three"), version(3, 2))
	r.coord.Wait("the third being accepted", func() bool {
		st := r.agent.journal.State()
		return st.Profile(fleet.System).Highest.Number.Seq == 3
	})
	boot()
	r.expectToken("two")
	release()
	r.start()
	r.coord.WaitState(fleet.StateConfirmed, fleet.Ref{Number: fleet.Number{Epoch: 1, Seq: 3}, Digest: r.highest().Digest, Release: r.highest().Release})
	r.expectToken("three")

	// The first had version 1; a person who goes back to it has what is newest.
	if _, err := r.client().RollBack(t.Context(), fleet.System, fleet.Number{}); err != nil {
		t.Fatal(err)
	}
	r.coord.WaitState(fleet.StateRolledBack, first)
	r.expectServing("1")
	r.expectToken("three")
	if r.holds("one") {
		t.Error("a person brought the revoked value back")
	}
}

func (r *revoking) highest() fleet.Ref {
	st := r.agent.journal.State()
	return st.Profile(fleet.System).Highest
}

// TestRevokedLeftOut: where nothing takes a revoked value's place, an older generation is
// without it, and all else of it is there.
func TestRevokedLeftOut(t *testing.T) {
	r := newRevoking(t)
	first := r.with(1, "", map[string]string{"app/token": "one", "other": "o1"}, version(1, 0))
	r.coord.WaitState(fleet.StateConfirmed, first)
	second := r.with(2, "", map[string]string{"other": "o2"}, version(2, 2))
	r.coord.WaitState(fleet.StateConfirmed, second)
	r.expectToken("none")
	if _, err := r.client().RollBack(t.Context(), fleet.System, fleet.Number{}); err != nil {
		t.Fatal(err)
	}
	r.coord.WaitState(fleet.StateRolledBack, first)
	r.expectServing("1")
	r.expectToken("none")
	if b, err := os.ReadFile(filepath.Join(r.config.SecretsDir, "other")); err != nil || string(b) != "o1" {
		t.Errorf("other is %q, %v", b, err)
	}
	if r.holds("one") {
		t.Error("the revoked value is there")
	}
}

// TestRevertRaised: what the coordinator sends the host back to has no revoked value either.
func TestRevertRaised(t *testing.T) {
	r := newRevoking(t)
	values := map[string]string{"app/token": "one"}
	env, named, sealed := r.fleet.SealSecrets(r.recipient, values, version(1, 0))
	g, blob := r.generation(1, "1", "")
	g.Secrets = named
	genv, first := r.fleet.Seal(g)
	r.coord.Publish(genv, env, append([][]byte{blob}, sealed...)...)
	r.coord.WaitState(fleet.StateConfirmed, first)
	second := r.with(2, "", map[string]string{"app/token": "two"}, version(2, 2), func(g *fleet.Generation) { g.RevertTo = []fleet.Ref{first} })
	r.coord.WaitState(fleet.StateConfirmed, second)
	r.coord.Revert(genv, env)
	r.coord.WaitState(fleet.StateConfirmed, first)
	r.expectServing("1")
	r.expectToken("two")
}

// TestRevokedBefore: nobody sends a host back to a generation that has revoked values in
// itself; an activation that fails goes back all the same.
func TestRevokedBefore(t *testing.T) {
	r := newRevoking(t)
	revokes := func(m *fleet.SecretsManifest) {
		m.Entries = []fleet.SecretEntry{}
		m.RevokedBefore, m.Critical = m.Issued, []string{fleet.CriticalRevokedBefore}
	}
	g, blob := r.generation(1, "1", "")
	g.Issued = g.Issued.Add(-time.Hour)
	genv, first := r.fleet.Seal(g)
	r.coord.Publish(genv, nil, blob)
	r.coord.WaitState(fleet.StateConfirmed, first)
	lists := func(g *fleet.Generation) { g.RevertTo = []fleet.Ref{first} }

	r.with(2, "exit 1", nil, revokes, lists)
	r.coord.WaitState(fleet.StateRolledBack, first)
	r.expectServing("1")

	third := r.with(3, "", nil, revokes, lists)
	r.coord.WaitState(fleet.StateConfirmed, third)
	if _, err := os.Lstat(r.config.SecretsDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a manifest without secrets made a link: %v", err)
	}
	_, err := r.client().RollBack(t.Context(), fleet.System, fleet.Number{})
	if !errors.Is(err, control.ErrNotPossible) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a person goes back: %v", err)
	}
	r.coord.Revert(genv, nil)
	if st := r.coord.WaitReason(release.ErrRevoked.Code); st.Reason.Hint == "" {
		t.Errorf("%+v", st)
	}
	r.expectServing("3")
}

// TestRunSecrets: what is looked for below /run leads to the agent's secrets from the first
// generation that has some, and back to what was there; a system that would install there
// too is refused and changes nothing.
func TestRunSecrets(t *testing.T) {
	r := &revoking{host: newHost(t)}
	run := filepath.Join(filepath.Dir(r.config.StateDir), "host-run")
	if err := errors.Join(os.Mkdir(run, 0o700), os.Symlink("/run/secrets.d/7", filepath.Join(run, "secrets"))); err != nil {
		t.Fatal(err)
	}
	r.config.SecretsPlaces = secrets.Places{Run: run}
	r.start()
	r.coord.Wait("enrolment", func() bool { return r.coord.HostKeys().Age != "" })
	var err error
	if r.recipient, err = age.ParseX25519Recipient(r.coord.HostKeys().Age); err != nil {
		t.Fatal(err)
	}
	leads := func(want string) {
		t.Helper()
		if got, _ := os.Readlink(filepath.Join(run, "secrets")); got != want {
			t.Errorf("/run/secrets leads to %q, want %q", got, want)
		}
	}
	token := map[string]string{"app/token": "one"}
	r.with(1, "exit 1", token, version(1, 0))
	r.coord.WaitState(fleet.StateRolledBack, fleet.Ref{})
	leads("/run/secrets.d/7")

	second := r.with(2, "", token, version(1, 0))
	r.coord.WaitState(fleet.StateConfirmed, second)
	leads(r.config.SecretsDir)
	if b, err := os.ReadFile(filepath.Join(run, "secrets", "app/token")); err != nil || string(b) != "one" {
		t.Errorf("%q, %v", b, err)
	}

	r.with(3, "true || /nix/store/x/bin/sops-install-secrets /manifest", token, version(1, 0))
	st := r.coord.WaitReason(fleet.ReasonSecretsFailed)
	if st.Current.Number != second.Number || !strings.Contains(st.Reason.Message, "runs sops-install-secrets") {
		t.Errorf("%+v", st)
	}
	leads(r.config.SecretsDir)

	// A boot empties /run.
	r.crash()
	if err := os.Remove(filepath.Join(run, "secrets")); err != nil {
		t.Fatal(err)
	}
	c := (&restarting{host: r.host}).offline()
	c.SecretsPlaces = r.config.SecretsPlaces
	if err := RestoreSecrets(t.Context(), c, true); err != nil {
		t.Error(err)
	}
	leads(r.config.SecretsDir)
}
