package hostile

import (
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// answers are attacks with the answers to calls.
func answers() []attack {
	answer := func(name, source string, code fleet.ReasonCode, lie agenttest.Lie) attack {
		return attack{name: name, source: source, refusal: code, lie: func(h *host) {
			h.coord.Lie(lie)
			h.poke()
			h.coord.Hint(fleetv1.WakeReason_WAKE_REASON_REPORT)
		}}
	}
	many := func(n int) []*fleetv1.DesiredProfile {
		return slices.Repeat([]*fleetv1.DesiredProfile{{Profile: string(fleet.System)}}, n)
	}
	return []attack{
		answer("more profiles than a host may have", tufEndless, fleet.ReasonRefused, desired(func(m *response) { m.Profiles = many(fleet.MaxProfiles + 1) })),
		answer("a million profiles", tufEndless, fleet.ReasonRefused, desired(func(m *response) { m.Profiles = many(1_000_000) })),
		answer("a profile whose name is a path", tufWrong, fleet.ReasonRefused, desired(func(m *response) {
			m.Profiles = []*fleetv1.DesiredProfile{{Profile: "home/../../etc"}}
		})),
		answer("an answer of 20 megabytes", tufEndless, fleet.ReasonRefused, desired(func(m *response) { m.Roots = [][]byte{make([]byte, 20<<20)} })),
		answer("an answer of 15 megabytes that nobody knows", tufEndless, "", desired(func(m *response) {
			m.ProtoReflect().SetUnknown(unknownField(15 << 20))
		})).ignoring("read, and dropped", 64<<20),
		answer("a refusal of the question", uptaneDrop, refusal.NotAllowed, failing("GetDesired", refusal.New(codes.PermissionDenied, fleet.Reason{
			Code: refusal.NotAllowed, Message: "no", Hint: "ask",
		}))),
		answer("a refusal that writes to the terminal", uptaneDrop, refusal.NotAllowed, failing("GetDesired", refusal.New(codes.PermissionDenied, fleet.Reason{
			Code: refusal.NotAllowed, Message: "\x1b[2J\x1b]0;gotcha\a", Hint: "\r\x1b[1A",
		}))).holding(func(h *host) {
			h.await("plain text", func(st control.Status) bool {
				return st.Coordinator.Code == refusal.NotAllowed && !strings.ContainsAny(st.Coordinator.Message+st.Coordinator.Hint, "\x1b\r\a")
			})
		}),
		answer("headers of a megabyte", tufEndless, fleet.ReasonUnreachable, failing("GetDesired", refused(codes.Aborted, rand.Text()+strings.Repeat("x", 1<<20)))),
		answer("answers that never come", uptaneDrop, fleet.ReasonUnreachable, agenttest.Lie{}).slow(),
		answer("all is acknowledged, whatever was sent", ownReports, "", changed(func(m *fleetv1.ReportResponse) { m.AckedSeq = 1<<64 - 1 })).
			ignoring("counts for what was sent", 0).holding(nothingLost),
		answer("nothing is acknowledged", ownReports, fleet.ReasonAwaitingAck, changed(func(m *fleetv1.ReportResponse) { m.AckedSeq = 0 })).
			with(unacknowledged, func(*host) {}),
		answer("questions for documents that are not here", ownReports, "", changed(func(m *fleetv1.ReportResponse) {
			m.UnknownGenerations = slices.Repeat([]string{string(fleet.DigestOf([]byte("x")))}, 100)
		})).ignoring("told so, without a storm of reports", 0).holding(calm("Report", fleetv1.WakeReason_WAKE_REASON_REPORT)),
		answer("a flood of questions for documents", tufEndless, fleet.ReasonRefused, changed(func(m *fleetv1.ReportResponse) {
			m.UnknownGenerations = make([]string, 1_000_000)
		})),
		answer("acknowledgements of 3 megabytes", tufEndless, "", changed(func(m *fleetv1.ReportResponse) {
			m.UnknownGenerations = []string{strings.Repeat("x", 3<<20)}
		})).ignoring("read, and dropped", 0),
		answer("reports that are refused", ownReports, refusal.Malformed, failing("Report", refusal.New(codes.InvalidArgument, fleet.Reason{
			Code: refusal.Malformed, Message: "no", Hint: "none",
		}))),
	}
}

// ignoring is a row that leaves nothing to refuse.
func (a attack) ignoring(how string, heap int64) attack {
	a.ignored, a.seen, a.heap = how, asksAgain, heap
	return a
}

func (a attack) holding(check func(*host)) attack {
	a.held = check
	return a
}

func (a attack) with(before, lie func(*host)) attack {
	a.before, a.lie = before, lie
	return a
}

// slow has every call of the host wait for ever; it gives each up in its time.
func (a attack) slow() attack {
	a.lie = func(h *host) {
		for _, m := range []string{"GetDesired", "Report", "Watch", "GetBlob"} {
			h.releases = append(h.releases, h.coord.Hold(m))
		}
		h.coord.Stop()
		h.coord.Start()
	}
	a.truth = func(h *host) {
		for _, r := range h.releases {
			r()
		}
	}
	return a
}

// nothingLost: what the host has to say, it says, though it is told that all is
// known.
func nothingLost(h *host) {
	h.t.Helper()
	h.coord.Wait("all transitions", func() bool {
		st, _ := h.journal()
		all := h.coord.Transitions()
		return st.Outbox() == 0 && uint64(len(all)) == st.Transitions
	})
}

// unacknowledged has the host run what is never acknowledged.
func unacknowledged(h *host) {
	h.start()
	h.coord.Lie(changed(func(m *fleetv1.ReportResponse) { m.AckedSeq = 0 }))
	h.good = h.make(3, "good")
	h.publish(h.good)
	h.coord.WaitState(fleet.StateVerified, h.good.ref)
}

// calm checks that a coordinator's wish does not become a storm of calls.
func calm(method string, hint fleetv1.WakeReason) func(*host) {
	return func(h *host) {
		h.t.Helper()
		before := h.coord.Calls(method)
		h.coord.Hint(hint)
		h.coord.Wait("an answer", func() bool { return h.coord.Calls(method) > before })
		begin := time.Now()
		asksAgain(h)
		most := 20 + int(time.Since(begin)/(50*time.Millisecond))
		if n := h.coord.Calls(method) - before; n > most {
			h.t.Errorf("%d calls of %s, at most %d", n, method, most)
		}
	}
}
