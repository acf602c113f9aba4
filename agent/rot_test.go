package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
)

// rot changes one byte of a file, and keeps its mode.
func rot(t *testing.T, path string, at func(size int) int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at(len(b))] ^= 0x04
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600), os.Chmod(path, fi.Mode())); err != nil {
		t.Fatal(err)
	}
}

func middle(size int) int { return size / 2 }

// filesBelow lists the files with something in them.
func filesBelow(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		fi, err := e.Info()
		if err == nil && fi.Size() > 0 {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("files below %s: %v, %v", dir, files, err)
	}
	return files
}

// blameless checks that nothing was taken for a generation's own fault.
func (h *host) blameless() {
	h.t.Helper()
	for _, tr := range h.coord.Transitions() {
		if tr.State == fleet.StateFailed || tr.State == fleet.StateRolledBack {
			h.t.Errorf("a generation is blamed: %+v", tr)
		}
	}
}

// TestJournalRecovered: a damaged journal is named and left alone; recover
// starts from what runs, and the fleet hears of it.
func TestJournalRecovered(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	h.confirmed(2, "two")
	if code, _, stderr := h.fleetAgent("recover"); code == exitOK {
		t.Errorf("recovered beside an agent: %s", stderr)
	}
	h.crash()
	if code, _, stderr := h.fleetAgent("recover"); code != exitRefused || !strings.Contains(stderr, "whole") {
		t.Errorf("recovering a whole journal: %d, %s", code, stderr)
	}
	path := filepath.Join(h.config.StateDir, "journal")
	rot(t, path, func(size int) int { return size - 10 })
	if _, err := h.open(); !errors.Is(err, journal.ErrCorrupt) || !strings.Contains(err.Error(), path) {
		t.Errorf("opening: %v", err)
	}
	if code, _, stderr := h.fleetAgent("status"); code == exitOK || !strings.Contains(stderr, "fleet-agent recover") {
		t.Errorf("status: %d, %s", code, stderr)
	}
	code, stdout, stderr := h.fleetAgent("recover")
	if code != exitOK || !strings.Contains(stdout, "nothing below 1.2") || !strings.Contains(stdout, path+".damaged-") {
		t.Fatalf("recover: %d, %s%s", code, stdout, stderr)
	}
	h.start()
	h.coord.Wait("the report of the recovery", func() bool {
		return slices.ContainsFunc(h.coord.Transitions(), func(tr fleet.Transition) bool { return tr.Reason.Code == fleet.ReasonJournalRecovered })
	})
	h.expectServing("two")
	h.confirmed(3, "three")
	h.blameless()
}

// TestRottenBlobs: a blob that changed on the disk is fetched again, and what
// it says now is nobody's fault.
func TestRottenBlobs(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	seq := uint64(1)
	for _, at := range []func(int) int{
		func(int) int { return 0 }, func(int) int { return 150 }, func(int) int { return 156 },
		func(int) int { return 520 }, middle, func(size int) int { return size - 1 },
	} {
		h.crash()
		seq++
		version := strings.Repeat("x", int(seq)) //nolint:gosec // Small.
		g, blob := h.generation(seq, version, "")
		env, ref := h.fleet.Seal(g)
		path := filepath.Join(h.config.StateDir, "blobs", fleet.DigestOf(blob).Hex())
		if err := os.WriteFile(path, blob, 0o600); err != nil {
			t.Fatal(err)
		}
		rot(t, path, at)
		fetched := h.coord.Calls("GetBlob")
		h.coord.Publish(env, nil, blob)
		h.start()
		h.coord.WaitState(fleet.StateConfirmed, ref)
		h.expectServing(version)
		if h.coord.Calls("GetBlob") == fetched {
			t.Errorf("generation %d: the rotten blob was used", seq)
		}
	}
	h.blameless()
}

// TestRottenStaged: every file of what lies ready, secrets too, is looked at
// before it is activated.
func TestRottenStaged(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	if err := h.socket().Pause(t.Context(), "rot"); err != nil {
		t.Fatal(err)
	}
	recipient, err := age.ParseX25519Recipient(h.coord.HostKeys().Age)
	if err != nil {
		t.Fatal(err)
	}
	g, blob := h.generation(2, "two", "")
	secrets, ref, sealed := h.fleet.SealSecrets(recipient, map[string]string{"token": "s3cret", "deep/key": "k3y"})
	g.Secrets = ref
	env, want := h.fleet.Seal(g)
	h.coord.Publish(env, secrets, append(sealed, blob)...)
	waitProfile(t, h, "held by the pause", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonPaused })
	h.crash()
	store := filepath.Join(h.config.StateDir, "bundle", "store", fleet.DigestOf(blob).Hex())
	files := append(filesBelow(t, store), filesBelow(t, h.config.SecretsDir+".d")...)
	if len(files) < 5 {
		t.Errorf("only %v", files)
	}
	for _, path := range files {
		rot(t, path, middle)
	}
	h.start()
	if err := h.client().Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.coord.WaitState(fleet.StateConfirmed, want)
	h.expectServing("two")
	for name, want := range map[string]string{"token": "s3cret", "deep/key": "k3y"} {
		if b, err := os.ReadFile(filepath.Join(h.config.SecretsDir, name)); err != nil || string(b) != want {
			t.Errorf("secret %s: %q, %v", name, b, err)
		}
	}
	h.blameless()
}

