package hostile

import (
	"bytes"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// transfers are attacks with what generations name by digest. The generation is
// good, and accepted; it must not run for lack of what was signed.
func transfers() []attack {
	fetch := func(name, source string, lie agenttest.Lie) attack {
		return attack{
			name: name, source: source, refusal: fleet.ReasonFetchFailed, accepts: true,
			lie: func(h *host) {
				h.coord.Lie(lie)
				h.publish(h.make(h.good.ref.Number.Seq+1, "evil"))
			},
		}
	}
	blob := func(name, source string, change func([]byte) []byte) attack {
		a := fetch(name, source, agenttest.Lie{})
		a.lie = func(h *host) {
			r := h.make(h.good.ref.Number.Seq+1, "evil")
			h.coord.SetBlob(fleet.DigestOf(r.blobs[0]), change(bytes.Clone(r.blobs[0])))
			r.blobs = nil
			h.publish(r)
		}
		return a
	}
	return []attack{
		blob("a bundle with other content", tufArbitrary, func(b []byte) []byte {
			return bytes.Replace(b, []byte("#!/bin/sh"), []byte("#!/bin/rm"), 1)
		}),
		blob("a bundle that ends early", uptanePart, func(b []byte) []byte { return b[:len(b)-1] }),
		blob("a bundle with one more byte", tufEndless, func(b []byte) []byte { return append(b, 0) }),
		blob("an empty bundle", uptanePart, func([]byte) []byte { return nil }),
		blob("a bundle of 64 megabytes in the place of one", tufEndless, func(b []byte) []byte {
			return append(b, bytes.Repeat([]byte("x"), 64<<20)...)
		}),
		fetch("a bundle without end", tufEndless, pieces(64<<10, 0)),
		fetch("pieces larger than a piece may be", tufEndless, pieces(5<<20, 0)),
		fetch("empty pieces without end", tufEndless, pieces(0, 0)),
		fetch("a byte now and then", tufSlow, pieces(1, 20*time.Millisecond)),
		fetch("a bundle that never begins", tufSlow, streaming("GetBlob", func(s serverStream) error { return wait(s, -1) })),
		fetch("no bundle, by a refusal", uptaneDrop, failing("GetBlob", refused(codes.NotFound, "no such blob"))),
		fetch("no bundle, by a long refusal", uptaneDrop, failing("GetBlob", refused(codes.PermissionDenied, strings.Repeat("\x1b[2J", 5_000)))),
		fetch("no bundle, by a broken stream", uptaneDrop, failing("GetBlob", refused(codes.Internal, "broken"))),
	}
}
