package agent

import (
	"errors"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// loosenAll carries out the loosenings of one answer. Those that are refused
// are passed over, and said in one line: how many there are is the coordinator's
// choice, and must not fill a host's log.
func (a *Agent) loosenAll(b *bound, envelopes [][]byte) error {
	var first error
	refused := 0
	for _, envelope := range envelopes {
		refusal, err := a.loosen(b, envelope)
		if err != nil {
			return err
		}
		if refusal == nil {
			continue
		}
		if refused++; first == nil {
			first = refusal
		}
	}
	a.link.note(troubleLoosening, release.ReasonOf(first))
	if first != nil {
		a.config.Log.Warn("loosenings refused", "count", refused,
			"reason", string(release.ReasonOf(first).Code), "first", first)
	}
	return nil
}

// loosen carries out a signed loosening, once. Why it is not admitted is no
// error of this host's.
func (a *Agent) loosen(b *bound, envelope []byte) (refusal, err error) {
	t := b.desired.Trust()
	if t == nil {
		return nil, nil
	}
	l, err := t.OpenLoosening(envelope)
	if err != nil {
		return err, nil
	}
	st := a.journal.State()
	if st.Used(l.Digest) {
		return nil, nil
	}
	if err := t.AdmitLoosening(b.host(l.Doc.Profile, fleet.Ref{}), l, a.now()); err != nil {
		return err, nil
	}
	rec := journal.Record{Profile: l.Doc.Profile, Loosening: l.Digest, Expires: l.Doc.Expires}
	switch l.Doc.Action {
	case fleet.LoosenRetry:
		rec.Kind, rec.Digest = journal.KindForgiven, l.Doc.Digest
		rec.Reason = fleet.Reason{Code: fleet.ReasonNewGeneration, Message: "a signed document has it tried again"}
	case fleet.LoosenFreshness:
		rec.Kind = journal.KindLoosened
		rec.Reason = fleet.Reason{
			Code:    fleet.ReasonStale,
			Message: "a signed document lets activations start without a fresh statement until " + l.Doc.Expires.UTC().Format(time.DateTime),
		}
	default:
		return nil, nil
	}
	err = a.journal.Append(rec)
	if errors.Is(err, journal.ErrRecord) || errors.Is(err, journal.ErrUsed) {
		a.config.Log.Warn("loosening does not apply", "error", err)
		return nil, nil
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // It says what failed.
	}
	a.worker(l.Doc.Profile).forgive()
	a.link.wantReport()
	return nil, nil
}
