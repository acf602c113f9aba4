package storetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

const (
	crashEnv    = "STORETEST_CRASH_DIR"
	crashRounds = 40
	// crashWriters write at the same time, each to keys of its own.
	crashWriters = 6
	// crashKept is how many of its entries a writer leaves; it deletes the rest.
	crashKept = 20
)

// CrashMain is the child of Crash: call it first in TestMain. In any other
// process it returns at once.
func CrashMain(open Opener) {
	dir := os.Getenv(crashEnv)
	if dir == "" {
		return
	}
	if err := crashChild(dir, open); err != nil {
		fmt.Fprintln(os.Stderr, "crash child:", err)
	}
	os.Exit(1) //nolint:forbidigo // A process of its own, that never ends well: it is killed.
}

// crashChild writes for ever, and tells on standard output what was
// acknowledged: "writer count revision" in one write each.
func crashChild(dir string, open Opener) error {
	s, err := open(dir)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(context.Background())
	for w := range crashWriters {
		g.Go(func() error {
			name := strconv.Itoa(w)
			kv, err := s.Get(ctx, "first/"+name)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			n, _ := strconv.Atoi(string(kv.Value)) // nothing is 0
			for rev := kv.Revision; ; {
				n++
				rev, err = s.Txn(ctx, []store.Cond{{Key: "first/" + name, Revision: rev}}, []store.Op{
					put("first/"+name, strconv.Itoa(n)),
					put(crashEntry(w, n), strings.Repeat(strconv.Itoa(n)+" ", 1+n%500)),
					del(crashEntry(w, n-crashKept)),
					put("last/"+name, strconv.Itoa(n)),
				})
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(os.Stdout, "%d %d %d\n", w, n, rev); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

func crashEntry(w, n int) string { return fmt.Sprintf("entry/%d/%08d", w, n) }

// Crash kills a process that writes, at random moments, many times over the
// same store: what was acknowledged must be there afterwards, and nothing by
// half.
func Crash(t *testing.T, open Opener) {
	t.Helper()
	dir := t.TempDir()
	var acked [crashWriters]int
	var revision uint64
	total := 0
	for round := range crashRounds {
		total += crashRound(t, dir, &acked, &revision)
		s, err := open(dir)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		crashCheck(t, s, &acked, revision)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	if total < crashRounds {
		t.Errorf("only %d transactions in %d rounds: the test shows nothing", total, crashRounds)
	}
	t.Logf("%d acknowledged transactions over %d kills", total, crashRounds)
}

// crashRound runs one child, kills it and notes what it got acknowledged.
func crashRound(t *testing.T, dir string, acked *[crashWriters]int, revision *uint64) (n int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), crashEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Most die in the middle of writing, after so many answers and a moment
	// more, however slow the machine; some before, perhaps while opening. A
	// failure to kill shows as a test that hangs.
	kill := func(most time.Duration) {
		timer := time.AfterFunc(rand.N(most), func() { _ = cmd.Process.Kill() })
		t.Cleanup(func() { timer.Stop() })
	}
	after := rand.IntN(4 * crashWriters)
	if rand.IntN(8) == 0 {
		kill(100 * time.Millisecond)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); n++ {
		if n == after {
			kill(5 * time.Millisecond)
		}
		var w, count int
		var rev uint64
		if _, err := fmt.Sscanf(lines.Text(), "%d %d %d", &w, &count, &rev); err != nil {
			t.Fatalf("child said %q: %v", lines.Text(), err)
		}
		if count != acked[w]+1 {
			t.Errorf("writer %d went on at %d after %d", w, count, acked[w])
		}
		acked[w] = count
		*revision = max(*revision, rev)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
		t.Errorf("child was not killed: %v", err)
	}
	return n
}

func crashCheck(t *testing.T, s store.Store, acked *[crashWriters]int, revision uint64) {
	t.Helper()
	for w := range acked {
		name := strconv.Itoa(w)
		first, err1 := s.Get(t.Context(), "first/"+name)
		last, err2 := s.Get(t.Context(), "last/"+name)
		if errors.Is(err1, store.ErrNotFound) && errors.Is(err2, store.ErrNotFound) && acked[w] == 0 {
			continue
		}
		if err1 != nil || err2 != nil || string(first.Value) != string(last.Value) || first.Revision != last.Revision {
			t.Errorf("writer %d: half a transaction: %v %v / %v %v", w, first, err1, last, err2)
			continue
		}
		n, err := strconv.Atoi(string(first.Value))
		// One more than acknowledged may be there: the answer got lost.
		if err != nil || n < acked[w] || n > acked[w]+1 {
			t.Errorf("writer %d: %d is there, %d was acknowledged, %v", w, n, acked[w], err)
		}
		acked[w] = n // seen now, so it must stay
		want := max(1, n-crashKept+1)
		for kv, err := range store.All(t.Context(), s, fmt.Sprintf("entry/%d/", w)) {
			text := strings.Repeat(strconv.Itoa(want)+" ", 1+want%500)
			if err != nil || kv.Key != crashEntry(w, want) || string(kv.Value) != text {
				t.Errorf("writer %d: entry %q of %d bytes, %v; want %d", w, kv.Key, len(kv.Value), err, want)
				break
			}
			want++
		}
		if want != n+1 {
			t.Errorf("writer %d: entries end before %d, want %d", w, want, n+1)
		}
	}
	if rev, err := s.Txn(t.Context(), nil, nil); err != nil || rev < revision {
		t.Errorf("revision %d, %v; %d was acknowledged", rev, err, revision)
	}
}