// TestRottenDocuments: damaged roots, pointers and documents are named, what
// runs goes on, and the coordinator's next answer replaces them.
func TestRottenDocuments(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	h.fleet.NextRoot()
	h.confirmed(2, "two")
	h.crash()
	h.coord.Stop()
	files := filesBelow(t, filepath.Join(h.config.StateDir, "desired"))
	for _, path := range files {
		rot(t, path, middle)
	}
	h.start()
	p := waitProfile(t, h, "damage named", func(p control.Profile) bool {
		return p.Reason.Code == fleet.ReasonInternal && strings.Contains(p.Reason.Message, "damaged")
	})
	if !strings.Contains(p.Reason.Message, h.config.StateDir) {
		t.Errorf("no file is named: %+v", p.Reason)
	}
	h.expectServing("two")
	h.coord.Start()
	h.confirmed(3, "three")
	if damage := h.agent.bound.Load().desired.Damage(); damage != nil {
		t.Errorf("still damaged: %v", damage)
	}
	h.blameless()
}

// TestRottenIdentity changes each byte of each file of the identity: the file is
// named, with what to do, or it means the same. Nothing but what only the
// coordinator knows (mayDiffer) is used as it is then.
func TestRottenIdentity(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	h.crash()
	dir := filepath.Join(h.config.StateDir, "identity")
	mayDiffer := map[string]bool{
		"report.key":   true, // A seed: any is one. Its reports are refused.
		"instance":     true, // It looks like a copy of the host: an alarm.
		"binding.json": true, // Addresses, pinned root, time and MAC.
	}
	want := meaning(t, dir)
	for _, path := range filesBelow(t, dir) {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		differ := 0
		for at := range whole {
			b := slices.Clone(whole)
			b[at] ^= 1 << (at % 8)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := identity.Open(identity.Options{Dir: dir})
			switch {
			case err != nil:
				if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "enrol again") {
					t.Errorf("%s, byte %d: %v", path, at, err)
				}
			case !slices.Equal(meaningOf(t, s), want):
				differ++
				if !mayDiffer[filepath.Base(path)] {
					t.Errorf("%s, byte %d is used", path, at)
				}
			}
		}
		t.Logf("%s: %d of %d changes only the coordinator notices", filepath.Base(path), differ, len(whole))
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := meaning(t, dir); !slices.Equal(got, want) {
		t.Errorf("it is %q, was %q", got, want)
	}
}

// meaning is all that an identity is used for.
func meaning(t *testing.T, dir string) []string {
	t.Helper()
	s, err := identity.Open(identity.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return meaningOf(t, s)
}

func meaningOf(t *testing.T, s *identity.Store) []string {
	t.Helper()
	cert, err := s.Certificate()
	if err != nil {
		return []string{err.Error()}
	}
	b, err := s.Binding()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := s.HostKeys(b.Machine)
	if err != nil {
		t.Fatal(err)
	}
	all := []string{fmt.Sprintf("%+v %+v", b, cert.PrivateKey), string(cert.Certificate[0]), string(keys), s.InstanceID()}
	for _, ca := range s.CAs() {
		all = append(all, string(ca.Raw))
	}
	return all
}

// TestCoordinatorDiskFull: a coordinator that can write nothing makes no host
// go back.
func TestCoordinatorDiskFull(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	h.coord.Refuse("Report", refusal.New(codes.ResourceExhausted, fleet.Reason{Code: refusal.DiskFull, Message: "no space left"}))
	ref := h.publish(2, "two", "", verifyIn(5*time.Second))
	waitProfile(t, h, "verified", func(p control.Profile) bool { return p.State == fleet.StateVerified && p.Current.Digest == ref.Digest })
	h.expectServing("two")
	h.coord.Refuse("Report", nil)
	h.coord.WaitState(fleet.StateConfirmed, ref)
	h.blameless()
}
