package registry

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// ErrReport is wrapped by errors about reports that make no sense.
var ErrReport = errors.New("malformed report")

// maxConfirmed bounds the confirmed generations remembered per profile: as
// many as a revert set can name, and the newest.
const maxConfirmed = fleet.MaxRevertTo + 1

// Observed is what a host's newest report said.
type Observed struct {
	Mode     fleet.Mode            `json:"mode,omitempty"`
	Paused   string                `json:"paused,omitempty"`
	Version  string                `json:"version,omitempty"`
	Reported time.Time             `json:"reported,omitzero"`
	Profiles []fleet.ProfileStatus `json:"profiles,omitempty"`
	// Instance whose transitions Acked counts.
	Instance string `json:"instance,omitempty"`
	// Acked is the highest sequence number that is durable here.
	Acked uint64 `json:"acked,omitempty"`
	// LogHead is the newest head of the event log in the signed report that is kept.
	LogHead fleet.LogHead `json:"log_head,omitzero"`
	// Confirmed generations of each profile, highest number first.
	Confirmed map[fleet.ProfileName][]fleet.Ref `json:"confirmed,omitempty"`
}

// Profile returns the status of a profile.
func (o Observed) Profile(p fleet.ProfileName) (fleet.ProfileStatus, bool) {
	i := slices.IndexFunc(o.Profiles, func(s fleet.ProfileStatus) bool { return s.Profile == p })
	if i < 0 {
		return fleet.ProfileStatus{}, false
	}
	return o.Profiles[i], true
}

// CheckReport says whether a report is well-formed and of this fleet and
// machine.
func CheckReport(r *fleet.Report, f fleet.FleetID, m fleet.MachineName) error {
	switch {
	case r.Fleet != f:
		return fmt.Errorf("%w: it is of another fleet", ErrReport)
	case r.Machine != m:
		return fmt.Errorf("%w: it is of another machine", ErrReport)
	case r.InstanceID == "" || !plain(r.InstanceID) || !plain(r.AgentVersion) || !plain(r.BootID):
		return fmt.Errorf("%w: instance, boot or version missing, too long or no plain text", ErrReport)
	case len(r.Paused) > fleet.MaxReasonBytes:
		return fmt.Errorf("%w: paused: too long", ErrReport)
	}
	if _, err := fleet.ParseMode(string(r.Mode)); err != nil {
		return fmt.Errorf("%w: %w", ErrReport, err)
	}
	seen := map[fleet.ProfileName]bool{}
	for _, p := range r.Profiles {
		if seen[p.Profile] {
			return fmt.Errorf("%w: profile %s twice", ErrReport, p.Profile)
		}
		seen[p.Profile] = true
		refs := append([]fleet.Ref{p.Current, p.Confirmed, p.LastGood, p.Highest}, p.Refused...)
		if len(p.Refused) > fleet.MaxRefusedListed {
			return fmt.Errorf("%w: profile %s lists %d refused generations, at most %d", ErrReport, p.Profile, len(p.Refused), fleet.MaxRefusedListed)
		}
		if err := checkParts(p.Profile, p.State, p.Reason, refs...); err != nil {
			return err
		}
	}
	last := uint64(0)
	for _, t := range r.Transitions {
		if t.Seq <= last {
			return fmt.Errorf("%w: transition %d after %d", ErrReport, t.Seq, last)
		}
		last = t.Seq
		if err := checkParts(t.Profile, t.State, t.Reason, t.Ref); err != nil {
			return err
		}
	}
	return nil
}

func checkParts(p fleet.ProfileName, s fleet.State, r fleet.Reason, refs ...fleet.Ref) error {
	if _, err := fleet.ParseProfileName(string(p)); err != nil {
		return fmt.Errorf("%w: %w", ErrReport, err)
	}
	if len(s) > maxHello || len(r.Code) > maxHello || len(r.Message) > fleet.MaxReasonBytes || len(r.Hint) > fleet.MaxReasonBytes {
		return fmt.Errorf("%w: profile %s: state or reason too long", ErrReport, p)
	}
	for _, ref := range refs {
		if ref.Digest != "" {
			if _, err := fleet.ParseDigest(string(ref.Digest)); err != nil {
				return fmt.Errorf("%w: %w", ErrReport, err)
			}
		}
		if ref.Release != "" {
			if _, err := fleet.ParseReleaseID(string(ref.Release)); err != nil {
				return fmt.Errorf("%w: %w", ErrReport, err)
			}
		}
	}
	return nil
}

// Apply folds a report in and returns its transitions that are new. It is
// pure; what it returns shares nothing with o that changes later.
func (o Observed) Apply(r *fleet.Report) (Observed, []fleet.Transition) {
	next := o
	if o.Instance != r.InstanceID {
		// Another journal counts from 1 again.
		next.Acked = 0
	}
	if o.Instance == r.InstanceID {
		next.Acked = max(next.Acked, r.Acked)
	}
	next.Instance = r.InstanceID
	next.Mode, next.Paused, next.Version, next.Reported = r.Mode, r.Paused, r.AgentVersion, r.Time
	next.Profiles = r.Profiles
	var fresh []fleet.Transition
	for _, t := range r.Transitions {
		if t.Seq > next.Acked {
			fresh = append(fresh, t)
		}
	}
	next.Confirmed = make(map[fleet.ProfileName][]fleet.Ref, len(r.Profiles))
	for _, p := range r.Profiles {
		refs := slices.Clone(o.Confirmed[p.Profile])
		refs = addConfirmed(refs, p.Confirmed)
		for _, t := range fresh {
			if t.Profile == p.Profile && t.State == fleet.StateConfirmed {
				refs = addConfirmed(refs, t.Ref)
			}
		}
		if len(refs) > 0 {
			next.Confirmed[p.Profile] = refs
		}
	}
	return next, fresh
}

// addConfirmed inserts a generation into a list with the highest number first.
func addConfirmed(refs []fleet.Ref, ref fleet.Ref) []fleet.Ref {
	if ref.Digest == "" || slices.ContainsFunc(refs, func(r fleet.Ref) bool { return r.Digest == ref.Digest }) {
		return refs
	}
	at := slices.IndexFunc(refs, func(r fleet.Ref) bool { return r.Number.Compare(ref.Number) < 0 })
	if at < 0 {
		at = len(refs)
	}
	refs = slices.Insert(refs, at, ref)
	return refs[:min(len(refs), maxConfirmed)]
}

// sameStatus says whether two reports tell the same of the profiles.
func sameStatus(a, b Observed) bool {
	return a.Mode == b.Mode && a.Paused == b.Paused && a.Version == b.Version && a.Instance == b.Instance &&
		slices.EqualFunc(a.Profiles, b.Profiles, func(x, y fleet.ProfileStatus) bool {
			return x.Profile == y.Profile && x.State == y.State && x.Reason == y.Reason && x.Current == y.Current &&
				x.Confirmed == y.Confirmed && x.LastGood == y.LastGood && x.Highest == y.Highest && slices.Equal(x.Refused, y.Refused)
		})
}
