package coordinator_test

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/disktest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// TestDiskFull lets the disk of the whole state directory be full at every write
// of a publish and of a report, by bytes and by inodes, and everywhere by a limit
// on the size of files.
func TestDiskFull(t *testing.T) {
	disktest.Each(t, func(t *testing.T, kind disktest.Kind) {
		w := newWorld(t)
		w.stop()
		w.state = filepath.Join(t.TempDir(), "state")
		disk := disktest.New(t, kind, w.state)
		w.start()
		t.Cleanup(func() { w.stop() }) // before the disk goes
		a := w.enrolled("galena")
		ref := w.publish("r1", "", 1, galena)["galena"]
		steps(t, w, a, ref, kind != disktest.Inodes, func(step int) {
			if kind == disktest.Inodes || step < 0 {
				disk.Leave(step)
				return
			}
			// Fine steps while little is free, then coarser ones.
			unit := 1
			if kind == disktest.Limit {
				unit = 8
			}
			disk.Leave(unit * step * (1 + step/24))
		})
	})
}

// attempt publishes one generation, and says whether it was acknowledged.
func (w *world) attempt(number uint64, expected fleet.ReleaseID) (id fleet.ReleaseID, ref fleet.Ref, err error) {
	w.t.Helper()
	op := w.operator("dana")
	id = fleet.ReleaseID("r" + strconv.FormatUint(number, 10))
	data, src := content(string(id))
	if err := w.upload(op, data, src); err != nil {
		return id, ref, fmt.Errorf("uploading: %w", err)
	}
	g, ref := w.generation("galena", number, id, src)
	if _, err := w.stage(op, id, &fleetv1.SignedGeneration{Generation: g}); err != nil {
		return id, ref, fmt.Errorf("staging: %w", err)
	}
	_, err = op.Commit(w.t.Context(), &fleetv1.CommitRequest{Release: string(id), Count: 1, ExpectedHead: string(expected)})
	if err != nil {
		return id, ref, fmt.Errorf("committing: %w", err)
	}
	return id, ref, nil
}

// steps tries to publish with more and more room, until it works, and checks
// after each attempt that nothing half is taken for whole, that what was there
// is there, and that reading goes on.
// Where both is set, what is uploaded has room every second time, so that the
// store meets the full disk too.
func steps(t *testing.T, w *world, a *agent, ref fleet.Ref, both bool, room func(step int)) {
	refusals := map[string]int{}
	head, number := fleet.ReleaseID("r1"), uint64(2)
	done := 0
	for step := 0; done < 3; step++ {
		if both && step%2 == 1 {
			room(-1)
			data, src := content("r" + strconv.FormatUint(number, 10))
			check(t, w.upload(w.operator("dana"), data, src))
		}
		room(step)
		id, next, err := w.attempt(number, head)
		if err == nil {
			head, ref = id, next
			number++
			done++
		} else {
			r, ok := refusal.Of(err)
			if !ok || r.Code != refusal.DiskFull || status.Code(err) != codes.ResourceExhausted || !strings.Contains(r.Hint, "make room") {
				t.Errorf("step %d: %v (%+v)", step, err, r)
			}
			what, _, _ := strings.Cut(err.Error(), ":")
			refusals[what]++
		}
		if got := a.newest(); got != ref.Digest {
			t.Fatalf("step %d: %s is desired, %s was acknowledged", step, got.Short(), ref.Digest.Short())
		}
		// A report that can't be written is refused by name, never acknowledged.
		before := a.seq
		var long []fleet.Transition
		for range 30 {
			tr := a.transition(fleet.StateHeld, ref)
			tr.Reason = fleet.Reason{Code: fleet.ReasonPaused, Message: strings.Repeat("x", 1500)}
			long = append(long, tr)
		}
		resp, err := a.host.Report(t.Context(), &fleetv1.ReportRequest{Report: a.sealReport(fleet.ProfileStatus{State: fleet.StateHeld, Highest: ref}, long...)})
		switch {
		case err == nil && resp.GetAckedSeq() != a.seq:
			t.Errorf("step %d: acknowledged %d of %d", step, resp.GetAckedSeq(), a.seq)
		case err != nil:
			a.seq = before // It is said again.
			if r, _ := refusal.Of(err); r.Code != refusal.DiskFull {
				t.Errorf("step %d: reporting: %v", step, err)
			}
			refusals["reporting"]++
		}
		w.events("")
	}
	// Without a restart all is well again; and a restart finds the same.
	_, src := content(string(head))
	for range 2 {
		if got := a.newest(); got != ref.Digest {
			t.Errorf("%s is desired, %s was acknowledged", got.Short(), ref.Digest.Short())
		}
		if _, err := a.fetch(src, 0); err != nil {
			t.Error(err)
		}
		w.status("galena")
		room(-1)
		w.stop()
		w.start()
		a.use(a.cert.Certificate[0])
	}
	events := w.events("galena")
	if n, _ := count(events, "transition"); n != int(a.seq) { //nolint:gosec // Small.
		t.Errorf("%d transitions on record, %d were acknowledged", n, a.seq)
	}
	total := 0
	for _, n := range refusals {
		total += n
	}
	if total == 0 {
		t.Error("the disk was never full: the test shows nothing")
	}
	t.Logf("%d steps %s: %v", total, disktest.Said, refusals)
}
