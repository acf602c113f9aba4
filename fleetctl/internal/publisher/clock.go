package publisher

import (
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const (
	// clockSlack is how far two good clocks may differ.
	clockSlack = 5 * time.Minute
	// aheadSlack is how far this clock may be ahead of the coordinator's. It is
	// below the hour beyond which the coordinator refuses documents, so that
	// what passes here passes there.
	aheadSlack = 30 * time.Minute
)

// checkClock refuses to sign with a clock that is behind the trust root: what
// it signs could be expired on the hosts.
func (p *Publisher) checkClock(t *release.Trust) error {
	now := p.Now()
	if err := t.CheckFresh(now); err != nil {
		return ui.WithHint(err, `make its next version (fleetctl trust renew), or check this machine's clock`)
	}
	if issued := t.Root().Issued; now.Before(issued.Add(-clockSlack)) {
		return ui.WithHint(fmt.Errorf("%w: it says %s, the trust root was signed on %s", ErrClock, now.Format(time.RFC3339), issued.Format(time.RFC3339)), "set the clock")
	}
	if left := t.Root().Expires.Sub(now); left < 30*24*time.Hour {
		p.Reporter.Warn(fmt.Sprintf("the trust root expires in %d days: fleetctl trust renew", int(left.Hours()/24)))
	}
	return nil
}

// checkAhead refuses to sign with a clock that is far ahead of the
// coordinator's, which would refuse what is signed: by then a release with its
// numbers would be in the repository. A coordinator that does not say what time
// it is is believed to agree. now is from before it was asked, so that a slow
// answer does not count as a difference.
func checkAhead(now, coordinator time.Time) error {
	if coordinator.IsZero() || !now.After(coordinator.Add(aheadSlack)) {
		return nil
	}
	return ui.WithHint(fmt.Errorf("%w: it says %s, the coordinator's %s; nothing was signed",
		ErrClockAhead, now.UTC().Format(time.RFC3339), coordinator.UTC().Format(time.RFC3339)),
		"set the clock of the one that is wrong, then try again")
}

// signedAt is when the newest document that hosts could see was signed, and of
// which release it is.
type signedAt struct {
	time    time.Time
	release fleet.ReleaseID
}

func (s *signedAt) note(t time.Time, id fleet.ReleaseID) {
	if t.After(s.time) {
		s.time, s.release = t, id
	}
}

// checkBehind refuses to sign with a clock that is behind what hosts could see:
// to them it would look as old as that. What they never saw does not count,
// because a clock that was ahead once must not end all publishing.
func (s *signedAt) checkBehind(now time.Time) error {
	if !now.Before(s.time.Add(-clockSlack)) {
		return nil
	}
	return ui.WithHint(fmt.Errorf("%w: it says %s, release %s was signed on %s",
		ErrClock, now.UTC().Format(time.RFC3339), s.release, s.time.UTC().Format(time.RFC3339)),
		"set the clock; if it is right, wait until then: hosts have seen that release, and no clock of theirs goes back behind it")
}
