package coordinator_test

import (
	"bytes"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

var galena = []fleet.MachineName{"galena"}

func (a *agent) desired() *fleetv1.GetDesiredResponse {
	a.w.t.Helper()
	d, err := a.host.GetDesired(a.w.t.Context(), &fleetv1.GetDesiredRequest{RootVersion: 1})
	check(a.w.t, err)
	if len(d.GetRoots()) != 0 {
		a.w.t.Errorf("%d roots after the newest", len(d.GetRoots()))
	}
	return d
}

// newest is the digest of the desired system generation, "" for none.
func (a *agent) newest() fleet.Digest {
	a.w.t.Helper()
	d := a.desired()
	if len(d.GetProfiles()) == 0 {
		return ""
	}
	g, err := a.w.root.OpenGeneration(d.GetProfiles()[0].GetNewest().GetGeneration())
	check(a.w.t, err)
	return g.Digest
}

func TestHalfPublishIsInvisible(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	b := w.enrolled("pyrite")
	op := w.operator("dana")
	data, src := content("r1")
	g1, ref1 := w.generation("galena", 1, "r1", src)
	g2, _ := w.generation("pyrite", 1, "r1", src)
	n, err := w.stage(op, "r1", &fleetv1.SignedGeneration{Generation: g1})
	check(t, err)
	if n != 1 || a.newest() != "" {
		t.Fatalf("%d staged, host sees %q", n, a.newest())
	}
	_, err = a.fetch(src, 0)
	wantRefusal(t, err, codes.NotFound, refusal.NotFound)

	commit := func(count uint32) error {
		_, err := op.Commit(t.Context(), &fleetv1.CommitRequest{Release: "r1", Count: count})
		return err
	}
	wantRefusal(t, commit(2), codes.FailedPrecondition, refusal.Incomplete) // a generation is missing
	wantRefusal(t, commit(1), codes.FailedPrecondition, refusal.Incomplete) // the blob is missing
	check(t, w.upload(op, data, src))
	w.stop()
	w.start() // A restart in the middle forgets nothing.
	if a.newest() != "" {
		t.Fatal("visible after a restart")
	}
	n, err = w.stage(op, "r1", &fleetv1.SignedGeneration{Generation: g2})
	check(t, err)
	if n != 2 {
		t.Fatalf("%d staged, want 2", n)
	}
	check(t, commit(2))
	if a.newest() != ref1.Digest || b.newest() == "" {
		t.Error("not visible after the commit")
	}
	// The answer was lost: asking again is answered again.
	check(t, commit(2))
	_, err = w.stage(op, "r1", &fleetv1.SignedGeneration{Generation: g2})
	wantRefusal(t, err, codes.AlreadyExists, refusal.Malformed)

	w.stop()
	w.start()
	if a.newest() != ref1.Digest {
		t.Error("lost by a restart")
	}
}

func TestStageRefuses(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	first := w.publish("r5", "", 5, galena)
	op := w.operator("dana")
	_, src := content("next")
	stranger, _ := newSigner(t)
	good, _ := w.generation("galena", 6, "r6", src)
	seal := func(edit func(*fleet.Generation)) []byte {
		env, _ := w.generation("galena", 6, "r6", src, edit)
		return env
	}
	foreign := func() []byte {
		s := w.release
		w.release = stranger
		defer func() { w.release = s }()
		return seal(func(*fleet.Generation) {})
	}
	altered := bytes.Clone(good)
	altered[bytes.Index(altered, []byte(`"payload":"`))+40] ^= 1
	for name, tt := range map[string]struct {
		env    []byte
		reason fleet.ReasonCode
	}{
		"unknown key":     {foreign(), release.ErrUnknownKey.Code},
		"altered":         {altered, ""},
		"not an envelope": {[]byte("{}"), ""},
		"other release":   {seal(func(g *fleet.Generation) { g.Release = "r7" }), release.ErrMalformed.Code},
		"lower number":    {seal(func(g *fleet.Generation) { g.Number.Seq = 4 }), release.ErrLowerNumber.Code},
		"number reused":   {seal(func(g *fleet.Generation) { g.Number.Seq = 5 }), release.ErrNumberReused.Code},
		"number jump":     {seal(func(g *fleet.Generation) { g.Number.Seq = 5000 }), release.ErrNumberJump.Code},
		"epoch":           {seal(func(g *fleet.Generation) { g.Number.Epoch = 2 }), release.ErrWrongEpoch.Code},
		"expired": {seal(func(g *fleet.Generation) {
			g.Issued, g.Expires = g.Issued.Add(-2*time.Hour), g.Issued.Add(-time.Hour)
		}), release.ErrExpired.Code},
		"other fleet": {seal(func(g *fleet.Generation) { g.Fleet = "second" }), release.ErrWrongFleet.Code},
		"critical":    {seal(func(g *fleet.Generation) { g.Critical = []string{"phase_of_moon"} }), release.ErrCritical.Code},
		"no manifest": {seal(func(g *fleet.Generation) { g.Secrets = &fleet.SecretsRef{Digest: src.Digest} }), release.ErrSecretsMismatch.Code},
		"huge":        {bytes.Repeat([]byte("x"), 600<<10), release.ErrTooLarge.Code},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.stage(op, "r6", &fleetv1.SignedGeneration{Generation: tt.env})
			r, ok := refusal.Of(err)
			if !ok || (tt.reason != "" && r.Code != tt.reason) {
				t.Fatalf("got %v (%q), want %q", err, r.Code, tt.reason)
			}
		})
	}
	t.Run("names", func(t *testing.T) {
		for _, id := range []string{"", "../r", "a/b", "nul\x00", strings.Repeat("x", 200)} {
			_, err := w.stage(op, fleet.ReleaseID(id), &fleetv1.SignedGeneration{Generation: good})
			if status.Code(err) != codes.InvalidArgument && status.Code(err) != codes.Internal {
				t.Errorf("%q: %v", id, err)
			}
		}
	})
	if a.newest() != first["galena"].Digest {
		t.Error("something of that became desired")
	}
}

