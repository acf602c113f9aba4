package coordinator_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// ended reads until the stream ends and returns why.
func ended(s watchStream) error {
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
}

func TestBan(t *testing.T) {
	w := newWorld(t, func(k *kit.Kit) { k.Bans = []kit.Ban{{Machine: "pyrite", Reason: "stolen"}} })
	a := w.enrolled("galena")
	s := a.mustWatch(t.Context())
	admin := w.operator("cameron")
	_, err := admin.Ban(t.Context(), &fleetv1.BanRequest{Machine: "galena"})
	wantRefusal(t, err, codes.InvalidArgument, refusal.Malformed)
	resp, err := admin.Ban(t.Context(), &fleetv1.BanRequest{Machine: "galena", Reason: "lost on a train"})
	check(t, err)
	if resp.GetStreamsCut() != 1 {
		t.Errorf("%d streams cut", resp.GetStreamsCut())
	}
	wantRefusal(t, ended(s), codes.PermissionDenied, fleet.ReasonBanned)
	refused := func() {
		t.Helper()
		_, err := a.watch(t.Context())
		wantRefusal(t, err, codes.PermissionDenied, fleet.ReasonBanned)
		_, err = a.renew()
		wantRefusal(t, err, codes.PermissionDenied, fleet.ReasonBanned)
	}
	refused()
	_, err = admin.CreateToken(t.Context(), &fleetv1.CreateTokenRequest{Machine: "galena", TokenHash: make([]byte, 32), TtlSeconds: 60})
	wantRefusal(t, err, codes.PermissionDenied, fleet.ReasonBanned)
	w.stop()
	w.start()
	refused()
	if got := w.status("galena").GetBanned(); got != "lost on a train" {
		t.Errorf("status says %q", got)
	}
	_, err = admin.Ban(t.Context(), &fleetv1.BanRequest{Machine: "galena", Reason: "found", Lift: true})
	check(t, err)
	a.mustWatch(t.Context())
	_, err = admin.Ban(t.Context(), &fleetv1.BanRequest{Machine: "nowhere", Reason: "x"})
	wantRefusal(t, err, codes.NotFound, refusal.UnknownMachine)

	// The kit's ban holds, until it is lifted; a restart does not bring it back.
	p := w.newAgent("pyrite", "i")
	p.host = fleetv1.NewHostServiceClient(w.as(w.issue(pki.HostIdentity(fleetID, "pyrite"))))
	_, err = p.watch(t.Context())
	wantRefusal(t, err, codes.PermissionDenied, fleet.ReasonBanned)
	_, err = admin.Ban(t.Context(), &fleetv1.BanRequest{Machine: "pyrite", Reason: "back", Lift: true})
	check(t, err)
	w.stop()
	w.start()
	p.mustWatch(t.Context())
}

func TestOneInstance(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	first := a.mustWatch(t.Context())
	twin := *a
	twin.instance = "twin"
	_, err := twin.watch(t.Context())
	wantRefusal(t, err, codes.FailedPrecondition, fleet.ReasonDuplicate)
	_, err = twin.host.Report(t.Context(), &fleetv1.ReportRequest{Report: twin.sealReport(fleet.ProfileStatus{})})
	wantRefusal(t, err, codes.FailedPrecondition, fleet.ReasonDuplicate)
	if n, alarm := count(w.events("galena"), "duplicate-instance"); n != 1 || !alarm {
		t.Errorf("%d events, alarm %t", n, alarm)
	}

	// The same instance replaces its stream.
	ctx, cancel := context.WithCancel(t.Context())
	second := a.mustWatch(ctx)
	wantRefusal(t, ended(first), codes.Aborted, refusal.Replaced)
	w.publish("r1", "", 1, galena)
	await(t, second, fleetv1.WakeReason_WAKE_REASON_DESIRED)

	// After a reboot too; but what was rebooted does not come back.
	a.boot = "boot-2"
	third := a.mustWatch(ctx)
	wantRefusal(t, ended(second), codes.Aborted, refusal.Replaced)
	a.boot = "boot-1"
	_, err = a.watch(ctx)
	wantRefusal(t, err, codes.FailedPrecondition, fleet.ReasonDuplicate)

	// Nor does a run that was over, of an agent that names its runs: copies of
	// one state directory may run under one kernel.
	a.boot, a.run = "boot-2", "run-1"
	fourth := a.mustWatch(ctx)
	wantRefusal(t, ended(third), codes.Aborted, refusal.Replaced)
	a.run = "run-2"
	third = a.mustWatch(ctx)
	wantRefusal(t, ended(fourth), codes.Aborted, refusal.Replaced)
	a.run = "run-1"
	_, err = a.watch(ctx)
	wantRefusal(t, err, codes.FailedPrecondition, fleet.ReasonDuplicate)

	// An agent that does not name its runs, put back in place of one that does,
	// is no copy.
	a.run, a.boot = "", "boot-1"
	fourth = a.mustWatch(ctx)
	wantRefusal(t, ended(third), codes.Aborted, refusal.Replaced)
	third = fourth

	// A while after the last sign of life another instance may come.
	cancel()
	_ = ended(third)
	waitFor(t, func() bool { return !w.status("galena").GetConnected() })
	_, err = twin.watch(t.Context())
	wantRefusal(t, err, codes.FailedPrecondition, fleet.ReasonDuplicate)
	w.clock.advance(3 * time.Minute)
	twin.mustWatch(t.Context())
}

