package hostile

import (
	"fmt"
	"reflect"
	"strconv"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// attack is one row.
type attack struct {
	name string
	// source is where the attack is listed.
	source string
	// before is what the fleet's own people did until then; default enrolled.
	before func(*host)
	// lie begins the attack. It goes on over the restart of the agent.
	lie func(*host)
	// refusal is the reason that the host then gives.
	refusal fleet.ReasonCode
	// ignored says what becomes of an attack that leaves nothing to refuse; seen
	// waits until it came.
	ignored string
	seen    func(*host)
	// accepts says that the host accepts what is signed for it, and does not run
	// it, because something else is missing.
	accepts bool
	// rooted says that the host takes a trust root that is properly signed.
	rooted bool
	// held checks more while the attack lasts, after the restart.
	held func(*host)
	// truth ends the attack where it takes more than the next release; its number
	// is next, default one above what runs.
	truth func(*host)
	next  uint64
	// disk and heap are how much more than usual the attack may take, in bytes.
	disk, heap int64
}

// What an attack may cost a host, in bytes. The heap's figure is the largest
// size that it ever had, with what the collector had not yet given back.
const (
	diskBound = 256 << 10
	heapBound = 48 << 20
)

// tables are all rows.
func tables() [][]attack {
	return [][]attack{documents(), mixtures(), encodings(), reverts(), roots(), transfers(), loosenings(), answers(), streams(), identities(), clocks(), statements(), pinned()}
}

// TestHostileCoordinator: whatever a coordinator does, the host goes on with
// what it runs, says by name what it refuses, before and after a restart, takes
// up no more room than a bound, and follows the honest coordinator that comes
// after.
func TestHostileCoordinator(t *testing.T) {
	seen := map[string]bool{}
	for _, table := range tables() {
		for _, a := range table {
			if seen[a.name] || a.source == "" || (a.refusal == "") == (a.ignored == "") {
				t.Fatalf("row %q is not whole, or there twice", a.name)
			}
			seen[a.name] = true
			t.Run(a.name, func(t *testing.T) {
				t.Parallel()
				a.run(t)
			})
		}
	}
}

func (a attack) run(t *testing.T) {
	t.Attr("side", "coordinator")
	t.Attr("attack", a.name)
	t.Attr("source", a.source)
	h := newHost(t)
	if a.before != nil {
		a.before(h)
	} else {
		h.enrolled()
	}
	h.settle()
	st, before := h.journal()
	ran, disk, sent := h.ran(), h.disk(), h.coord.Sent()
	heap := int64(h.heap())

	a.lie(h)
	a.wait(h)
	grown := int64(h.heap()) - heap
	h.restart()
	a.wait(h)
	if a.held != nil {
		a.held(h)
	}
	// A new process begins with a small heap.
	grown = max(grown, int64(h.heap())-heap, 0)

	now, after := h.journal()
	a.unchanged(t, st, now, before, after)
	if got := h.ran(); got != ran {
		t.Errorf("activations ran: %q, before %q", got, ran)
	}
	more := h.disk() - disk
	if most := diskBound + a.disk; more > most {
		t.Errorf("it took %d bytes of the disk, at most %d", more, most)
	}
	if most := heapBound + a.heap; grown > most {
		t.Errorf("it took %d bytes of memory, at most %d", grown, most)
	}
	t.Attr("sent", strconv.FormatUint((h.coord.Sent()-sent)>>10, 10))
	t.Attr("heap", strconv.FormatInt(grown>>10, 10))
	t.Attr("heap-bound", strconv.FormatInt((heapBound+a.heap)>>10, 10))
	t.Attr("disk", strconv.FormatInt(max(more, 0)>>10, 10))

	a.recover(h, after)
	answer := string(a.refusal)
	if answer == "" {
		answer = a.ignored
	}
	t.Attr("answer", answer)
}

// wait waits until the host has seen the attack, and says so.
func (a attack) wait(h *host) {
	h.t.Helper()
	if a.seen != nil {
		a.seen(h)
	}
	if a.refusal == "" {
		return
	}
	profile := false
	h.await("refusal "+string(a.refusal), func(st control.Status) bool {
		for _, p := range st.Profiles {
			profile = profile || p.Profile == fleet.System && p.Reason.Code == a.refusal
		}
		return says(st, a.refusal)
	})
	if profile && !h.coord.Lying() {
		// The coordinator hears of it, too.
		h.coord.WaitReason(a.refusal)
	}
}

// settle waits until all that the host has to say of the good release is said.
func (h *host) settle() {
	h.t.Helper()
	h.await("rest", func(st control.Status) bool {
		return st.Machine != "" && (h.good.ref.IsZero() || h.coord.Lying() || st.Outbox == 0)
	})
}

// unchanged compares what the journal says of the host.
func (a attack) unchanged(t *testing.T, st, now journal.State, before, after journal.ProfileState) {
	t.Helper()
	for _, c := range []struct {
		what      string
		then, now any
		may       bool
	}{
		{"what runs", before.Current, after.Current, false},
		{"last-good", before.LastGood, after.LastGood, false},
		{"the confirmed generation", before.Confirmed, after.Confirmed, false},
		{"the highest accepted generation", before.Highest, after.Highest, a.accepts},
		{"the revert set", before.RevertTo, after.RevertTo, a.accepts},
		{"what is refused", before.Refused, after.Refused, false},
		{"the history", before.History, after.History, false},
		{"an activation", before.Activation, after.Activation, false},
		{"the trust root", st.Root, now.Root, a.rooted},
		{"the mode", st.Mode, now.Mode, false},
		{"used loosenings", st.Loosened, now.Loosened, false},
	} {
		if !c.may && !reflect.DeepEqual(c.then, c.now) {
			t.Errorf("%s changed from %+v to %+v", c.what, c.then, c.now)
		}
	}
	if len(now.Profiles) > 1 {
		t.Errorf("the journal has %d profiles", len(now.Profiles))
	}
}

// recover has an honest coordinator bring the next release.
func (a attack) recover(h *host, p journal.ProfileState) {
	h.t.Helper()
	h.coord.Lie(agenttest.Lie{})
	h.coord.Loosen()
	if a.truth != nil {
		a.truth(h)
	}
	next := a.next
	if next == 0 {
		next = max(h.good.ref.Number.Seq, p.Highest.Number.Seq) + 1
	}
	ran := h.ran()
	r := h.confirmed(h.make(next, fmt.Sprintf("next-%d", next)))
	// What only lacked its content may run as soon as that is there.
	got, want := h.ran(), fmt.Sprintf("next-%d\n", next)
	if got != ran+want && (!a.accepts || got != ran+"evil\n"+want) {
		h.t.Errorf("activations ran: %q, after %q, want %q", got, ran, want)
	}
	if _, p := h.journal(); p.Confirmed != r.ref && p.Current.Ref != r.ref {
		h.t.Errorf("the host runs %+v", p.Current)
	}
}
