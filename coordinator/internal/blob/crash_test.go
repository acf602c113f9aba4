package blob

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"
)

const (
	crashEnv    = "BLOBTEST_CRASH"
	crashFrom   = "BLOBTEST_CRASH_FROM"
	crashRounds = 30
	crashSize   = 256 << 10
)

// crashMain is the child of TestCrash: it goes on with blob after blob until
// it is killed, and tells which are complete.
func crashMain() {
	dir := os.Getenv(crashEnv)
	if dir == "" {
		return
	}
	if err := crashChild(dir); err != nil {
		fmt.Fprintln(os.Stderr, "crash child:", err)
	}
	os.Exit(1)
}

func crashChild(dir string) error {
	s, err := Open(dir, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	from, err := strconv.ParseUint(os.Getenv(crashFrom), 10, 64)
	if err != nil {
		return err
	}
	for i := from; ; i++ {
		b, d := made(i, crashSize)
		st, err := s.Stat(d, size(b))
		if err != nil {
			return err
		}
		if _, err := fmt.Println("begin", i); err != nil {
			return err
		}
		// Small pieces, so that most kills come in the middle of one.
		r := bytes.NewReader(b[st.Offset:])
		if _, err := s.Put(context.Background(), d, size(b), st.Offset, readerFunc(func(p []byte) (int, error) {
			return r.Read(p[:min(len(p), 4<<10)])
		})); err != nil {
			return err
		}
		if _, err := fmt.Println("done", i); err != nil {
			return err
		}
	}
}

// TestCrash kills a process that uploads, at random moments: a blob that was
// acknowledged is whole, one that was not goes on where it is, and what is
// named as a blob is one.
func TestCrash(t *testing.T) {
	s := newStore(t, Options{})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	next, resumed := uint64(0), 0
	for round := range crashRounds {
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Env = append(os.Environ(), crashEnv+"="+s.dir, crashFrom+"="+strconv.FormatUint(next, 10))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// It dies a moment after it began one that is new, or the next. A failure
		// to kill shows as a test that hangs.
		kill := time.AfterFunc(time.Hour, func() { _ = cmd.Process.Kill() })
		victim := next + uint64(rand.IntN(2))
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var what string
			var i uint64
			if _, err := fmt.Sscan(lines.Text(), &what, &i); err != nil || i > next {
				t.Errorf("round %d: child said %q after %d", round, lines.Text(), next)
			}
			switch {
			case what == "done":
				next = max(next, i+1)
			case i == victim:
				kill.Reset(rand.N(4 * time.Millisecond))
			}
		}
		kill.Stop()
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
			t.Fatalf("round %d: child was not killed: %v", round, err)
		}
		b, d := made(next, crashSize)
		if st, err := s.Stat(d, size(b)); err != nil {
			t.Errorf("round %d: %v", round, err)
		} else if !st.Complete && st.Offset > 0 {
			resumed++
		}
	}
	for i := range next {
		b, _ := made(i, crashSize)
		wantBlob(t, s, b)
	}
	entries, err := os.ReadDir(s.completeDir())
	if n := uint64(len(entries)); err != nil || n < next || n > next+1 {
		t.Errorf("%d blobs, %v; want %d", n, err, next)
	}
	if resumed == 0 {
		t.Error("no kill came in the middle of an upload: the test shows nothing")
	}
	t.Logf("%d blobs over %d kills, %d of them in the middle of an upload", next, crashRounds, resumed)
}
