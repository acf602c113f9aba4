package hostile

import (
	"bytes"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// failed has generation 4 fail on the host, which goes back to 3.
func failed(h *host) {
	h.enrolled()
	h.older = h.good // What runs again.
	src, blob := h.fleet.Bundle(map[string]string{"activate": "#!/bin/sh\necho bad >> \"$FLEET_STATE/ran\"\nexit 1\n"})
	bad := h.make(4, "bad", func(g *fleet.Generation) { g.Source = src })
	bad.blobs = [][]byte{blob}
	h.publish(bad)
	h.coord.WaitState(fleet.StateRolledBack, h.good.ref)
	h.good = bad
}

// retried is failed, and tried once more by a signed document.
func retried(h *host) {
	failed(h)
	h.coord.Loosen(h.fleet.SealRetry(h.good.ref.Digest))
	h.coord.Wait("a second attempt", func() bool {
		n := 0
		for _, t := range h.coord.Transitions() {
			if t.State == fleet.StateRolledBack && t.Ref == h.good.ref {
				n++
			}
		}
		return n == 2
	})
	h.coord.WaitState(fleet.StateRolledBack, h.older.ref)
}

// loosenings are attacks with documents that make a host refuse less.
func loosenings() []attack {
	row := func(name, source string, refusal fleet.ReasonCode, change func(*fleet.Loosening), key func(*host) release.Signer) attack {
		return attack{
			name: name, source: source, refusal: refusal, before: failed,
			lie: func(h *host) {
				l := fleet.Loosening{
					Type: fleet.TypeLoosening, Fleet: "test", Machine: "pyrite", Profile: fleet.System, Action: fleet.LoosenRetry,
					Digest: h.good.ref.Digest, Issued: h.fleet.Issued, Expires: h.fleet.Issued.Add(time.Hour),
				}
				change(&l)
				env, _, err := release.Seal(fleet.TypeLoosening, l, key(h))
				check(h.t, err)
				h.coord.Loosen(env)
			},
		}
	}
	as := func(*fleet.Loosening) {}
	return []attack{
		row("a retry that a stranger signed", ownLoosening, release.ErrUnknownKey.Code, as, stranger),
		row("a retry that the secrets role signed", tufKeys, release.ErrUnknownKey.Code, as, secretsKey),
		row("another machine's retry", ownLoosening, release.ErrWrongMachine.Code, func(l *fleet.Loosening) { l.Machine = "galena" }, releaseKey),
		row("another fleet's retry", ownLoosening, release.ErrWrongFleet.Code, func(l *fleet.Loosening) { l.Fleet = "other" }, releaseKey),
		row("a retry that has expired", ownLoosening, release.ErrExpired.Code, func(l *fleet.Loosening) {
			l.Issued, l.Expires = l.Issued.Add(-time.Hour), l.Issued.Add(-time.Minute)
		}, releaseKey),
		row("a loosening of an unknown kind", ownLoosening, release.ErrMalformed.Code, func(l *fleet.Loosening) { l.Action = "obey" }, releaseKey),
		row("a loosening with an unknown critical field", ownLoosening, release.ErrCritical.Code, func(l *fleet.Loosening) { l.Critical = []string{"until"} }, releaseKey),
		{
			name: "a retry that was used before", source: ownLoosening + " (replay)", ignored: "works once", before: retried,
			lie: func(h *host) { h.coord.Loosen(h.fleet.SealRetry(h.good.ref.Digest)) }, seen: asksAgain,
		},
		{
			name: "a flood of loosenings", source: tufEndless, refusal: fleet.ReasonRefused, before: failed,
			lie: func(h *host) { h.coord.Loosen(bytes.Split(bytes.Repeat([]byte("x"), 1_000), nil)...) },
		},
		{
			name: "a generation offered as a loosening", source: ownSigned, refusal: release.ErrMalformed.Code, before: failed,
			lie: func(h *host) { h.coord.Loosen(h.good.envelope) },
		},
	}
}
