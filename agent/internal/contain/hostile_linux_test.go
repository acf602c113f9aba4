package contain

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// mallory is a user with processes of these tests only: who signals all that is theirs must
// not meet anybody else's.
const mallory = 61247

func (p Program) of(uid uint32) Program {
	p.As = &syscall.Credential{Uid: uid, Gid: uid}
	return p
}

// TestStoppedAtBirth: a user who stops what is theirs before it has begun holds nobody up
// beyond the context.
func TestStoppedAtBirth(t *testing.T) {
	if _, ok := withUnits(t); !ok {
		return
	}
	stopper := exec.Command("/bin/sh", "-c", "while :; do kill -STOP -1; done")
	stopper.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: mallory, Gid: mallory}, Setpgid: true}
	if err := stopper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stopper.Process.Kill()
		_ = stopper.Wait()
	}()
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		done := make(chan error, 1)
		go func() { done <- Run(ctx, script(":").of(mallory)) }()
		select {
		case err := <-done:
			if errors.Is(err, ErrStuck) {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("it did not return")
		}
		cancel()
	}
}
