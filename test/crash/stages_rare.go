//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// rare are the stages of what operators do seldom: when something was lost, or
// cannot be reached.
func rare() []stage {
	return []stage{
		{
			name: "backup while it runs, restored after a loss",
			do:   backUpAndRestore,
			want: &want{"confirmed", newest, "v2", secretTwo}, activates: []move{{"v2", "v3"}},
		},
		{
			name: "carried by hand, the coordinator away", off: true,
			do:   carryAndApply,
			want: &want{"confirmed", newest, "v3", secretOne}, activates: []move{{"v3", "v2"}},
		},
	}
}

// backUpAndRestore loses everything of the coordinator once its backup was
// acknowledged: what operators were told before is in it.
func backUpAndRestore(ctx context.Context, w *world) error {
	if _, err := w.do(ctx, nil, "fleet-coordinator", "backup", "--state-dir", "coordinator", "backup"); err != nil {
		return err
	}
	if err := w.coordinator.stop(); err != nil {
		return err
	}
	if err := os.RemoveAll(w.path("coordinator")); err != nil {
		return err
	}
	// A restore that was killed after the store was there has nothing left to do.
	if _, err := w.do(ctx, saysOnly("fleet.db is there"), "fleet-coordinator", "restore", "--state-dir", "coordinator", "backup"); err != nil {
		return err
	}
	if err := w.coordinator.start(); err != nil {
		return err
	}
	return w.release(ctx, "v2", secretTwo)
}

// carryAndApply brings a generation to the host in a file. The coordinator
// starts again only when it runs, so that nothing else can have brought it.
func carryAndApply(ctx context.Context, w *world) error {
	if err := w.coordinator.start(); err != nil {
		return err
	}
	if err := w.release(ctx, "v3", secretOne); err != nil {
		return err
	}
	if err := w.coordinator.stop(); err != nil {
		return err
	}
	if err := w.agent.start(); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "carry", machine, "--file", "carried"); err != nil {
		return err
	}
	if err := w.local(ctx, nil, "apply", "carried"); err != nil {
		return err
	}
	for w.running() != "v3" {
		select {
		case <-ctx.Done():
			return fmt.Errorf("what was applied by hand does not run: %w", ctx.Err())
		case <-time.After(pollPause):
		}
	}
	return w.coordinator.start()
}
