package release

import (
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Host is what decides whether a document is good for a host now.
type Host struct {
	Fleet   fleet.FleetID
	Machine fleet.MachineName
	Profile fleet.ProfileName
	// Highest generation that the host ever accepted for the profile.
	Highest fleet.Ref
	// Latest is when a document may be issued at the latest; zero where the host's
	// clock is not known to be right, so that it learns the time from documents.
	Latest time.Time
}

// Admit makes every check of a newest generation for a host: root fresh, right
// fleet, machine and profile, epoch and number upwards (or the highest one
// itself), not expired, and the secrets manifest that it names, nil where it
// names none. It is to be called on receipt and again before activation.
func (t *Trust) Admit(h Host, g *Signed[fleet.Generation], s *Signed[fleet.SecretsManifest], now time.Time) error {
	err := t.admitNewest(h, g, now)
	if err == nil {
		err = admitSecrets(g, s)
	}
	if err == nil && s != nil && g.Digest != h.Highest.Digest {
		err = t.checkIssued(h.Latest, s.Doc.Issued)
	}
	if err == nil && s != nil && now.After(s.Doc.Expires) {
		err = fmt.Errorf("secrets manifest: %w on %s", ErrExpired, s.Doc.Expires.Format(time.DateOnly))
	}
	if err != nil {
		return fmt.Errorf("generation %s for %s: %w", g.Doc.Number, g.Doc.Machine, err)
	}
	return nil
}

func (t *Trust) admitNewest(h Host, g *Signed[fleet.Generation], now time.Time) error {
	if err := t.CheckFresh(now); err != nil {
		return err
	}
	if err := h.checkSubject(g.Doc.Fleet, g.Doc.Machine, g.Doc.Profile); err != nil {
		return err
	}
	if g.Digest != h.Highest.Digest {
		if err := t.checkNumber(g.Doc.Number, h.Highest.Number); err != nil {
			return err
		}
		if err := t.checkIssued(h.Latest, g.Doc.Issued); err != nil {
			return err
		}
	}
	if now.After(g.Doc.Expires) {
		return fmt.Errorf("%w on %s", ErrExpired, g.Doc.Expires.Format(time.DateOnly))
	}
	return nil
}

// checkIssued refuses what was issued in the future. Hosts never go back behind
// the newest signed time that they saw, so that a stolen key, or a publisher's
// wrong clock, could have everything else expire for good. Where latest is not
// known, the root's end is the bound: nothing that it vouches for is from later.
func (t *Trust) checkIssued(latest, issued time.Time) error {
	switch {
	case issued.After(t.root.Expires):
		return fmt.Errorf("%w: on %s, when the trust root has expired", ErrFuture, issued.Format(time.DateOnly))
	case !latest.IsZero() && issued.After(latest):
		return fmt.Errorf("%w: at %s, where it is before %s", ErrFuture, issued.UTC().Format(time.DateTime), latest.UTC().Format(time.DateTime))
	}
	return nil
}

func (h Host) checkSubject(f fleet.FleetID, m fleet.MachineName, p fleet.ProfileName) error {
	switch {
	case f != h.Fleet:
		return ErrWrongFleet
	case m != h.Machine:
		return ErrWrongMachine
	case p != h.Profile:
		return ErrWrongProfile
	}
	return nil
}

// checkNumber judges a generation that is not the highest accepted one.
func (t *Trust) checkNumber(n, highest fleet.Number) error {
	switch c := n.Compare(highest); {
	case c < 0:
		return fmt.Errorf("%w: %s", ErrLowerNumber, highest)
	case c == 0:
		return ErrNumberReused
	}
	if n.Epoch != t.root.Epoch {
		return fmt.Errorf("%w: %d", ErrWrongEpoch, t.root.Epoch)
	}
	// A host that never accepted anything can't know where numbers are.
	if !highest.IsZero() && n.Epoch == highest.Epoch && n.Seq-highest.Seq > fleet.MaxNumberJump {
		return fmt.Errorf("%w: %s, at most %d further", ErrNumberJump, highest, fleet.MaxNumberJump)
	}
	return nil
}

// admitSecrets compares a generation with a manifest. The generation's
// signature and expiry cover the manifest that it names by digest.
func admitSecrets(g *Signed[fleet.Generation], s *Signed[fleet.SecretsManifest]) error {
	if g.Doc.Secrets == nil && s == nil {
		return nil
	}
	if g.Doc.Secrets == nil || s == nil || s.Digest != g.Doc.Secrets.Digest ||
		s.Doc.Fleet != g.Doc.Fleet || s.Doc.Machine != g.Doc.Machine || s.Doc.Profile != g.Doc.Profile {
		return ErrSecretsMismatch
	}
	return nil
}

// AdmitRevert checks that the host may go back to target: newest is good for
// it now and lists target, which is of the same machine and profile, and revokes, the
// manifest that newest names, nil for none, does not revoke it. Target's
// own expiry does not matter, newest's does. Chains don't arise: only newest's
// list counts, and newest is the highest accepted or above.
func (t *Trust) AdmitRevert(h Host, newest *Signed[fleet.Generation], revokes *Signed[fleet.SecretsManifest], target *Signed[fleet.Generation], s *Signed[fleet.SecretsManifest], now time.Time) error {
	err := t.admitNewest(h, newest, now)
	if err == nil {
		err = admitSecrets(newest, revokes)
	}
	if err == nil {
		err = h.checkSubject(target.Doc.Fleet, target.Doc.Machine, target.Doc.Profile)
	}
	if err == nil && !slices.ContainsFunc(newest.Doc.RevertTo, func(r fleet.Ref) bool {
		return r.Digest == target.Digest && r.Number == target.Doc.Number
	}) {
		err = ErrNotInRevertSet
	}
	if err == nil && revokes != nil && target.Doc.Issued.Before(revokes.Doc.RevokedBefore) {
		err = fmt.Errorf("%w, on %s", ErrRevoked, revokes.Doc.RevokedBefore.UTC().Format(time.DateTime))
	}
	if err == nil {
		err = t.checkIssued(h.Latest, target.Doc.Issued)
	}
	if err == nil {
		err = admitSecrets(target, s)
	}
	if err == nil && s != nil {
		err = t.checkIssued(h.Latest, s.Doc.Issued)
	}
	if err != nil {
		return fmt.Errorf("going back to generation %s on %s: %w", target.Doc.Number, target.Doc.Machine, err)
	}
	return nil
}

// AdmitLoosening checks that a loosening is for the host and not expired.
// That each works once, is for the host to remember.
func (t *Trust) AdmitLoosening(h Host, l *Signed[fleet.Loosening], now time.Time) error {
	err := t.CheckFresh(now)
	if err == nil {
		err = h.checkSubject(l.Doc.Fleet, l.Doc.Machine, l.Doc.Profile)
	}
	if err == nil && now.After(l.Doc.Expires) {
		err = ErrExpired
	}
	if err != nil {
		return fmt.Errorf("loosening for %s: %w", l.Doc.Machine, err)
	}
	return nil
}
