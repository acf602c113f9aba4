package agent

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Pins are what a host's own configuration knows of its fleet. They only refuse:
// a join string that names something else is not used, so that who can write the
// file with it can't move a host to a fleet of their own. They are public.
type Pins struct {
	// CAs are digests of the certificates, in DER, that a join string may name;
	// empty: any.
	CAs []fleet.Digest
	// Root is the digest of the trust root to start from; empty: any.
	Root fleet.Digest
}

// ErrOtherPin is wrapped where a join string is not of the fleet that Config.Pins
// are of. Trying again helps once either was replaced.
var ErrOtherPin = errors.New("the join string is of another fleet than this host is configured for")

func (p Pins) check(j pki.Join) error {
	if p.Root != "" && j.Root != p.Root {
		return ui.WithHint(fmt.Errorf("%w: it starts from trust root %s, not %s", ErrOtherPin, j.Root, p.Root),
			"make the join string in the fleet's repository with fleetctl token; or configure the host with the pin that fleetctl trust show prints there")
	}
	if len(p.CAs) > 0 && !slices.Contains(p.CAs, j.CA) {
		return ui.WithHint(fmt.Errorf("%w: its CA %s is none of the host's", ErrOtherPin, j.CA),
			"make a new join string with fleetctl token; or, where the CA was replaced, configure the host with the digest that fleetctl trust show prints, too")
	}
	return nil
}

// parsePins reads the flags' digests.
func parsePins(cas []string, root string) (p Pins, err error) {
	for _, ca := range cas {
		d, err := fleet.ParseDigest(ca)
		if err != nil {
			return Pins{}, ui.WithHint(fmt.Errorf("--ca-pin: %w", err), "fleetctl trust show prints the digests of the CAs")
		}
		p.CAs = append(p.CAs, d)
	}
	if root != "" {
		if p.Root, err = fleet.ParseDigest(root); err != nil {
			return Pins{}, ui.WithHint(fmt.Errorf("--root-pin: %w", err), "fleetctl trust show prints the pin of the first trust root")
		}
	}
	return p, nil
}
