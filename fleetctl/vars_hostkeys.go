package fleetctl

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cameronraysmith/fleet/fleetctl/internal/generate"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// readWithHostKeys makes the keys that machines enrolled with those that they read values
// with, and re-keys what they read: of the machines that have one of the generators, and
// that which takes. What was made for them here instead is removed with its private half,
// which opens nothing any more.
func (v *values) readWithHostKeys(c *valueChange, generators []*generate.Generator, which func(machine string) bool) error {
	done := map[string]bool{}
	for _, g := range generators {
		for _, m := range g.Machines {
			if done[m] || !which(m) {
				continue
			}
			done[m] = true
			if err := v.readWithHostKey(c, m); err != nil {
				return fmt.Errorf("the key of %s: %w", m, err)
			}
		}
	}
	return nil
}

func (v *values) readWithHostKey(c *valueChange, machine string) error {
	host, err := v.Host(fleet.MachineName(machine))
	if err != nil || host == nil || host.Age == "" {
		return err
	}
	reader := vars.Reader{Kind: vars.Machines, Name: machine}
	keys := []vars.Key{{PublicKey: host.Age, Type: vars.AgeKey}}
	if before, err := c.Tree().Keys(reader); err == nil && slices.Equal(before, keys) {
		return nil
	} else if err != nil && !errors.Is(err, vars.ErrNotFound) {
		return err
	}
	if err := c.SetKeys(reader, keys); err != nil {
		return err
	}
	if _, err := c.Tree().Entry(vars.MachineKeyPath(machine)); errors.Is(err, vars.ErrNotFound) {
		return nil
	}
	return c.Delete(vars.MachineKeyPath(machine))
}
