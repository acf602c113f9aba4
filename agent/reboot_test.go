package agent

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// rebooting is a driver of which a reboot is needed for parts, unless it fails.
type rebooting struct {
	*bundledriver.Driver
	parts []string
	err   error
}

func (r rebooting) RebootNeeded(context.Context, fleet.ProfileName) ([]string, error) {
	return r.parts, r.err
}

// TestRebootNeededIsSaid: in the status and in what is reported, of a host that is as
// desired but for that.
func TestRebootNeededIsSaid(t *testing.T) {
	h := newHost(t)
	h.wrap = func(d *bundledriver.Driver) driver.Driver { return rebooting{d, []string{"kernel", "initrd"}, nil} }
	h.start()
	h.confirmed(1, "one")
	got := h.says("kernel, initrd")
	if got.State != fleet.StateConfirmed || got.Reason.Code != fleet.ReasonRebootNeeded || got.Reason.Hint == "" {
		t.Errorf("status says %+v", got)
	}
	h.coord.WaitReason(fleet.ReasonRebootNeeded)

	// What is to be said of a release comes first.
	h.publish(2, "two", "exit 1")
	if got := h.coord.WaitReason(fleet.ReasonActivationFailed); strings.Contains(got.Reason.Message, "kernel") {
		t.Errorf("reported %+v", got)
	}
	h.crash()

	h.wrap = func(d *bundledriver.Driver) driver.Driver { return rebooting{d, nil, errors.New("no")} }
	h.start()
	h.confirmed(3, "three")
	waitProfile(t, h, "one that is up to date", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonUpToDate })
}
