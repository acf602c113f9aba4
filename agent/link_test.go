package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// offset is a clock that a test sets.
type offset struct{ d atomic.Int64 }

func newOffset() *offset { return &offset{} }

func (o *offset) now() time.Time      { return time.Now().Add(time.Duration(o.d.Load())) }
func (o *offset) add(d time.Duration) { o.d.Add(int64(d)) }

func TestCoordinatorAbsentAtStart(t *testing.T) {
	h := newHost(t)
	h.coord.Stop()
	h.start()
	waitStatus(t, h, func(r fleet.Reason) bool { return r.Code == fleet.ReasonUnreachable && r.Hint != "" })
	h.coord.Start()
	h.confirmed(1, "one")

	// Enrolled, with what it needs on disk, it works without one.
	pause(t, h)
	second := h.publish(2, "two", "", verifyIn(200*time.Millisecond))
	h.coord.WaitReason(fleet.ReasonPaused)
	h.coord.Stop()
	h.crash()
	h.start()
	if err := h.client().Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitProfile(t, h, "kept", func(p control.Profile) bool {
		return p.State == fleet.StateHeld && p.Current == second && p.Reason.Code == fleet.ReasonUnreachable
	})
	h.expectServing("two")
}

func TestEnrolmentRefused(t *testing.T) {
	h := newHost(t)
	h.coord.Refuse("Enrol", refusal.New(codes.PermissionDenied, fleet.Reason{
		Code: refusal.TokenExpired, Message: "the token ran out", Hint: "make another",
	}))
	h.start()
	h.coord.Wait("an attempt", func() bool { return h.coord.Calls("Enrol") > 0 })
	waitStatus(t, h, func(r fleet.Reason) bool { return r.Code == refusal.TokenExpired && r.Hint == "make another" })
	h.coord.Refuse("Enrol", nil)
	h.confirmed(1, "one")
}

// TestEnrolAgainAfterCrash: the answer was lost; the same key asks again.
func TestEnrolAgainAfterCrash(t *testing.T) {
	h := newHost(t)
	release := h.coord.Hold("Enrol")
	h.start()
	h.coord.Wait("an attempt", func() bool { return h.coord.Calls("Enrol") > 0 })
	h.crash()
	release()
	h.config.Join = "" // what an earlier attempt left is enough
	h.start()
	h.confirmed(1, "one")
}

func TestNotEnrolled(t *testing.T) {
	h := newHost(t)
	h.config.Join = ""
	h.start()
	waitStatus(t, h, func(r fleet.Reason) bool { return r.Code == "not-enrolled" && r.Hint != "" })
}

