package fleet

import "time"

// MaxFreshness bounds how long a freshness statement may count: with what a
// freeze can be kept up, it grows.
const MaxFreshness = 7 * 24 * time.Hour

// Freshness says what is the newest that was signed for a machine, at the time
// of its issue: the payload of a document signed by the freshness role, whose
// key a machine holds that is not the coordinator. It bounds for how long a
// coordinator can keep something new from a host (TUF specification, the
// indefinite freeze attack).
type Freshness struct {
	Type     string      `json:"type"` // TypeFreshness
	Fleet    FleetID     `json:"fleet"`
	Machine  MachineName `json:"machine"`
	Issued   time.Time   `json:"issued"`
	Expires  time.Time   `json:"expires"`
	Critical []string    `json:"critical,omitempty"`
	// Root is the version of the newest trust root.
	Root uint64 `json:"root"`
	// Highest is the newest published generation of each profile.
	Highest map[ProfileName]Ref `json:"highest,omitempty"`
}

// Validate checks everything about a statement that needs no context.
func (f *Freshness) Validate() error {
	if f.Type != TypeFreshness {
		return invalid("type is %q, want %q", clip(f.Type), TypeFreshness)
	}
	if err := validateSubject(f.Fleet, f.Machine, System); err != nil {
		return err
	}
	if !f.Issued.Before(f.Expires) || f.Expires.Sub(f.Issued) > MaxFreshness {
		return invalid("a freshness statement counts for more than nothing and at most %s", MaxFreshness)
	}
	if len(f.Highest) > MaxProfiles {
		return invalid("%d profiles, at most %d", len(f.Highest), MaxProfiles)
	}
	for p, ref := range f.Highest {
		if _, err := ParseProfileName(string(p)); err != nil {
			return err
		}
		if _, err := ParseDigest(string(ref.Digest)); err != nil {
			return err
		}
	}
	return nil
}
