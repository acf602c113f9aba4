//go:build linux

package main

import (
	"context"
	"fmt"
	"time"
)

// group is scenarios that follow each other on the same hosts.
type group struct {
	name      string
	setUp     func(context.Context, *world) error
	scenarios []scenario
}

// scenario is one row of the table. It leaves the host confirmed and connected,
// or fails.
type scenario struct {
	name string
	// shows is what was asserted, for the table.
	shows string
	run   func(context.Context, *world) error
}

// scenarioTimeout bounds one scenario.
const scenarioTimeout = 2 * time.Minute

func (w *world) scenario(ctx context.Context, s scenario) error {
	ctx, cancel := context.WithTimeoutCause(ctx, scenarioTimeout, fmt.Errorf("not done in %s", scenarioTimeout))
	defer cancel()
	return s.run(ctx, w)
}

func groups() []group {
	return []group{
		{"Bundles", setUpBundles, bundleScenarios()},
	}
}
