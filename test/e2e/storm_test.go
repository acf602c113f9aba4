package e2e

import (
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// storm ROUNDS MACHINE makes tokens for a machine, one after the other, while
// the coordinator is killed at a random moment of each round. Afterwards the
// event log must hold every token that was acknowledged.
func storm(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: storm ROUNDS MACHINE")
	}
	rounds, err := strconv.Atoi(args[0])
	ts.Check(err)
	acknowledged := 0
	for range rounds {
		deadline := time.Now().Add(100*time.Millisecond + rand.N(500*time.Millisecond))
		killed := make(chan struct{})
		kill := time.AfterFunc(time.Until(deadline), func() {
			defer close(killed)
			_ = running(ts)["coordinator"].cmd.Process.Kill()
		})
		for {
			if _, err := command(ts, []string{"fleetctl", "--timeout", "5s", "token", args[1]}); err != nil {
				break
			}
			acknowledged++
		}
		if kill.Stop() {
			ts.Fatalf("fleetctl token failed before the coordinator was killed")
		}
		<-killed
		coordinatorCmd(ts, false, []string{"kill"})
		coordinatorCmd(ts, false, []string{"start"})
	}
	if acknowledged == 0 {
		ts.Fatalf("no token was acknowledged in %d rounds", rounds)
	}
	recorded, last := 0, uint64(0)
	for line := range strings.SplitSeq(strings.TrimSpace(run(ts, "fleetctl", "events", "--from", "1", "-o", "json")), "\n") {
		var e struct {
			Seq  uint64 `json:"seq"`
			Kind string `json:"kind"`
		}
		ts.Check(json.Unmarshal([]byte(line), &e))
		if e.Seq != last+1 {
			ts.Fatalf("event %d follows event %d", e.Seq, last)
		}
		last = e.Seq
		if e.Kind == "token-created" {
			recorded++
		}
	}
	ts.Logf("%d tokens acknowledged, %d recorded, over %d kills", acknowledged, recorded, rounds)
	// One more than acknowledged may be recorded per kill: its answer was cut.
	if recorded < acknowledged || recorded > acknowledged+rounds {
		ts.Fatalf("%d tokens were acknowledged, %d are recorded", acknowledged, recorded)
	}
}
