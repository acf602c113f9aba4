package agenttest

import (
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1" //nolint:depguard // It is the other side of the edge, for tests.
)

// Reports returns all reports so far.
func (c *Coordinator) Reports() []fleet.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]fleet.Report(nil), c.reports...)
}

// Accepted returns the documents that hosts attached.
func (c *Coordinator) Accepted() []*fleetv1.SignedGeneration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*fleetv1.SignedGeneration(nil), c.accepted...)
}

// Calls counts the calls of a method.
func (c *Coordinator) Calls(method string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[method]
}

// HostKeys are those that the host enrolled with.
func (c *Coordinator) HostKeys() pki.HostKeys {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hosts
}

// Wait waits until ok holds, looking at each change; the test fails when it
// does not within a minute.
func (c *Coordinator) Wait(what string, ok func() bool) {
	c.Fleet.T.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			c.Fleet.T.Fatalf("waited in vain for %s; last report: %+v", what, c.last())
		}
	}
}

// WaitState waits until the system profile is reported in a state, running ref,
// by a report made after from reports.
func (c *Coordinator) WaitState(s fleet.State, current fleet.Ref) fleet.ProfileStatus {
	c.Fleet.T.Helper()
	return c.WaitStateOf(fleet.System, s, current)
}

// WaitStateOf is WaitState for any profile.
func (c *Coordinator) WaitStateOf(profile fleet.ProfileName, s fleet.State, current fleet.Ref) fleet.ProfileStatus {
	c.Fleet.T.Helper()
	var got fleet.ProfileStatus
	c.Wait(string(s)+" "+current.Number.String(), func() bool {
		p := c.lastOf(profile)
		if p == nil || p.State != s || p.Current != current {
			return false
		}
		got = *p
		return true
	})
	return got
}

// WaitReason waits until the system profile is reported with a reason.
func (c *Coordinator) WaitReason(code fleet.ReasonCode) fleet.ProfileStatus {
	c.Fleet.T.Helper()
	var got fleet.ProfileStatus
	c.Wait("reason "+string(code), func() bool {
		p := c.last()
		if p == nil || p.Reason.Code != code {
			return false
		}
		got = *p
		return true
	})
	return got
}

func (c *Coordinator) last() *fleet.ProfileStatus { return c.lastOf(fleet.System) }

func (c *Coordinator) lastOf(profile fleet.ProfileName) *fleet.ProfileStatus {
	rs := c.Reports()
	if len(rs) == 0 {
		return nil
	}
	for _, p := range rs[len(rs)-1].Profiles {
		if p.Profile == profile {
			return &p
		}
	}
	return nil
}

// Transitions returns the states that were reported, each once, in order.
func (c *Coordinator) Transitions() []fleet.Transition {
	var out []fleet.Transition
	var seq uint64
	for _, r := range c.Reports() {
		for _, t := range r.Transitions {
			if t.Seq > seq {
				out, seq = append(out, t), t.Seq
			}
		}
	}
	return out
}
