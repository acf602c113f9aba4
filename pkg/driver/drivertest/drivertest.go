// Package drivertest is what every driver has to pass: run Conformance from a
// test of the driver.
package drivertest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// Harness is a fresh driver with what it needs to be tried.
type Harness struct {
	Driver driver.Driver
	// First and Second can be built and differ; their activations succeed.
	First, Second driver.BuildRequest
	// Bad can never be built.
	Bad driver.BuildRequest
	// Running says what really runs, by other means than the driver: the built
	// path that was activated last, or "" for nothing.
	Running func(t *testing.T) string
}

// Conformance tries a driver through the same in-process gRPC that the agent
// uses; newHarness is called once per test.
func Conformance(t *testing.T, newHarness func(t *testing.T) Harness) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(t *testing.T, h Harness)
	}{
		{"NothingRunsAtFirst", nothingRunsAtFirst},
		{"BuildIsRepeatable", buildIsRepeatable},
		{"BadSource", badSource},
		{"Cancelled", cancelled},
		{"ActivateAndRollback", activateAndRollback},
		{"RollbackToNothing", rollbackToNothing},
		{"Remove", remove},
		{"ActivationIsData", activationIsData},
		{"UnknownPaths", unknownPaths},
		{"Diff", diff},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHarness(t)
			d, stop, err := driver.InProcess(h.Driver)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
			h.Driver = d
			c.test(t, h)
		})
	}
}

// Do carries an action out the way an executor does, without its journal.
func Do(t *testing.T, a driver.Action) error {
	t.Helper()
	if err := a.Validate(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if a.Deadline > 0 {
		ctx, cancel = context.WithTimeout(ctx, a.Deadline)
		defer cancel()
	}
	for _, s := range a.Steps {
		if l := s.Link; l != nil {
			if err := atomicfile.Symlink(l.Target, l.Path); err != nil {
				return err
			}
			continue
		}
		if s.Sync != nil {
			if err := atomicfile.SyncFS(s.Sync.Paths...); err != nil {
				return err //nolint:wrapcheck // It names the path.
			}
			continue
		}
		cmd := exec.CommandContext(ctx, s.Exec.Argv[0], s.Exec.Argv[1:]...) //nolint:gosec // What the driver says is what is tested.
		cmd.Env, cmd.Dir = s.Exec.Env, s.Exec.Dir
		out, err := os.CreateTemp(t.TempDir(), "output")
		if err != nil {
			return err
		}
		cmd.Stdout, cmd.Stderr = out, out
		err = cmd.Run()
		if cerr := out.Close(); cerr != nil {
			return cerr
		}
		if err != nil && !okCode(s.Exec, err) {
			return err
		}
	}
	return nil
}

func okCode(e *driver.Exec, err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && slices.Contains(e.OKCodes, exit.ExitCode())
}

func build(t *testing.T, h Harness, req driver.BuildRequest) string {
	t.Helper()
	path, err := h.Driver.Build(t.Context(), req, nil)
	if err != nil {
		t.Fatalf("building: %v", err)
	}
	return path
}

func wantRunning(t *testing.T, h Harness, want string) {
	t.Helper()
	got, err := h.Driver.Current(t.Context(), h.First.Profile)
	if err != nil {
		t.Fatalf("asking what runs: %v", err)
	}
	if got != want {
		t.Errorf("the driver says that %q runs, want %q", got, want)
	}
	if really := h.Running(t); really != want {
		t.Errorf("%q runs, want %q", really, want)
	}
}

func activation(t *testing.T, h Harness, from, to string) driver.Activation {
	t.Helper()
	a, err := h.Driver.Activation(t.Context(), h.First.Profile, from, to)
	if err != nil {
		t.Fatalf("asking for activation: %v", err)
	}
	return a
}

func mustDo(t *testing.T, a driver.Action) {
	t.Helper()
	if err := Do(t, a); err != nil {
		t.Fatalf("carrying out: %v", err)
	}
}

func nothingRunsAtFirst(t *testing.T, h Harness) { wantRunning(t, h, "") }

func buildIsRepeatable(t *testing.T, h Harness) {
	first := build(t, h, h.First)
	if again := build(t, h, h.First); again != first {
		t.Errorf("second build gave %q, first %q", again, first)
	}
	if second := build(t, h, h.Second); second == first {
		t.Errorf("two sources gave one path %q", first)
	}
	wantRunning(t, h, "")
}

func badSource(t *testing.T, h Harness) {
	path, err := h.Driver.Build(t.Context(), h.Bad, nil)
	if !errors.Is(err, driver.ErrSource) {
		t.Errorf("got path %q, error %v; want %v", path, err, driver.ErrSource)
	}
}

func cancelled(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Driver.Build(ctx, h.First, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	build(t, h, h.First)
}

func activateAndRollback(t *testing.T, h Harness) {
	first, second := build(t, h, h.First), build(t, h, h.Second)
	mustDo(t, activation(t, h, "", first).Activate)
	wantRunning(t, h, first)

	a := activation(t, h, first, second)
	// A rollback works even where nothing of the activation was carried out.
	mustDo(t, a.Rollback)
	wantRunning(t, h, first)
	mustDo(t, a.Activate)
	wantRunning(t, h, second)
	mustDo(t, a.Rollback)
	wantRunning(t, h, first)
	mustDo(t, a.Rollback)
	wantRunning(t, h, first)

	mustDo(t, a.Activate)
	mustDo(t, a.Commit)
	wantRunning(t, h, second)
}

func rollbackToNothing(t *testing.T, h Harness) {
	first := build(t, h, h.First)
	a := activation(t, h, "", first)
	mustDo(t, a.Activate)
	wantRunning(t, h, first)
	mustDo(t, a.Rollback)
	wantRunning(t, h, "")
	mustDo(t, a.Rollback)
	wantRunning(t, h, "")
}

func remove(t *testing.T, h Harness) {
	first := build(t, h, h.First)
	mustDo(t, activation(t, h, "", first).Activate)
	a := activation(t, h, first, "")
	mustDo(t, a.Activate)
	wantRunning(t, h, "")
	mustDo(t, a.Rollback)
	wantRunning(t, h, first)
}

func activationIsData(t *testing.T, h Harness) {
	a := activation(t, h, "", build(t, h, h.First))
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var back driver.Activation
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, back); diff != "" {
		t.Errorf("through JSON (-want +got):\n%s", diff)
	}
}

func unknownPaths(t *testing.T, h Harness) {
	first := build(t, h, h.First)
	for _, to := range []string{"/nowhere", first + "/..", first + "x"} {
		if _, err := h.Driver.Activation(t.Context(), h.First.Profile, first, to); !errors.Is(err, driver.ErrNotBuilt) {
			t.Errorf("activation of %q: got %v, want %v", to, err, driver.ErrNotBuilt)
		}
	}
	if _, err := h.Driver.Activation(t.Context(), h.First.Profile, "", ""); err == nil {
		t.Error("an activation from nothing to nothing was given")
	}
}

func diff(t *testing.T, h Harness) {
	first, second := build(t, h, h.First), build(t, h, h.Second)
	same, err := h.Driver.Diff(t.Context(), h.First.Profile, first, first)
	if err != nil || len(same) != 0 {
		t.Errorf("same path: got %q, %v; want nothing", same, err)
	}
	for _, from := range []string{"", first} {
		lines, err := h.Driver.Diff(t.Context(), h.First.Profile, from, second)
		if err != nil || len(lines) == 0 {
			t.Errorf("from %q: got %q, %v; want lines", from, lines, err)
		}
	}
}
