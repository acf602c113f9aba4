package agent

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// terminal is a terminal that keeps what it is told to show; shown ends it.
func terminal(t *testing.T) (tty *os.File, shown func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	return tty, func() string {
		t.Helper()
		if err := tty.Close(); err != nil {
			t.Fatal(err)
		}
		// What was written is still there; after it, an error says that nobody
		// has the terminal any more.
		got, err := io.ReadAll(master)
		if err != nil && !errors.Is(err, unix.EIO) {
			t.Fatal(err)
		}
		return string(got)
	}
}

// TestLogsOnATerminal: what a program printed is shown to root's terminal, not
// obeyed by it. Whoever pipes the log gets it as it is.
func TestLogsOnATerminal(t *testing.T) {
	h := newHost(t)
	h.start()
	ref := h.publish(1, "one", `printf '\033]0;owned\007a\tb\n'`)
	h.coord.WaitState(fleet.StateConfirmed, ref)
	const raw, plain = "\x1b]0;owned\aa\tb\n", "\ufffd]0;owned\ufffda\tb\n"
	for _, running := range []bool{true, false} {
		if !running {
			h.crash()
		}
		if code, stdout, stderr := h.fleetAgent("logs"); code != exitOK || !strings.Contains(stdout, raw) {
			t.Errorf("piped: %d, %q%s", code, stdout, stderr)
		}
		tty, shown := terminal(t)
		var errs strings.Builder
		code := Main([]string{"logs", "--state-dir", h.config.StateDir, "--run-dir", h.config.RunDir},
			strings.NewReader(""), tty, &errs)
		// The terminal itself begins lines at their beginning.
		got := strings.ReplaceAll(shown(), "\r\n", "\n")
		if code != exitOK || !strings.Contains(got, plain) || strings.ContainsRune(got, '\x1b') {
			t.Errorf("on a terminal: %d, %q%s", code, got, &errs)
		}
	}
}
