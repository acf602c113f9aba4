package execute

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestContained: what is in a session of its own and deaf to SIGTERM is ended
// too, and lets go of the lock that it inherited.
func TestContained(t *testing.T) {
	dir := t.TempDir()
	lock, ready := filepath.Join(dir, "lock"), filepath.Join(dir, "ready")
	step := sh(`exec 9>$1; flock -n 9; setsid sh -c 'trap "" TERM; touch '$2'; while :; do sleep 1; done' & while :; do sleep 1; done`, lock, ready)
	step.Exec.Contained = true
	e := executor(t, t.TempDir())
	if err := e.Start(t.Context(), "run", action(2*time.Second, step), nil); err != nil {
		t.Fatal(err)
	}
	if res, err := e.Wait(t.Context(), "run"); err != nil || res.Outcome != OutcomeHung {
		t.Fatalf("got %+v, %v", res, err)
	}
	if _, err := os.Lstat(ready); err != nil {
		t.Fatalf("the escaped one never ran: %v", err)
	}
	free := sh("exec 9>$1; flock -n 9", lock)
	if res := finish(t, free); res.Outcome != OutcomeOK {
		t.Errorf("the lock is held: %+v", res)
	}
}
