package journal

import (
	"maps"
	"slices"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

// clone is a deep copy.
func (s *State) clone() *State {
	c := s.draft()
	c.outbox = slices.Clone(s.outbox)
	return c
}

// draft is a copy that may be changed while s is kept. The outbox is shared up
// to its length: transitions never change, and one draft at a time appends.
func (s *State) draft() *State {
	c := *s
	c.Paused = clonePtr(s.Paused)
	c.Loosened = maps.Clone(s.Loosened)
	c.StaleUntil = maps.Clone(s.StaleUntil)
	c.Profiles = maps.Clone(s.Profiles)
	for name, p := range c.Profiles {
		c.Profiles[name] = p.clone()
	}
	return &c
}

func (p *ProfileState) clone() *ProfileState {
	c := *p
	c.RevertTo = slices.Clone(p.RevertTo)
	c.Refused = maps.Clone(p.Refused)
	c.Interrupted = maps.Clone(p.Interrupted)
	c.Floors = maps.Clone(p.Floors)
	c.Asked = clonePtr(p.Asked)
	c.Corrected = clonePtr(p.Corrected)
	c.Held = clonePtr(p.Held)
	c.History = slices.Clone(p.History)
	c.Activation = p.Activation.clone()
	c.Superseded = p.Superseded.clone()
	return &c
}

func (a *Activation) clone() *Activation {
	c := clonePtr(a)
	if c != nil {
		c.Witnesses, c.Outside = slices.Clone(a.Witnesses), slices.Clone(a.Outside)
		if c.Units = clonePtr(a.Units); c.Units != nil {
			c.Units.Names = slices.Clone(a.Units.Names)
		}
		c.Undoes = clonePtr(a.Undoes)
		c.RollbackTo = clonePtr(a.RollbackTo)
		c.Activate = cloneAction(a.Activate)
		c.Commit = cloneAction(a.Commit)
		c.Rollback = cloneAction(a.Rollback)
	}
	return c
}

func cloneAction(a driver.Action) driver.Action {
	a.Steps = slices.Clone(a.Steps)
	for i := range a.Steps {
		st := &a.Steps[i]
		st.Link, st.BootOnce = clonePtr(st.Link), clonePtr(st.BootOnce)
		st.Exec = clonePtr(st.Exec)
		if e := st.Exec; e != nil {
			e.Argv, e.Env, e.OKCodes = slices.Clone(e.Argv), slices.Clone(e.Env), slices.Clone(e.OKCodes)
		}
	}
	return a
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}
