package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// committing has a program to run once a bundle is verified.
type committing struct {
	*bundledriver.Driver

	program string
}

func (c committing) Activation(ctx context.Context, p fleet.ProfileName, from, to string) (driver.Activation, error) {
	a, err := c.Driver.Activation(ctx, p, from, to)
	a.Commit = driver.Action{Deadline: time.Minute, Steps: []driver.Step{{Exec: &driver.Exec{
		Argv: []string{c.program, to}, Env: []string{"PATH=/usr/bin:/bin"},
	}}}}
	return a, err //nolint:wrapcheck // As it came.
}

// committer has bundles committed by a script, which gets the path.
func committer(t *testing.T, h *host, script string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "commit")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil { //nolint:gosec // A program.
		t.Fatal(err)
	}
	h.wrap = func(d *bundledriver.Driver) driver.Driver { return committing{d, program} }
}

// TestCommitFails: what works and could not be made lasting is taken back.
func TestCommitFails(t *testing.T) {
	h := newHost(t)
	committer(t, h, `case $(cat "$1/version") in bad*) exit 3 ;; esac`)
	h.start()
	first := h.confirmed(1, "one")
	h.publish(2, "bad", "")
	h.coord.WaitState(fleet.StateRolledBack, first)
	h.expectServing("one")
	waitProfile(t, h, "says why", func(p control.Profile) bool {
		return strings.Contains(p.Reason.Message, "could not be made what boots") && strings.Contains(p.Reason.Message, "exit code 3")
	})
	h.confirmed(3, "three")
}

// TestCommitIsInterrupted: a commit that was killed midway is run again.
func TestCommitIsInterrupted(t *testing.T) {
	h := newHost(t)
	mark := filepath.Join(t.TempDir(), "mark")
	committer(t, h, `[ -e `+mark+` ] || { touch `+mark+`; kill -9 $PPID; }`)
	h.start()
	h.confirmed(1, "one")
	if _, err := os.Lstat(mark); err != nil {
		t.Error("the commit never ran")
	}
}

// TestStrayed: where a person switched by hand, a failing generation leads back
// to what that person chose, and one that they left is activated again.
func TestStrayed(t *testing.T) {
	h := newHost(t)
	h.start()
	first := h.confirmed(1, "one")
	h.confirmed(2, "two")
	byHand := func(version string) {
		t.Helper()
		st := h.agent.journal.State()
		chosen := st.Profile(fleet.System).LastGood.Path
		link := filepath.Join(h.config.StateDir, "bundle", "profiles", "system")
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(chosen, link); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.serving(), []byte(version), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	byHand("one")
	h.publish(3, "three", "exit 1")
	h.coord.WaitState(fleet.StateRolledBack, first)
	h.expectServing("one")
	h.confirmed(4, "four")
	byHand("what was before")
	// The same source again: nothing to do by the record, and it does not run.
	h.confirmed(5, "four")
}