func TestOtherHostsJoinString(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	h.crash()
	a, err := h.open()
	if err != nil {
		t.Fatal(err)
	}
	j := h.fleet.Join(h.coord.Address)
	j.Machine = "galena"
	if err := a.identity.SetJoin(j); !errors.Is(err, identity.ErrOtherHost) {
		t.Errorf("another host's join string: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func waitStatus(t *testing.T, h *host, ok func(fleet.Reason) bool) {
	t.Helper()
	c := h.socket()
	var last fleet.Reason
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		st, err := c.Status(t.Context())
		if err == nil && ok(st.Coordinator) {
			return
		}
		last = st.Coordinator
	}
	t.Fatalf("status of the coordinator: %+v", last)
}

// TestBanned: the reason is in the status, attempts are slow, and it ends.
func TestBanned(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	banned := refusal.New(codes.PermissionDenied, fleet.Reason{Code: fleet.ReasonBanned, Message: "banned", Hint: "ask"})
	for _, m := range []string{"Watch", "Report", "GetDesired"} {
		h.coord.Refuse(m, banned)
	}
	h.coord.Stop()
	h.coord.Start()
	waitStatus(t, h, func(r fleet.Reason) bool { return r.Code == fleet.ReasonBanned })
	for _, m := range []string{"Watch", "Report", "GetDesired"} {
		h.coord.Refuse(m, nil)
	}
	h.confirmed(2, "two")
}

// TestClockBehind says so where the coordinator can't be reached: that the clock
// is behind what was signed may be why.
func TestClockBehind(t *testing.T) {
	h := newHost(t)
	offset := newOffset()
	offset.add(-365 * 24 * time.Hour)
	h.config.Now = offset.now
	h.start()
	h.confirmed(1, "one")
	h.coord.Stop()
	waitStatus(t, h, func(r fleet.Reason) bool {
		return r.Code == fleet.ReasonClock && strings.Contains(r.Message, string(fleet.ReasonUnreachable))
	})
}

// TestClockAheadMended: to a clock far ahead all has expired, which starts nothing
// and stops nothing; it leaves nothing behind once the clock is right.
func TestClockAheadMended(t *testing.T) {
	h := newHost(t)
	offset := newOffset()
	h.config.Now = offset.now
	h.start()
	h.confirmed(1, "one")
	h.crash()
	offset.add(3 * 365 * 24 * time.Hour)
	h.start()
	two := h.publish(2, "two", "")
	waitStatus(t, h, func(r fleet.Reason) bool {
		return r.Code == fleet.ReasonUnreachable && strings.Contains(r.Message, "check the clocks")
	})
	h.expectServing("one")
	if n := count(h, fleet.StateActivating, two); n != 0 {
		t.Errorf("activated %d times", n)
	}
	offset.add(-3 * 365 * 24 * time.Hour)
	h.coord.WaitState(fleet.StateConfirmed, two)
	h.expectServing("two")
	h.crash()
	h.start()
	h.confirmed(3, "three")
}

// TestRenewal renews at half-life, and after the end.
func TestRenewal(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	h.crash()
	offset := newOffset()
	h.config.Now = offset.now
	offset.add(5 * 24 * time.Hour)
	h.start()
	h.coord.Wait("renewal", func() bool { return h.coord.Calls("Renew") == 1 })
	waitStatus(t, h, func(fleet.Reason) bool {
		_, until := h.agent.identity.Validity()
		return until.After(time.Now().Add(6 * 24 * time.Hour))
	})
}

// TestBlobs: a transfer that breaks is taken up where it ended; one that
// stalls, and bytes that are not what was signed, change nothing.
func TestBlobs(t *testing.T) {
	big := make([]byte, 1<<20)
	if _, err := rand.Read(big); err != nil {
		t.Fatal(err)
	}
	bundle := func(h *host, seq uint64) (fleet.Ref, []byte, fleet.BlobRef) {
		src, blob := h.fleet.Bundle(map[string]string{
			"activate": "#!/bin/sh\nprintf big > \"$FLEET_STATE/serving\"\n", "data": string(big),
		})
		env, ref := h.fleet.Seal(h.fleet.Generation(seq, src))
		return ref, env, fleet.BlobRef{Digest: src.Bundle.Digest, Size: uint64(len(blob))}
	}
	blobOf := func(h *host) []byte {
		_, blob := h.fleet.Bundle(map[string]string{
			"activate": "#!/bin/sh\nprintf big > \"$FLEET_STATE/serving\"\n", "data": string(big),
		})
		return blob
	}
	t.Run("cut", func(t *testing.T) {
		h := newHost(t)
		h.start()
		h.coord.CutBlobs(300_000)
		ref, env, _ := bundle(h, 1)
		h.coord.Publish(env, nil, blobOf(h))
		h.coord.WaitState(fleet.StateConfirmed, ref)
		if n := h.coord.Calls("GetBlob"); n != 4 {
			t.Errorf("%d calls, want 4: it was not taken up where it ended", n)
		}
	})
	t.Run("altered", func(t *testing.T) {
		h := newHost(t)
		h.start()
		ref, env, blob := bundle(h, 1)
		good := blobOf(h)
		h.coord.Publish(env, nil)
		h.coord.SetBlob(blob.Digest, bytes.Replace(good, []byte("big"), []byte("bad"), 1))
		h.coord.WaitReason(fleet.ReasonFetchFailed)
		h.coord.SetBlob(blob.Digest, append(bytes.Clone(good), 0))
		calls := h.coord.Calls("GetBlob")
		h.coord.Wait("more attempts", func() bool { return h.coord.Calls("GetBlob") > calls+1 })
		h.expectServing("nothing\n")
		if n := blobsIn(t, h); n > 1 {
			t.Errorf("%d files are left", n)
		}
		h.coord.SetBlob(blob.Digest, good)
		h.coord.WaitState(fleet.StateConfirmed, ref)
	})
	t.Run("trickle", func(t *testing.T) {
		h := newHost(t)
		h.config.BlobPace = pace.Limit{Bytes: 1 << 10, Window: 200 * time.Millisecond}
		h.start()
		h.coord.Trickle(20 * time.Millisecond)
		ref, env, _ := bundle(h, 1)
		h.coord.Publish(env, nil, blobOf(h))
		p := h.coord.WaitReason(fleet.ReasonFetchFailed)
		if p.State != fleet.StateHeld {
			t.Errorf("status: %+v", p)
		}
		h.coord.Trickle(0)
		h.coord.WaitState(fleet.StateConfirmed, ref)
	})
}

func blobsIn(t *testing.T, h *host) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(h.config.StateDir, blobsDir))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestHintStorm: many hints are few questions.
// TestAskedForWhatIsNotHere: a question for a document that the host does not
// have is no reason to report again at once.
func TestAskedForWhatIsNotHere(t *testing.T) {
	h := newHost(t)
	h.start()
	ref := h.confirmed(1, "one")
	for d, want := range map[fleet.Digest]bool{ref.Digest: true, fleet.DigestOf([]byte("nowhere")): false} {
		more, err := h.agent.report(t.Context(), h.agent.bound.Load(), func(context.Context, sync.Report) (sync.Ack, error) {
			return sync.Ack{Unknown: []fleet.Digest{d}}, nil
		})
		if err != nil || more != want {
			t.Errorf("asked for %s: more is %t, want %t: %v", d.Short(), more, want, err)
		}
		h.agent.link.remember(nil)
	}
}

