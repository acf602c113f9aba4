package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// reportPause gathers what changes within one breath into one report.
const reportPause = 20 * time.Millisecond

// reportLoop reports whenever something changed, until all is acknowledged.
// While the coordinator is away it waits for the stream to come back: the
// journal holds what is to be said.
func (a *Agent) reportLoop(ctx context.Context, b *bound) error {
	failed := 0
	l := a.progress.Loop("reports", "beginning", oneCall)
	defer l.Ends()
	for {
		l.Waits()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.link.report:
		}
		if err := sleep(ctx, reportPause); err != nil {
			return err
		}
		l.Does("reporting", oneCall)
		more, err := a.report(ctx, b, b.client.Report)
		switch {
		case err == nil && more:
			failed = 0
			a.link.wantReport()
		case err == nil:
			failed = 0
		case errors.Is(err, journal.ErrBroken), errors.Is(err, journal.ErrClosed):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			a.config.Log.Warn("reporting failed", "error", err)
			a.link.note(troubleReport, sync.ReasonOf(err))
			if !a.link.isUp() {
				continue // the next stream's hello asks for a report
			}
			wait := grow(a.config.Retry, failed)
			failed++
			if err := rests(ctx, l, spread(wait), nil); err != nil {
				return err
			}
			a.link.wantReport()
		}
	}
}

// errAckNotKept says that the coordinator answered, and that this host could
// not write it down.
var errAckNotKept = errors.New("recording acknowledgement")

type deliver func(context.Context, sync.Report) (sync.Ack, error)

// report makes, signs and delivers one report. more says that there is more to
// say at once: further transitions, or documents that the coordinator asks for.
func (a *Agent) report(ctx context.Context, b *bound, send deliver) (more bool, err error) {
	before := a.journal.State().Acked // Others report too, and their answers may come first.
	envelope, last, err := a.seal(b)
	if err != nil {
		return false, err
	}
	crashpoint.Hit(crashpoint.ReportSigned)
	r := sync.Report{Envelope: envelope, Accepted: a.asked(b, a.link.unknown())}
	ack, err := send(ctx, r)
	if refused := (*sync.RefusedError)(nil); errors.As(err, &refused) && refused.Reason.Code == refusal.HostKeysWanted {
		if err := a.attachKeys(&r); err != nil {
			return false, err
		}
		ack, err = send(ctx, r)
	}
	if err != nil {
		return false, err
	}
	crashpoint.Hit(crashpoint.ReportAcknowledged)
	a.link.answered(a.config.Now())
	a.link.note(troubleReport, fleet.Reason{})
	st := a.journal.State()
	if ack.Seq < before {
		a.noteOlder(fmt.Sprintf("it acknowledged transition %d of this host once and knows of %d now", before, ack.Seq))
	}
	if len(r.Accepted) > 0 {
		// What it lacked it can offer from now on.
		a.link.wantRefresh()
	}
	// What was journalled meanwhile was not sent yet, whatever the answer says.
	if seq := min(ack.Seq, last); seq > st.Acked {
		if err := a.journal.Append(journal.Record{Kind: journal.KindAck, Acked: seq}); err != nil {
			return false, fmt.Errorf("%w: %w", errAckNotKept, err)
		}
		a.wakeAll()
	}
	a.link.remember(ack.Unknown)
	// Whoever acknowledges less than it was sent does not get it in a loop, nor
	// who asks for what is not here.
	rest := a.journal.Pending(1)
	more = len(rest) > 0 && ack.Seq >= last && last > 0 || len(r.Accepted) == 0 && len(a.asked(b, ack.Unknown)) > 0
	return more, nil
}

// attachKeys adds the host's public keys for a coordinator that lost its store.
func (a *Agent) attachKeys(r *sync.Report) error {
	id, err := a.identity.Binding()
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	r.HostKeysMAC = id.HostKeysMAC
	r.HostKeys, err = a.identity.HostKeys(id.Machine)
	return err //nolint:wrapcheck // It says what failed.
}

// seal makes the report, with as many transitions as fit.
func (a *Agent) seal(b *bound) (envelope []byte, last uint64, err error) {
	status := a.snapshot()
	r := fleet.Report{
		Fleet: b.fleet, Machine: b.machine, InstanceID: a.identity.InstanceID(), BootID: a.bootID,
		AgentVersion: a.config.Version, Time: a.now().UTC(), Mode: status.Mode, Paused: status.Paused,
		Acked: a.journal.State().Acked, LogHeads: a.logHeads.of(b.fleet),
	}
	for _, p := range status.Profiles {
		r.Profiles = append(r.Profiles, p.ProfileStatus)
	}
	for limit := fleet.MaxTransitions; ; limit /= 2 {
		r.Transitions = nil
		if limit > 0 {
			r.Transitions = a.journal.Pending(limit)
		}
		envelope, err = release.SealReport(r, a.identity.ReportSigner())
		if err != nil && !errors.Is(err, release.ErrTooLarge) {
			return nil, 0, fmt.Errorf("signing report: %w", err)
		}
		if err == nil && len(envelope) <= fleet.MaxReportBytes {
			break
		}
		if limit == 0 {
			return nil, 0, fmt.Errorf("signing report: %w", release.ErrTooLarge)
		}
	}
	if n := len(r.Transitions); n > 0 {
		last = r.Transitions[n-1].Seq
	}
	return envelope, last, nil
}

// asked returns the documents that the coordinator said it lacks.
func (a *Agent) asked(b *bound, lacks []fleet.Digest) []desired.Document {
	var docs []desired.Document
	for _, d := range lacks {
		doc, err := b.desired.Document(d)
		if err != nil {
			a.config.Log.Debug("the coordinator asks for a document that is not here", "digest", string(d), "error", err)
			continue
		}
		docs = append(docs, doc)
	}
	return docs
}
