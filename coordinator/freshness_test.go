package coordinator_test

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// TestFreshness: any host may bring a statement that the freshness key signed,
// each machine gets its own, and an older one replaces none.
func TestFreshness(t *testing.T) {
	w := newWorld(t)
	by, other := w.enrolled("galena"), w.enrolled("pyrite")
	state := func(m fleet.MachineName, at time.Duration, s release.Signer) []byte {
		issued := w.clock.now().Add(at).UTC()
		env, _, err := release.Seal(fleet.TypeFreshness, fleet.Freshness{
			Type: fleet.TypeFreshness, Fleet: fleetID, Machine: m, Issued: issued, Expires: issued.Add(time.Hour), Root: 1,
		}, s)
		check(t, err)
		return env
	}
	put := func(statements ...[]byte) error {
		_, err := by.host.PutFreshness(t.Context(), &fleetv1.PutFreshnessRequest{Statements: statements})
		return err
	}
	own, others := state("galena", 0, w.freshness), state("pyrite", 0, w.freshness)
	check(t, put(own, others))
	gets := func(a *agent, want []byte) {
		t.Helper()
		if got := a.desired().GetFreshness(); !bytes.Equal(got, want) {
			t.Errorf("%s gets %.60q", a.machine, got)
		}
	}
	gets(by, own)
	gets(other, others)
	check(t, put(state("pyrite", -time.Minute, w.freshness)))
	gets(other, others)
	wantRefusal(t, put(state("pyrite", time.Minute, w.release)), codes.FailedPrecondition, release.ErrUnknownKey.Code)
	wantRefusal(t, put(state("pyrite", 2*time.Hour, w.freshness)), codes.FailedPrecondition, fleet.ReasonClock)
	wantRefusal(t, put([]byte("{}")), codes.InvalidArgument, release.ErrMalformed.Code)
	wantRefusal(t, put(make([][]byte, 65)...), codes.InvalidArgument, refusal.Malformed)
	gets(other, others)
	w.stop()
	w.start()
	gets(other, others)
	newer := state("pyrite", time.Minute, w.freshness)
	check(t, put(newer, others))
	gets(other, newer)
	if n, _ := count(w.events("galena"), "freshness-stated"); n != 2 {
		t.Errorf("%d events", n)
	}
}
