package fleetctl

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// witnesses are the machines whose agents answer others. One whose settings are wrong is
// none: that is an error where it is published. So are two at one address: whoever asks the
// one might get the other, and believes neither.
func (w *workspace) witnesses() ([]fleet.Witness, error) {
	var all []fleet.Witness
	at := map[string]fleet.MachineName{}
	for _, m := range w.fleet.Machines() {
		if _, banned := w.banned[m.Name]; banned || m.Disabled {
			continue
		}
		if dep, err := w.fleet.Settings(m.Name); err == nil && dep.Witness != "" {
			if other := at[dep.Witness]; other != "" {
				return nil, ui.WithHint(fmt.Errorf("machines %s and %s have one witness address, %s", other, m.Name, dep.Witness),
					`let {machine} be in it, such as witness: "{machine}.zt:7444"; fleetctl inventory check says where it is written`)
			}
			at[dep.Witness] = m.Name
			all = append(all, fleet.Witness{Machine: m.Name, Address: dep.Witness})
		}
	}
	return all, nil
}

// reach is who can tell a machine what is out of reach. Of many witnesses each machine has
// a few of its own, which stay the same while the others come and go (rendezvous hashing;
// Thaler and Ravishankar 1998).
func (w *workspace) reach(m fleet.MachineName, answers string, all []fleet.Witness) *fleet.Reach {
	r := fleet.Reach{Answers: answers, Coordinator: w.fleet.Coordinator().Machine == m}
	r.Witnesses = slices.DeleteFunc(slices.Clone(all), func(w fleet.Witness) bool { return w.Machine == m })
	weight := func(w fleet.Witness) uint64 {
		sum := sha256.Sum256([]byte(string(m) + "\x00" + string(w.Machine)))
		return binary.BigEndian.Uint64(sum[:])
	}
	slices.SortFunc(r.Witnesses, func(a, b fleet.Witness) int { return cmp.Compare(weight(b), weight(a)) })
	r.Witnesses = r.Witnesses[:min(len(r.Witnesses), fleet.MaxWitnesses)]
	slices.SortFunc(r.Witnesses, func(a, b fleet.Witness) int { return strings.Compare(string(a.Machine), string(b.Machine)) })
	if r.Answers == "" && len(r.Witnesses) == 0 {
		return nil
	}
	return &r
}