// waitFor polls what has no event to wait for.
func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	deadline := time.After(patient)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not come about")
		}
	}
}

func TestReports(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	ref := w.publish("r1", "", 1, galena)["galena"]
	send := func(env []byte) (*fleetv1.ReportResponse, error) {
		return a.host.Report(t.Context(), &fleetv1.ReportRequest{Report: env})
	}
	var transitions []fleet.Transition
	for range 130 {
		transitions = append(transitions, a.transition(fleet.StateFetching, ref))
	}
	env := a.sealReport(fleet.ProfileStatus{State: fleet.StateFetching, Highest: ref}, transitions...)
	for range 2 { // The second one is what a lost answer leads to.
		resp, err := send(env)
		check(t, err)
		if resp.GetAckedSeq() != 130 {
			t.Errorf("acknowledged %d, want 130", resp.GetAckedSeq())
		}
	}
	w.stop()
	w.start()
	resp, err := send(a.sealReport(fleet.ProfileStatus{State: fleet.StateFailed, Highest: ref, Refused: []fleet.Ref{ref}},
		append(transitions[120:], a.transition(fleet.StateFailed, ref))...))
	check(t, err)
	if resp.GetAckedSeq() != 131 {
		t.Errorf("acknowledged %d, want 131", resp.GetAckedSeq())
	}
	events := w.events("galena")
	if n, _ := count(events, "transition"); n != 131 {
		t.Errorf("%d transitions in the log, want 131", n)
	}
	if e := events[len(events)-1]; !e.GetAlarm() || e.GetActor() != "host/galena" {
		t.Errorf("a failure is no alarm: %v", e)
	}
	list, err := w.operator("vic").ListReleases(t.Context(), &fleetv1.ListReleasesRequest{})
	check(t, err)
	if r := list.GetReleases()[0]; r.GetFailed() != 1 || r.GetConfirmed() != 0 {
		t.Errorf("release: %v", r)
	}

	// What the host dropped shows.
	a.seq += 1000
	resp, err = send(a.sealReport(fleet.ProfileStatus{}, a.transition(fleet.StateIdle, ref)))
	check(t, err)
	if n, _ := count(w.events("galena"), "transitions-lost"); n != 1 || resp.GetAckedSeq() != 1132 {
		t.Errorf("%d gaps told, acknowledged %d", n, resp.GetAckedSeq())
	}

	// A number with two digests is an alarm.
	_, src := content("r1")
	_, forged := w.generation("galena", 1, "evil", src)
	_, err = send(a.sealReport(fleet.ProfileStatus{Highest: forged}))
	check(t, err)
	if n, alarm := count(w.events("galena"), "number-reused"); n != 1 || !alarm {
		t.Errorf("%d events, alarm %t", n, alarm)
	}
}

