package execute

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

// Exit codes of spoilOutput.
const (
	spoiled      = 0
	readable     = 9
	notSpoilable = 10
)

// spoilOutput is a program that means its log ill: it reads what others wrote,
// and has what is written next overwrite it.
func spoilOutput() int {
	for _, fd := range []int{unix.Stdout, unix.Stderr} {
		if _, err := unix.Pread(fd, make([]byte, 1), 0); !errors.Is(err, unix.EBADF) {
			return readable
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, 0); err != nil {
			return notSpoilable
		}
		if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
			return notSpoilable
		}
	}
	return spoiled
}

// TestLogOnlyGrows: a program can't read its log, which is root's and may hold
// what others wrote, and what it does to its descriptor is its own.
func TestLogOnlyGrows(t *testing.T) {
	t.Parallel()
	e := executor(t, t.TempDir())
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	spoil := driver.Step{Exec: &driver.Exec{Argv: []string{self, "spoil-output"}}}
	if err := e.Start(t.Context(), "a", action(time.Minute, sh("echo one"), spoil, sh("echo two")), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeOK {
		t.Fatalf("got %+v", res)
	}
	if log, err := os.ReadFile(e.Log("a")); err != nil || string(log) != "one\ntwo\n" {
		t.Errorf("log %q, %v", log, err)
	}
}
