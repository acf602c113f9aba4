package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// maxJoinFileBytes bounds a file with a join string.
const maxJoinFileBytes = 16 << 10

// enrol returns when the host has an identity. It tries again as long as it
// takes: a coordinator may be absent for days, and a person may put another
// join string into the file.
func (a *Agent) enrol(ctx context.Context) error {
	if a.bound.Load() != nil {
		return nil
	}
	l := a.progress.Loop("enrolment", "beginning", oneCall)
	defer l.Ends()
	for attempt := 0; ; attempt++ {
		l.Does("enrolling", oneCall)
		err := a.enrolOnce(ctx, attempt)
		if err == nil {
			a.link.up(a.config.Now())
			a.config.Log.Info("enrolled")
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		a.link.down(a.enrolReason(err))
		a.config.Log.Warn("enrolling failed", "error", err)
		wait := grow(a.config.Retry, attempt)
		if r := (*sync.RefusedError)(nil); errors.As(err, &r) {
			wait = a.config.Retry.Slow
		}
		if err := rests(ctx, l, spread(wait), nil); err != nil {
			return err
		}
	}
}

func (a *Agent) enrolReason(err error) fleet.Reason {
	refused := (*release.Refusal)(nil)
	switch {
	case errors.As(err, &refused):
		return release.ReasonOf(err)
	case errors.Is(err, identity.ErrNotEnrolled):
		return fleet.Reason{Code: "not-enrolled", Message: err.Error(), Hint: joinHint}
	case errors.Is(err, ErrOtherPin):
		return fleet.Reason{Code: "not-enrolled", Message: err.Error(), Hint: ui.HintOf(err)}
	}
	return a.identityReason(err)
}

// identityReason explains why there is no new certificate.
func (a *Agent) identityReason(err error) fleet.Reason {
	if full, is := a.fullDisk(err); is {
		return full
	}
	r := sync.ReasonOf(err)
	if errors.Is(err, identity.ErrCertificate) {
		r.Code = fleet.ReasonIdentity
		r.Hint = "the coordinator is broken or taken over: look at it; this host keeps the identity that it has"
	}
	return r
}

// Enrol enrols once, for an agent that is not Run. A host that is enrolled is
// enrolled again only by another join string than last time.
func (a *Agent) Enrol(ctx context.Context) error {
	if a.bound.Load() != nil {
		j, err := a.joinString()
		if errors.Is(err, errNoJoin) {
			return nil // A unit names its join file for ever.
		}
		if err != nil {
			return err
		}
		if same, err := a.identity.EnrolledWith(j); same || err != nil {
			return err //nolint:wrapcheck // It says what failed.
		}
	}
	return a.hinted(a.enrolOnce(ctx, 0), "make room on this host's disk, then enrol again with the same join string")
}

// enrolOnce makes every step durable before the next, so that it can be
// repeated from the start after a crash between any two.
func (a *Agent) enrolOnce(ctx context.Context, attempt int) error {
	j, err := a.joinString()
	if err != nil {
		return err
	}
	// Before it is recorded: what is refused is no earlier attempt.
	if err := a.config.Pins.check(j); err != nil {
		return err
	}
	if err := a.identity.SetJoin(j); err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	csr, err := a.identity.CSR()
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	keys, err := a.identity.HostKeys(j.Machine)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	got, err := sync.Enrol(ctx, sync.Enrolment{
		Join: j, CSR: csr, HostKeys: keys, InstanceID: a.identity.InstanceID(), Attempt: attempt,
	}, a.config.Coordinator, func() time.Time {
		// No right clock is before the join string was made. For good that counts once
		// it has worked.
		if now := a.now(); now.After(j.Issued) {
			return now
		}
		return j.Issued
	})
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	crashpoint.Hit(crashpoint.EnrolAnswered)
	id, err := a.identity.Binding()
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	dir := filepath.Join(a.config.StateDir, desiredDir)
	store, err := desired.Open(dir, id.Root, 0)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	if err := store.AddRoots(got.Roots); err != nil {
		return fmt.Errorf("enrolling: %w", err)
	}
	a.rooted.Store(store)
	crashpoint.Hit(crashpoint.EnrolRootsKept)
	if err := a.identity.Install(got.Certificate, got.CAs); err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	crashpoint.Hit(crashpoint.EnrolDone)
	return a.bind()
}

// errNoJoin says that nothing was found to enrol with; it is ErrNotEnrolled too.
var errNoJoin = fmt.Errorf("%w, and there is no join string", identity.ErrNotEnrolled)

// joinString finds what to enrol with: what is configured, else what an
// earlier attempt left, and says so.
func (a *Agent) joinString() (pki.Join, error) {
	text, missing := a.config.Join, "none was given"
	if text == "" && a.config.JoinFile != "" {
		var err error
		if text, missing, err = readJoinFile(a.config.JoinFile); err != nil {
			return pki.Join{}, err
		}
	}
	if text != "" {
		return pki.ParseJoin(text) //nolint:wrapcheck // It says what failed.
	}
	j, ok, err := a.identity.PendingJoin()
	if err != nil {
		return pki.Join{}, err //nolint:wrapcheck // It says what failed.
	}
	if !ok {
		return pki.Join{}, ui.WithHint(fmt.Errorf("%w: %s", errNoJoin, missing), joinHint)
	}
	a.config.Log.Info("going on with the join string of an earlier attempt", "because", missing,
		"machine", string(j.Machine), "fleet", string(j.Fleet))
	return j, nil
}

const joinHint = "make a join string with fleetctl token, and give it to fleet-agent enrol - on standard input, or in the file of --join-file"

// readJoinFile returns the join string in a file; where there is none, missing
// says why: a person may still be about to put it there.
func readJoinFile(path string) (text, missing string, err error) {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", "the join file " + path + " does not exist", nil
	case err != nil:
		return "", "", fmt.Errorf("reading join string: %w", err)
	case fi.Size() > maxJoinFileBytes:
		return "", "", fmt.Errorf("reading join string: %s has %d bytes, at most %d", path, fi.Size(), maxJoinFileBytes)
	}
	b, err := atomicfile.ReadAtMost(path, maxJoinFileBytes) // a device has no size
	if err != nil {
		return "", "", fmt.Errorf("reading join string: %w", err)
	}
	if text = strings.TrimSpace(string(b)); text == "" {
		missing = "the join file " + path + " is empty"
	}
	return text, missing, nil
}