func TestReportsRefused(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	good := fleet.Report{
		Fleet: fleetID, Machine: "galena", InstanceID: a.instance, Mode: fleet.ModeManage, Time: w.clock.now(),
		Profiles: []fleet.ProfileStatus{{Profile: fleet.System}},
	}
	stranger, _ := newSigner(t)
	for name, tt := range map[string]struct {
		edit   func(*fleet.Report)
		signer release.Signer
		reason fleet.ReasonCode
	}{
		"other key":     {func(*fleet.Report) {}, stranger, release.ErrUnknownKey.Code},
		"other machine": {func(r *fleet.Report) { r.Machine = "pyrite" }, a.report, refusal.Malformed},
		"other fleet":   {func(r *fleet.Report) { r.Fleet = "second" }, a.report, refusal.Malformed},
		"no mode":       {func(r *fleet.Report) { r.Mode = "" }, a.report, refusal.Malformed},
		"no instance":   {func(r *fleet.Report) { r.InstanceID = "" }, a.report, refusal.Malformed},
		"bad profile":   {func(r *fleet.Report) { r.Profiles[0].Profile = "../x" }, a.report, refusal.Malformed},
		"profile twice": {func(r *fleet.Report) { r.Profiles = append(r.Profiles, r.Profiles[0]) }, a.report, refusal.Malformed},
		"bad digest":    {func(r *fleet.Report) { r.Profiles[0].Highest.Digest = "sha256:zz" }, a.report, refusal.Malformed},
		"sinking numbers": {func(r *fleet.Report) {
			r.Transitions = []fleet.Transition{{Seq: 2, Profile: fleet.System}, {Seq: 1, Profile: fleet.System}}
		}, a.report, refusal.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			r.Profiles = []fleet.ProfileStatus{good.Profiles[0]}
			tt.edit(&r)
			env, err := release.SealReport(r, tt.signer)
			check(t, err)
			_, err = a.host.Report(t.Context(), &fleetv1.ReportRequest{Report: env})
			got, ok := refusal.Of(err)
			if !ok || got.Code != tt.reason {
				t.Errorf("got %v, want %q", err, tt.reason)
			}
		})
	}
	t.Run("huge", func(t *testing.T) {
		_, err := a.host.Report(t.Context(), &fleetv1.ReportRequest{Report: make([]byte, 1<<20)})
		wantRefusal(t, err, codes.InvalidArgument, refusal.Malformed)
	})
	if w.status("galena").GetMode() != "" {
		t.Error("something of that was kept")
	}
}

// TestWipedStore loses the state directory: hosts come back with the
// identities that they have, and bring what they run.
func TestWipedStore(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	sleeper := w.enrolled("pyrite")
	r1 := w.publish("r1", "", 1, galena)["galena"]
	a.confirm(r1)
	envelope := a.desired().GetProfiles()[0].GetNewest()
	w.wipe()

	s := a.mustWatch(t.Context())
	await(t, s, fleetv1.WakeReason_WAKE_REASON_REPORT)
	env := a.sealReport(fleet.ProfileStatus{State: fleet.StateConfirmed, Current: r1, Confirmed: r1, Highest: r1})
	_, err := a.host.Report(t.Context(), &fleetv1.ReportRequest{Report: env})
	wantRefusal(t, err, codes.FailedPrecondition, refusal.HostKeysWanted)
	resp, err := a.host.Report(t.Context(), &fleetv1.ReportRequest{Report: env, HostKeys: a.keys, HostKeysMac: a.mac})
	check(t, err)
	if u := resp.GetUnknownGenerations(); len(u) != 1 || u[0] != string(r1.Digest) {
		t.Fatalf("unknown: %v", u)
	}
	_, src := content("r1")
	bad, _ := w.generation("pyrite", 1, "r1", src)
	resp, err = a.host.Report(t.Context(), &fleetv1.ReportRequest{Report: env, Accepted: []*fleetv1.SignedGeneration{{Generation: bad}, envelope}})
	check(t, err)
	if u := resp.GetUnknownGenerations(); len(u) != 0 || a.newest() != r1.Digest {
		t.Fatalf("unknown: %v, desired %s", u, a.newest())
	}
	events := w.events("galena")
	if n, alarm := count(events, "generation-adopted"); n != 1 || alarm {
		t.Errorf("%d adopted, alarm %t", n, alarm)
	}
	if n, alarm := count(events, "accepted-generation-invalid"); n != 1 || !alarm {
		t.Errorf("%d invalid ones told, alarm %t", n, alarm)
	}
	head, err := w.operator("vic").GetHead(t.Context(), &fleetv1.GetHeadRequest{})
	check(t, err)
	if msgs := collect(t, head); len(msgs) != 2 || msgs[0].GetHead() != "" {
		t.Errorf("head after the loss: %d messages", len(msgs))
	}

	// What slept through it, beyond the end of its certificate, renews.
	w.clock.advance(pki.HostTTL + time.Hour)
	sleeper.use(sleeper.cert.Certificate[0])
	_, err = sleeper.renew()
	check(t, err)
	sleeper.mustWatch(t.Context())
	_, err = a.renew()
	check(t, err)

	// Publishing goes on above.
	r2 := w.publish("r2", "", 2, galena, func(g *fleet.Generation) { g.RevertTo = []fleet.Ref{r1} })["galena"]
	if a.newest() != r2.Digest {
		t.Error("the next release is not desired")
	}
	w.stop()
	w.start()
	if a.newest() != r2.Digest {
		t.Error("lost by a restart")
	}
	if !w.status("pyrite").GetEnrolled() || w.status("galena").GetProfiles()[0].GetConfirmed().GetDigest() != string(r1.Digest) {
		t.Error("what hosts said was lost by a restart")
	}
}

