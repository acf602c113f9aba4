package agent

import (
	"context"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// hindrance is what of the host keeps a generation from being built and activated, as
// long as that is so; the zero Reason for nothing. Only the host's own drivers are
// asked: a plugin's would be started for it.
func (w *worker) hindrance(target fleet.Ref) fleet.Reason {
	o, err := w.a.bound.Load().desired.Load(target.Digest)
	if err != nil {
		return fleet.Reason{} // Whoever needs it says so.
	}
	d := w.a.drivers[o.Generation.Doc.Source.Driver]
	if d == nil {
		return fleet.Reason{}
	}
	r, err := driver.HindranceOf(context.Background(), d, w.profile)
	if err != nil {
		w.log.Debug("whether the host is fit for the profile can't be told", "error", err)
		return fleet.Reason{}
	}
	return r
}

// unhinder has the other profiles look again that the host kept from going on: what
// was activated in one may be what another lacked, such as its user.
func (a *Agent) unhinder() {
	for _, w := range a.sorted() {
		w.mu.Lock()
		hindered := w.hindered
		w.mu.Unlock()
		if hindered {
			w.wake()
		}
	}
}