// TestUnsignedProfiles offers many profiles that no signed document names.
func TestUnsignedProfiles(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	for i := range fleet.MaxProfiles - 1 {
		h.coord.OfferUnsigned(fleet.ProfileName(fmt.Sprintf("home/user%d", i)))
	}
	before := h.coord.Calls("GetDesired")
	h.coord.Hint(fleetv1.WakeReason_WAKE_REASON_DESIRED)
	h.coord.Wait("question", func() bool { return h.coord.Calls("GetDesired") > before })
	h.confirmed(2, "two")
	if n := len(h.agent.sorted()); n != 1 {
		t.Errorf("the agent works on %d profiles", n)
	}
	if n := len(h.agent.journal.State().Profiles); n != 1 {
		t.Errorf("the journal has %d profiles", n)
	}
}

func TestHintStorm(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	before := h.coord.Calls("GetDesired")
	for range 2000 {
		h.coord.Hint(fleetv1.WakeReason_WAKE_REASON_DESIRED)
	}
	h.confirmed(2, "two")
	if n := h.coord.Calls("GetDesired") - before; n > 20 {
		t.Errorf("2000 hints made %d questions", n)
	}
}

// TestWipedCoordinator: the host hands its accepted documents over again.
func TestWipedCoordinator(t *testing.T) {
	h := newHost(t)
	h.start()
	ref := h.confirmed(1, "one")
	h.coord.Forget(ref.Digest)
	h.coord.Hint(fleetv1.WakeReason_WAKE_REASON_REPORT)
	h.coord.Wait("the document", func() bool { return len(h.coord.Accepted()) == 1 })
}

// TestOutbox: nothing is lost while reports are not acknowledged.
func TestOutbox(t *testing.T) {
	h := newHost(t)
	h.start()
	h.coord.NoAck(true)
	ref := h.publish(1, "one", "")
	h.coord.WaitState(fleet.StateVerified, ref)
	h.crash()
	h.start()
	h.coord.NoAck(false)
	h.coord.Hint(fleetv1.WakeReason_WAKE_REASON_REPORT)
	h.coord.WaitState(fleet.StateConfirmed, ref)
	for i, tr := range h.coord.Transitions() {
		if tr.Seq != uint64(i+1) {
			t.Fatalf("transition %d has number %d", i+1, tr.Seq)
		}
	}
}

// TestSecrets: they are there, whole, when the new bundle starts; a rotation
// needs no activation; a rollback brings the old ones back.
func TestSecrets(t *testing.T) {
	h := newHost(t)
	h.start()
	h.coord.Wait("enrolment", func() bool { return h.coord.HostKeys().Age != "" })
	recipient, err := age.ParseX25519Recipient(h.coord.HostKeys().Age)
	if err != nil {
		t.Fatal(err)
	}
	src, blob := h.fleet.Bundle(map[string]string{
		"activate": "#!/bin/sh\ncat \"$FLEET_SECRETS/db/password\" > \"$FLEET_STATE/serving\"\nprintf x >> \"$FLEET_STATE/runs\"\n",
	})
	publish := func(seq uint64, src fleet.Source, value string, blobs ...[]byte) fleet.Ref {
		env, ref, sealed := h.fleet.SealSecrets(recipient, map[string]string{"db/password": value})
		g := h.fleet.Generation(seq, src)
		g.Secrets = ref
		genv, gref := h.fleet.Seal(g)
		h.coord.Publish(genv, env, append(blobs, sealed...)...)
		return gref
	}
	secret := func(want string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(h.config.SecretsDir, "db", "password"))
		if err != nil || string(b) != want {
			t.Errorf("secret: %q, %v; want %q", b, err, want)
		}
	}
	first := publish(1, src, "s3cret", blob)
	h.coord.WaitState(fleet.StateConfirmed, first)
	h.expectServing("s3cret")
	secret("s3cret")

	second := publish(2, src, "rotated", blob)
	h.coord.WaitState(fleet.StateConfirmed, second)
	secret("rotated")
	runs, err := os.ReadFile(filepath.Join(filepath.Dir(h.serving()), "runs"))
	if err != nil || len(runs) != 1 {
		t.Errorf("activate ran %d times, want once: %v", len(runs), err)
	}

	bad, badBlob := h.fleet.Bundle(map[string]string{"activate": "#!/bin/sh\nexit 1\n"})
	publish(3, bad, "lost", badBlob)
	h.coord.WaitState(fleet.StateRolledBack, second)
	secret("rotated")
}
