package hostile

import (
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// threeReleases has the host run number 3, which allows a return to 2, which in
// its time allowed one to 1.
func threeReleases(h *host) {
	h.start()
	h.oldest = h.confirmed(h.make(1, "one"))
	h.older = h.confirmed(h.make(2, "two", func(g *fleet.Generation) { g.RevertTo = []fleet.Ref{h.oldest.ref} }))
	h.good = h.confirmed(h.make(3, "good", expires(24*time.Hour), func(g *fleet.Generation) { g.RevertTo = []fleet.Ref{h.older.ref} }))
}

// reverted has the host go back from 3 to 2.
func reverted(h *host) {
	threeReleases(h)
	h.coord.Revert(h.older.envelope, nil)
	h.coord.WaitState(fleet.StateConfirmed, h.older.ref)
}

// reverts are attacks with what a coordinator may do on its own: send a host
// back.
func reverts() []attack {
	back := func(name, source string, refusal fleet.ReasonCode, lie func(*host)) attack {
		return attack{name: name, source: source, refusal: refusal, before: threeReleases, lie: lie}
	}
	outside := release.ErrNotInRevertSet.Code
	return []attack{
		back("a way back outside the revert set", tufRollback, outside, func(h *host) { h.coord.Revert(h.oldest.envelope, nil) }),
		back("a way back by the revert set of an older document", tufRollback, release.ErrLowerNumber.Code, func(h *host) {
			h.publish(h.older)
			h.coord.Revert(h.oldest.envelope, nil)
		}),
		back("a way back to itself", tufRollback, outside, func(h *host) { h.coord.Revert(h.good.envelope, nil) }),
		back("a way back to another machine's generation", tufWrong, release.ErrWrongMachine.Code, func(h *host) {
			h.coord.Revert(h.make(2, "evil", func(g *fleet.Generation) { g.Machine = "galena" }).envelope, nil)
		}),
		back("a way back to another generation of a listed number", tufRollback, outside, func(h *host) {
			h.coord.Revert(h.make(2, "evil").envelope, nil)
		}),
		back("a way back that nobody signed", tufArbitrary, release.ErrUnknownKey.Code, func(h *host) {
			env, _ := h.fleet.Seal(h.older.doc, h.fleet.Stranger)
			h.coord.Revert(env, nil)
		}),
		back("a way forward as a way back", tufForward, outside, func(h *host) { h.coord.Revert(h.make(9, "evil").envelope, nil) }),
		back("a way back by a document that has expired", tufFreeze, release.ErrExpired.Code, func(h *host) {
			h.coord.Revert(h.older.envelope, nil)
			h.later(48 * time.Hour)
		}),
		{
			name: "a chain of ways back", source: tufRollback, refusal: outside, before: reverted,
			lie: func(h *host) { h.coord.Revert(h.oldest.envelope, nil) }, next: 4,
		},
		{
			name: "a chain of ways back by the older document", source: tufRollback, refusal: release.ErrLowerNumber.Code, before: reverted,
			lie: func(h *host) {
				h.publish(h.older)
				h.coord.Revert(h.oldest.envelope, nil)
			}, next: 4,
		},
		{
			name: "forth again after a way back", source: tufRollback, refusal: fleet.ReasonOperatorRefused, before: reverted,
			lie: func(h *host) { h.publish(h.good) }, next: 4,
		},
	}
}