// renewPause is the least time between two renewals.
const renewPause = time.Hour

// renewLoop state: see tick.
type renewal struct {
	jitter  float64
	failed  int
	retryAt time.Time // monotonic
}

// renewIfDue renews the host identity when half its life is over. A key that
// the coordinator knows may renew for a while after the end, too.
func (a *Agent) renewIfDue(ctx context.Context, b *bound, r *renewal) {
	a.renewing.Lock()
	defer a.renewing.Unlock()
	now := a.now()
	if now.Before(a.identity.RenewAt(r.jitter)) {
		r.failed = 0
		return
	}
	// One of a CA that was dropped meanwhile is no renewal by a wrong clock.
	if awake().Before(r.retryAt) && (r.failed > 0 || !a.identity.Abandoned()) {
		return
	}
	err := a.renew(ctx, b)
	if ctx.Err() == nil {
		a.link.note(troubleIdentity, a.identityReason(err))
	}
	if err == nil {
		// Not at once again where this host's clock is ahead.
		r.failed, r.retryAt = 0, awake().Add(renewPause)
		a.config.Log.Info("renewed host identity")
		return
	}
	if ctx.Err() != nil {
		return
	}
	wait := grow(a.config.Retry, r.failed)
	r.failed++
	r.retryAt = awake().Add(spread(wait))
	a.config.Log.Warn("renewing host identity failed", "error", err)
}

func (a *Agent) renew(ctx context.Context, b *bound) error {
	csr, err := a.identity.CSR()
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	got, err := b.client.Renew(ctx, csr)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	if err := a.identity.Install(got.Certificate, got.CAs); err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	// Streams opened with the old certificate end with it.
	b.client.Reset()
	a.link.nudge()
	return nil
}