func TestTwoPublishersAtOnce(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	data, src := content("both")
	check(t, w.upload(w.operator("dana"), data, src))
	const n = 6
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		id := fleet.ReleaseID("r" + strconv.Itoa(i))
		env, _ := w.generation("galena", 1, id, src)
		op := w.operator("dana")
		wg.Go(func() {
			if _, errs[i] = w.stage(op, id, &fleetv1.SignedGeneration{Generation: env}); errs[i] == nil {
				_, errs[i] = op.Commit(t.Context(), &fleetv1.CommitRequest{Release: string(id), Count: 1})
			}
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		r, _ := refusal.Of(err)
		// Who stages after the first commit is refused already then.
		if r.Code != refusal.HeadMoved && r.Code != release.ErrNumberReused.Code {
			t.Errorf("got %v", err)
		}
		if r.Code == refusal.HeadMoved && status.Code(err) != codes.Aborted {
			t.Errorf("got %v, want ABORTED", err)
		}
	}
	if won != 1 || a.newest() == "" {
		t.Errorf("%d publishers won", won)
	}
}

func TestStaleHead(t *testing.T) {
	w := newWorld(t)
	w.publish("r1", "", 1, galena)
	op := w.operator("dana")
	data, src := content("r2")
	check(t, w.upload(op, data, src))
	env, _ := w.generation("galena", 2, "r2", src)
	_, err := w.stage(op, "r2", &fleetv1.SignedGeneration{Generation: env})
	check(t, err)
	_, err = op.Commit(t.Context(), &fleetv1.CommitRequest{Release: "r2", Count: 1})
	wantRefusal(t, err, codes.Aborted, refusal.HeadMoved)
	_, err = op.Commit(t.Context(), &fleetv1.CommitRequest{Release: "r2", ExpectedHead: "r1", Count: 1})
	check(t, err)
	head, err := op.GetHead(t.Context(), &fleetv1.GetHeadRequest{})
	check(t, err)
	msgs := collect(t, head)
	if len(msgs) != 2 || msgs[0].GetHead() != "r2" || !bytes.Equal(msgs[1].GetGeneration().GetGeneration(), env) {
		t.Errorf("head: %d messages, %q", len(msgs), msgs[0].GetHead())
	}
	if got := msgs[0].GetTime().AsTime(); w.clock.now().Sub(got).Abs() > time.Minute {
		t.Errorf("the coordinator says it is %s, want %s", got, w.clock.now())
	}
}

// TestSubset publishes to one machine: others keep what they have, and only
// the machines of the release are woken.
func TestSubset(t *testing.T) {
	w := newWorld(t)
	a, b := w.enrolled("galena"), w.enrolled("pyrite")
	sa, sb := a.mustWatch(t.Context()), b.mustWatch(t.Context())
	refs := w.publish("r1", "", 1, []fleet.MachineName{"galena", "pyrite"})
	await(t, sa, fleetv1.WakeReason_WAKE_REASON_DESIRED)
	await(t, sb, fleetv1.WakeReason_WAKE_REASON_DESIRED)
	w.publish("r2", "r1", 2, galena)
	await(t, sa, fleetv1.WakeReason_WAKE_REASON_DESIRED)
	if b.newest() != refs["pyrite"].Digest {
		t.Error("pyrite's generation changed")
	}
	// The next hint of pyrite is of the release after: nothing was in between.
	w.publish("r3", "r2", 3, []fleet.MachineName{"pyrite"})
	m, err := sb.Recv()
	check(t, err)
	if m.GetReason() != fleetv1.WakeReason_WAKE_REASON_DESIRED {
		t.Errorf("hint %s", m.GetReason())
	}
	if got := w.status("pyrite").GetProfiles()[0].GetDesired().GetRelease(); got != "r3" {
		t.Errorf("desired of pyrite is of %q", got)
	}
}

func TestSecretsTravelWithTheirGeneration(t *testing.T) {
	w := newWorld(t)
	a, b := w.enrolled("galena"), w.enrolled("pyrite")
	op := w.operator("dana")
	cipher, secret := content("ciphertext")
	data, src := content("r1")
	check(t, w.upload(op, cipher, secret))
	check(t, w.upload(op, data, src))
	now := w.clock.now()
	manifest, digest, err := release.Seal(fleet.TypeSecrets, fleet.SecretsManifest{
		Type: fleet.TypeSecrets, Fleet: fleetID, Machine: "galena", Profile: fleet.System, Issued: now, Expires: now.Add(time.Hour),
		Entries: []fleet.SecretEntry{{Name: "token", Version: 1, Digest: secret.Digest, Size: secret.Size, Path: "token", Mode: 0o400}},
	}, w.secrets)
	check(t, err)
	env, _ := w.generation("galena", 1, "r1", src, func(g *fleet.Generation) { g.Secrets = &fleet.SecretsRef{Digest: digest} })
	n, err := w.stage(op, "r1", &fleetv1.SignedGeneration{Generation: env, Secrets: manifest})
	check(t, err)
	_, err = op.Commit(t.Context(), &fleetv1.CommitRequest{Release: "r1", Count: n})
	check(t, err)
	if got := a.desired().GetProfiles()[0].GetNewest(); !bytes.Equal(got.GetSecrets(), manifest) || !bytes.Equal(got.GetGeneration(), env) {
		t.Error("the documents are not those that were signed")
	}
	got, err := a.fetch(secret, 0)
	check(t, err)
	if !bytes.Equal(got, cipher) {
		t.Error("another ciphertext")
	}
	_, err = b.fetch(secret, 0)
	wantRefusal(t, err, codes.NotFound, refusal.NotFound)
}

// TestDocumentsFromTheFuture are refused: hosts never take a time for earlier
// than one that was signed, so that nothing else would be good there any more.
func TestDocumentsFromTheFuture(t *testing.T) {
	w := newWorld(t)
	op := w.operator("dana")
	_, src := content("r1")
	late := w.clock.now().Add(100 * 365 * 24 * time.Hour)
	env, _ := w.generation("galena", 1, "r1", src, func(g *fleet.Generation) {
		g.Issued, g.Expires = late, late.Add(time.Hour)
	})
	_, err := w.stage(op, "r1", &fleetv1.SignedGeneration{Generation: env})
	wantRefusal(t, err, codes.FailedPrecondition, fleet.ReasonClock)
	manifest, digest, err := release.Seal(fleet.TypeSecrets, fleet.SecretsManifest{
		Type: fleet.TypeSecrets, Fleet: fleetID, Machine: "galena", Profile: fleet.System, Issued: late, Expires: late.Add(time.Hour),
	}, w.secrets)
	check(t, err)
	env, _ = w.generation("galena", 1, "r1", src, func(g *fleet.Generation) { g.Secrets = &fleet.SecretsRef{Digest: digest} })
	_, err = w.stage(op, "r1", &fleetv1.SignedGeneration{Generation: env, Secrets: manifest})
	wantRefusal(t, err, codes.FailedPrecondition, fleet.ReasonClock)
}

func TestUploads(t *testing.T) {
	w := newWorld(t)
	op := w.operator("dana")
	data, ref := content("blob")
	put := func(digest fleet.Digest, size, offset uint64, pieces ...[]byte) (*fleetv1.PutBlobResponse, error) {
		s, err := op.PutBlob(t.Context())
		check(t, err)
		for i, p := range pieces {
			m := &fleetv1.PutBlobRequest{Data: p}
			if i == 0 {
				m.Digest, m.Size, m.Offset = string(digest), size, offset
			}
			if s.Send(m) != nil {
				break
			}
		}
		return s.CloseAndRecv()
	}
	_, err := put(ref.Digest, ref.Size, 0, data[:1000])
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("short upload: %v", err)
	}
	st, err := op.StatBlob(t.Context(), &fleetv1.StatBlobRequest{Digest: string(ref.Digest), Size: ref.Size})
	check(t, err)
	if st.GetComplete() || st.GetOffset() != 1000 {
		t.Errorf("after a short upload: %v", st)
	}
	_, err = put(ref.Digest, ref.Size, 2000, data[2000:])
	if status.Code(err) != codes.OutOfRange {
		t.Errorf("a hole: %v", err)
	}
	check(t, w.upload(op, data, ref)) // goes on at 1000
	other := fleet.DigestOf([]byte("other"))
	_, err = put(other, ref.Size, 0, data)
	if status.Code(err) != codes.DataLoss {
		t.Errorf("wrong digest: %v", err)
	}
	_, err = put(other, 10, 0, data[:100])
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("too much: %v", err)
	}
	_, err = put(other, 600<<10, 0, bytes.Repeat([]byte("x"), 300<<10))
	wantRefusal(t, err, codes.InvalidArgument, refusal.Malformed)
	_, err = put("sha256:../x", 10, 0, data[:10])
	wantRefusal(t, err, codes.InvalidArgument, refusal.Malformed)
	_, err = put(other, 1<<60, 0, data)
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("far too large: %v", err)
	}
}

