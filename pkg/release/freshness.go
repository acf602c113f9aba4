package release

import (
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// OpenFreshness verifies signatures, shape, fleet and critical fields of a
// freshness statement. For whom and when it is good is AdmitFreshness' to say.
func (t *Trust) OpenFreshness(envelope []byte) (*Signed[fleet.Freshness], error) {
	return open(t, envelope, fleet.TypeFreshness, RoleFreshness,
		func(f *fleet.Freshness) (fleet.FleetID, []string) { return f.Fleet, f.Critical })
}

// AdmitFreshness checks that a statement is for the machine and not older than
// the newest one seen, whose time of issue is last: an older one would hide what
// that one told of. One that has expired is admitted, as being no news; one from
// after latest (see Host) is not.
func (t *Trust) AdmitFreshness(f fleet.FleetID, m fleet.MachineName, last, latest time.Time, s *Signed[fleet.Freshness]) error {
	err := t.checkIssued(latest, s.Doc.Issued)
	switch {
	case s.Doc.Fleet != f:
		err = ErrWrongFleet
	case s.Doc.Machine != m:
		err = ErrWrongMachine
	case s.Doc.Issued.Before(last):
		err = ErrOlderStatement
	case err == nil:
		return nil
	}
	return fmt.Errorf("freshness statement for %s: %w", s.Doc.Machine, err)
}

// Fills says whether the root names keys for a role.
func (t *Trust) Fills(role RoleName) bool { return len(t.keys[role]) > 0 }
