package journal

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// The test binary is also the agent that is killed.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Arg(0) == "append-for-ever" {
		fmt.Fprintln(os.Stderr, appendForEver(flag.Arg(1)))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// appendForEver says each sequence number after its record was acknowledged.
// Records are large and acknowledged, so that compactions happen too.
func appendForEver(dir string) error {
	j, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	j.compactAt = 0
	for {
		err := j.Append(
			about(KindHeld, func(r *Record) {
				r.Reason = fleet.Reason{Code: fleet.ReasonBackoff, Message: strings.Repeat("x", 1400)}
			}),
			Record{Kind: KindAck, Acked: j.State().Transitions},
		)
		if err != nil {
			return err
		}
		fmt.Println(j.State().Seq)
		if j.size > 32<<10 {
			j.compactAt = 0
			lines, err := compacted(j.state, Record{})
			if err != nil {
				return err
			}
			var n int64
			for _, l := range lines {
				n += int64(len(l))
			}
			if err := j.replace(lines, n); err != nil {
				return err
			}
		}
	}
}

func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var acked uint64
	const kills = 60
	for i := range kills {
		seq, err := killOne(t.Context(), dir, time.Duration(rand.Int64N(int64(30*time.Millisecond))))
		if err != nil {
			t.Fatal(err)
		}
		acked = max(acked, seq)
		s, err := Read(dir)
		if err != nil && acked > 0 {
			t.Fatalf("kill %d: %v", i, err)
		}
		if s.Seq < acked {
			t.Fatalf("kill %d: record %d was acknowledged, %d are there", i, acked, s.Seq)
		}
	}
	j := open(t, dir)
	if s := j.State(); s.Seq < acked || acked == 0 {
		t.Errorf("%d acknowledged, %d there", acked, s.Seq)
	}
	appendAll(t, j, adopt(0))
	t.Logf("%d records acknowledged over %d kills", acked, kills)
}

// killOne lets the agent live for a while after its first word, and returns the
// last number that it said.
func killOne(ctx context.Context, dir string, after time.Duration) (uint64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self, "append-for-ever", dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	r := bufio.NewReader(out)
	first, err := r.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("the agent said %q: %w", first, err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	rest, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	_ = cmd.Wait()
	words := strings.Fields(first + string(rest[:strings.LastIndexByte("\n"+string(rest), '\n')]))
	return strconv.ParseUint(words[len(words)-1], 10, 64)
}