// TestTrickle sends a byte and then nothing: the upload ends, and what came is
// kept.
func TestTrickle(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.pace = pace.Limit{Bytes: 1 << 10, Window: 50 * time.Millisecond}
	w.start()
	op := w.operator("dana")
	data, ref := content("trickle")
	s, err := op.PutBlob(t.Context())
	check(t, err)
	check(t, s.Send(&fleetv1.PutBlobRequest{Digest: string(ref.Digest), Size: ref.Size, Data: data[:1]}))
	wantRefusal(t, s.RecvMsg(&fleetv1.PutBlobResponse{}), codes.DeadlineExceeded, refusal.Stalled)
	check(t, w.upload(op, data, ref))
}

func TestRollBackAndRetry(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	op := w.operator("dana")
	back := func() error {
		_, err := op.RollBack(t.Context(), &fleetv1.RollBackRequest{Machine: "galena"})
		return err
	}
	wantRefusal(t, back(), codes.NotFound, refusal.NotFound)
	r1 := w.publish("r1", "", 1, galena)["galena"]
	a.confirm(r1)
	wantRefusal(t, back(), codes.FailedPrecondition, refusal.NoRollbackTarget)
	revertTo := func(refs ...fleet.Ref) func(*fleet.Generation) {
		return func(g *fleet.Generation) { g.RevertTo = refs }
	}
	// r2 is never confirmed there, so it is no target.
	r2 := w.publish("r2", "r1", 2, galena, revertTo(r1))["galena"]
	r3 := w.publish("r3", "r2", 3, galena, revertTo(r1, r2))["galena"]
	a.confirm(r3)
	w.stop()
	w.start() // What was confirmed is remembered.
	s := a.mustWatch(t.Context())
	check(t, back())
	await(t, s, fleetv1.WakeReason_WAKE_REASON_DESIRED)
	target := func() fleet.Digest {
		p := a.desired().GetProfiles()[0]
		if p.GetRevert() == nil {
			return ""
		}
		g, err := w.root.OpenGeneration(p.GetRevert().GetGeneration())
		check(t, err)
		return g.Digest
	}
	if target() != r1.Digest {
		t.Errorf("sent back to %s, want %s", target(), r1.Digest)
	}
	_, src := content("r1")
	if _, err := a.fetch(src, 0); err != nil {
		t.Errorf("the bundle to go back to: %v", err)
	}
	if got := w.status("galena").GetProfiles()[0].GetDesired().GetRelease(); got != "r1" {
		t.Errorf("desired is of %q", got)
	}
	w.stop()
	w.start()
	s = a.mustWatch(t.Context())
	if target() != r1.Digest {
		t.Error("the rollback was lost by a restart")
	}

	// A retry of the newest ends the rollback, and waits for the host.
	now := w.clock.now()
	seal := func(edit func(*fleet.Loosening)) []byte {
		l := fleet.Loosening{
			Type: fleet.TypeLoosening, Fleet: fleetID, Machine: "galena", Profile: fleet.System, Action: fleet.LoosenRetry,
			Digest: r3.Digest, Issued: now, Expires: now.Add(time.Hour),
		}
		edit(&l)
		env, _, err := release.Seal(fleet.TypeLoosening, l, w.release)
		check(t, err)
		return env
	}
	_, err := op.Loosen(t.Context(), &fleetv1.LoosenRequest{Document: seal(func(l *fleet.Loosening) { l.Issued, l.Expires = now.Add(-2*time.Hour), now.Add(-time.Hour) })})
	wantRefusal(t, err, codes.FailedPrecondition, release.ErrExpired.Code)
	for range 2 {
		_, err = op.Loosen(t.Context(), &fleetv1.LoosenRequest{Document: seal(func(*fleet.Loosening) {})})
		check(t, err)
	}
	await(t, s, fleetv1.WakeReason_WAKE_REASON_DESIRED)
	if n := len(a.desired().GetLoosenings()); n != 1 || target() != "" {
		t.Errorf("%d loosenings, sent back to %q", n, target())
	}
	w.stop()
	w.start()
	if n := len(a.desired().GetLoosenings()); n != 1 {
		t.Errorf("%d loosenings after a restart", n)
	}
	w.clock.advance(2 * time.Hour)
	if n := len(a.desired().GetLoosenings()); n != 0 {
		t.Errorf("%d loosenings after their end", n)
	}

	// A newer release clears a rollback.
	check(t, back())
	r4 := w.publish("r4", "r3", 4, galena)["galena"]
	if a.newest() != r4.Digest || target() != "" {
		t.Error("a newer release does not clear the rollback")
	}
}
