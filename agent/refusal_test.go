package agent

import (
	"bytes"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// TestRefusals offers what must never be accepted: the host stays as it is,
// and says why by name, here and to the coordinator.
func TestRefusals(t *testing.T) {
	h := newHost(t)
	h.start()
	good := h.confirmed(3, "good")
	offer := func(change func(*fleet.Generation), signers ...release.Signer) []byte {
		g, blob := h.generation(4, "evil", "")
		change(&g)
		env, _ := h.fleet.Seal(g, signers...)
		h.coord.Publish(env, nil, blob)
		return env
	}
	same := func(*fleet.Generation) {}
	for _, c := range []struct {
		want  fleet.ReasonCode
		offer func()
	}{
		{release.ErrUnknownKey.Code, func() { offer(same, h.fleet.Stranger) }},
		{release.ErrWrongMachine.Code, func() { offer(func(g *fleet.Generation) { g.Machine = "galena" }) }},
		{release.ErrWrongProfile.Code, func() { offer(func(g *fleet.Generation) { g.Profile = "home/eve" }) }},
		{release.ErrWrongFleet.Code, func() { offer(func(g *fleet.Generation) { g.Fleet = "other" }) }},
		{release.ErrLowerNumber.Code, func() { offer(func(g *fleet.Generation) { g.Number.Seq = 2 }) }},
		{release.ErrNumberReused.Code, func() { offer(func(g *fleet.Generation) { g.Number.Seq = 3 }) }},
		{release.ErrNumberJump.Code, func() { offer(func(g *fleet.Generation) { g.Number.Seq += 5000 }) }},
		{release.ErrWrongEpoch.Code, func() { offer(func(g *fleet.Generation) { g.Number.Epoch = 2 }) }},
		{release.ErrExpired.Code, func() {
			offer(func(g *fleet.Generation) {
				g.Issued = g.Issued.Add(-time.Hour)
				g.Expires = g.Issued.Add(time.Minute)
			})
		}},
		{release.ErrCritical.Code, func() { offer(func(g *fleet.Generation) { g.Critical = []string{"moon"} }) }},
		{release.ErrSecretsMismatch.Code, func() {
			offer(func(g *fleet.Generation) { g.Secrets = &fleet.SecretsRef{Digest: fleet.DigestOf([]byte("x"))} })
		}},
		{release.ErrSignature.Code, func() {
			g, blob := h.generation(4, "evil", "")
			env, _ := h.fleet.Seal(g)
			h.coord.Publish(h.fleet.Rewrite(env, func(p []byte) []byte {
				return bytes.Replace(p, []byte(`"seq":4`), []byte(`"seq":5`), 1)
			}), nil, blob)
		}},
		{release.ErrMalformed.Code, func() { h.coord.Publish([]byte(`{"payload":"`), nil) }},
		{release.ErrTooLarge.Code, func() { h.coord.Publish(bytes.Repeat([]byte(" "), 1<<20), nil) }},
	} {
		t.Run(string(c.want), func(t *testing.T) {
			c.offer()
			p := h.coord.WaitReason(c.want)
			if p.Current != good || p.State != fleet.StateConfirmed || p.Highest != good {
				t.Errorf("status: %+v", p)
			}
			st, err := h.client().Status(t.Context())
			if err != nil || st.Profiles[0].Reason.Code != c.want || st.Profiles[0].Reason.Hint == "" {
				t.Errorf("local status: %+v, %v", st, err)
			}
		})
	}
	h.expectServing("good")
	// None of it stands in the way of what is right.
	h.confirmed(4, "better")
}

// TestExpiredWhileWaiting: what was admissible when it came is judged again
// right before its activation.
func TestExpiredWhileWaiting(t *testing.T) {
	h := newHost(t)
	offset := newOffset()
	h.config.Now = offset.now
	h.start()
	good := h.confirmed(1, "good")
	pause(t, h)
	h.publish(2, "stale", "")
	h.coord.WaitReason(fleet.ReasonPaused)
	offset.add(48 * time.Hour) // the host identity lives a week
	if err := h.client().Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := h.coord.WaitReason(release.ErrExpired.Code)
	if p.Current != good {
		t.Errorf("status: %+v", p)
	}
	h.expectServing("good")
}

// TestClockStepsBack: an expired document does not come to life again.
func TestClockStepsBack(t *testing.T) {
	h := newHost(t)
	offset := newOffset()
	h.config.Now = offset.now
	h.start()
	h.confirmed(1, "good")
	h.crash()
	offset.add(-10 * 365 * 24 * time.Hour)
	h.start()
	if got := h.agent.now(); got.Before(h.fleet.Issued) {
		t.Errorf("the agent believes in %s", got)
	}
	// And it works on: documents and certificates are good at the floor.
	h.confirmed(2, "better")
}

// TestRootRotation: the host walks to a new root, and then refuses what the
// old keys sign.
func TestRootRotation(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	old := h.fleet.Release
	h.fleet.Root.Roles[release.RoleRelease] = release.RoleKeys{}
	h.fleet.Release = h.fleet.AddKey(release.RoleRelease)
	h.fleet.NextRoot()
	second := h.confirmed(2, "two")
	g, blob := h.generation(3, "evil", "")
	env, _ := h.fleet.Seal(g, old)
	h.coord.Publish(env, nil, blob)
	p := h.coord.WaitReason(release.ErrUnknownKey.Code)
	if p.Current != second {
		t.Errorf("status: %+v", p)
	}
	// The chain is on disk.
	h.crash()
	h.start()
	h.confirmed(4, "four")
}
