package fleet

import (
	"net"
	"strconv"
)

// MaxWitnesses bounds the witnesses of one machine: one that answers is enough.
const MaxWitnesses = 5

// Reach is how a machine tells that it is out of reach from that the coordinator is.
type Reach struct {
	// Answers is the host:port where this machine's agent answers others, as a witness;
	// empty where it does not.
	Answers string `json:"answers,omitempty"`
	// Witnesses are machines whose agents answer this one, on the same path as the
	// coordinator.
	Witnesses []Witness `json:"witnesses,omitempty"`
	// Coordinator says that the coordinator runs on this machine, which reaches it whatever
	// is broken: others have to.
	Coordinator bool `json:"coordinator,omitempty"`
}

// Witness is a machine whose agent answers at host:port.
type Witness struct {
	Machine MachineName `json:"machine"`
	Address string      `json:"address"`
}

// Validate checks all but whether the addresses are anybody's.
func (r *Reach) Validate() error {
	if r == nil {
		return nil
	}
	if r.Answers != "" && !IsHostPort(r.Answers) {
		return invalid("reach answers at %q: want host:port", clip(r.Answers))
	}
	if len(r.Witnesses) > MaxWitnesses {
		return invalid("reach has %d witnesses, at most %d", len(r.Witnesses), MaxWitnesses)
	}
	seen := map[MachineName]bool{}
	for _, w := range r.Witnesses {
		if _, err := ParseMachineName(string(w.Machine)); err != nil {
			return err
		}
		if seen[w.Machine] {
			return invalid("reach has the witness %s twice", w.Machine)
		}
		seen[w.Machine] = true
		if !IsHostPort(w.Address) {
			return invalid("witness %s is at %q: want host:port", w.Machine, clip(w.Address))
		}
	}
	return nil
}

// IsHostPort says whether s is a host and a port number.
func IsHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || len(s) > 256 {
		return false
	}
	number, err := strconv.ParseUint(port, 10, 16)
	return err == nil && number > 0
}