// TestStolenKeyShows adopts a generation above all that was published here.
func TestStolenKeyShows(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	w.publish("r1", "", 1, galena)
	_, src := content("r1")
	env, ref := w.generation("galena", 2, "evil", src)
	resp, err := a.host.Report(t.Context(), &fleetv1.ReportRequest{
		Report:   a.sealReport(fleet.ProfileStatus{Highest: ref}),
		Accepted: []*fleetv1.SignedGeneration{{Generation: env}},
	})
	check(t, err)
	if len(resp.GetUnknownGenerations()) != 0 {
		t.Errorf("unknown: %v", resp.GetUnknownGenerations())
	}
	if n, alarm := count(w.events("galena"), "generation-adopted"); n != 1 || !alarm {
		t.Errorf("%d events, alarm %t", n, alarm)
	}
}

// TestRollBackPassesOverRefused: what a host was sent back from it refuses, so a
// later rollback must not aim there.
func TestRollBackPassesOverRefused(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	op := w.operator("dana")
	revertTo := func(refs ...fleet.Ref) func(*fleet.Generation) {
		return func(g *fleet.Generation) { g.RevertTo = refs }
	}
	r1 := w.publish("r1", "", 1, galena)["galena"]
	a.confirm(r1)
	r2 := w.publish("r2", "r1", 2, galena, revertTo(r1))["galena"]
	a.confirm(r2)
	// Sent back from r2 to r1: the agent refuses r2 from then on.
	_, err := op.RollBack(t.Context(), &fleetv1.RollBackRequest{Machine: "galena"})
	check(t, err)
	r3 := w.publish("r3", "r2", 3, galena, revertTo(r2, r1))["galena"]
	_, err = a.host.Report(t.Context(), &fleetv1.ReportRequest{Report: a.sealReport(
		fleet.ProfileStatus{State: fleet.StateConfirmed, Current: r3, Confirmed: r3, Highest: r3, Refused: []fleet.Ref{r2}},
		a.transition(fleet.StateConfirmed, r1), a.transition(fleet.StateFailed, r2), a.transition(fleet.StateConfirmed, r3),
	)})
	check(t, err)
	resp, err := op.RollBack(t.Context(), &fleetv1.RollBackRequest{Machine: "galena"})
	check(t, err)
	if got := resp.GetTarget().GetDigest(); got != string(r1.Digest) {
		t.Errorf("sent back to %s, which the host refuses (r2 is %s); want r1 %s", got, r2.Digest, r1.Digest)
	}
}

// TestSignedReport: operators get a host's report as the host signed it, where
// they ask for it, so that they need not believe the coordinator.
func TestSignedReport(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("cinnabar")
	ref := fleet.Ref{Number: fleet.Number{Epoch: 1, Seq: 1}, Digest: fleet.DigestOf([]byte("x"))}
	a.confirm(ref)
	for _, asked := range []bool{false, true} {
		s, err := w.operator("vic").ListHosts(t.Context(), &fleetv1.ListHostsRequest{Machine: "cinnabar", Reports: asked})
		check(t, err)
		m, err := s.Recv()
		check(t, err)
		if got := m.GetHost().GetReport(); (len(got) > 0) != asked {
			t.Errorf("asked: %v, %d bytes", asked, len(got))
		}
		if asked {
			keys, err := pki.ParseHostKeys(a.keys)
			check(t, err)
			pub, err := keys.ReportKey()
			check(t, err)
			r, err := release.OpenReport(m.GetHost().GetReport(), pub)
			check(t, err)
			if r.Profiles[0].Current != ref {
				t.Errorf("it says %+v", r.Profiles)
			}
		}
	}
}
