package agent

import (
	"bytes"
	"io"
	"log/slog"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// TestRefusedLoosenings: however many a coordinator hands out, one answer is
// one line of the log, and a good one among them works.
func TestRefusedLoosenings(t *testing.T) {
	h := newHost(t)
	var log testBuffer
	h.config.Log = slog.New(slog.NewTextHandler(io.MultiWriter(&log, &testLog{t: t}), nil))
	h.start()
	good := h.confirmed(1, "good")
	bad := h.publish(2, "bad", "exit 1")
	h.coord.WaitState(fleet.StateRolledBack, good)

	stranger := h.fleet.Release
	h.fleet.Release = h.fleet.Stranger
	forged := h.fleet.SealRetry(bad.Digest)
	h.fleet.Release = stranger
	envelopes := bytes.Split(bytes.Repeat([]byte("x"), 60), nil)
	envelopes = append(append([][]byte{forged}, envelopes...), h.fleet.SealRetry(bad.Digest))
	h.coord.Loosen(envelopes...)
	h.coord.Wait("a second attempt", func() bool { return count(h, fleet.StateActivating, bad) == 2 })
	h.coord.WaitState(fleet.StateRolledBack, good)
	waitStatus(t, h, func(r fleet.Reason) bool { return r.Code == release.ErrUnknownKey.Code })

	lines, answers := log.count("oosening"), h.coord.Calls("GetDesired")
	if lines == 0 || lines > answers {
		t.Errorf("%d lines about loosenings after %d answers", lines, answers)
	}
	if log.count("count=61") == 0 {
		t.Errorf("the log does not say how many were refused")
	}
}
