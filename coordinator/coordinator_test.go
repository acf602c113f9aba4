package coordinator_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// fetch reads a blob from an offset on.
func (a *agent) fetch(ref fleet.BlobRef, offset uint64) ([]byte, error) {
	s, err := a.host.GetBlob(a.w.t.Context(), &fleetv1.GetBlobRequest{Digest: string(ref.Digest), Offset: offset})
	if err != nil {
		return nil, err
	}
	var out []byte
	for {
		m, err := s.Recv()
		if err != nil {
			if err.Error() == "EOF" {
				return out, nil
			}
			return nil, err
		}
		out = append(out, m.GetData()...)
	}
}

func TestHappyPath(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	s := a.mustWatch(ctx)
	await(t, s, fleetv1.WakeReason_WAKE_REASON_REPORT)

	refs := w.publish("r1", "", 1, []fleet.MachineName{"galena"})
	await(t, s, fleetv1.WakeReason_WAKE_REASON_DESIRED)

	d, err := a.host.GetDesired(ctx, &fleetv1.GetDesiredRequest{})
	check(t, err)
	if len(d.GetRoots()) != 1 || len(d.GetProfiles()) != 1 {
		t.Fatalf("desired: %d roots, %d profiles", len(d.GetRoots()), len(d.GetProfiles()))
	}
	g, err := w.root.OpenGeneration(d.GetProfiles()[0].GetNewest().GetGeneration())
	check(t, err)
	if g.Digest != refs["galena"].Digest {
		t.Fatalf("desired is %s, want %s", g.Digest, refs["galena"].Digest)
	}
	want, src := content("r1")
	for _, offset := range []uint64{0, 1, src.Size - 1, src.Size} {
		got, err := a.fetch(src, offset)
		check(t, err)
		if !bytes.Equal(got, want[offset:]) {
			t.Errorf("blob from %d: %d bytes, want %d", offset, len(got), len(want[offset:]))
		}
	}

	resp := a.confirm(refs["galena"])
	if resp.GetAckedSeq() != 2 || len(resp.GetUnknownGenerations()) != 0 {
		t.Errorf("report: %v", resp)
	}
	h := w.status("galena")
	p := h.GetProfiles()[0]
	if !h.GetEnrolled() || !h.GetConnected() || h.GetMode() != "manage" || p.GetState() != "confirmed" ||
		p.GetDesired().GetDigest() != string(g.Digest) || p.GetConfirmed().GetDigest() != string(g.Digest) {
		t.Errorf("status: %v", h)
	}
	releases, err := w.operator("vic").ListReleases(ctx, &fleetv1.ListReleasesRequest{})
	check(t, err)
	if r := releases.GetReleases(); len(r) != 1 || r[0].GetConfirmed() != 1 || r[0].GetActor() != "operator/dana" {
		t.Errorf("releases: %v", r)
	}
	events := w.events("galena")
	for _, kind := range []string{"token-created", "host-enrolled"} {
		if n, _ := count(events, kind); n != 1 {
			t.Errorf("%d events %s, want 1", n, kind)
		}
	}
	if n, _ := count(events, "transition"); n != 2 {
		t.Errorf("%d transitions, want 2", n)
	}
}
