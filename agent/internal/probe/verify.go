package probe

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Runner makes one attempt at a probe: Run, or a test's own.
type Runner func(ctx context.Context, p fleet.Probe) (fleet.Verdict, string)

// In is the Runner of an environment.
func In(env Env) Runner {
	return func(ctx context.Context, p fleet.Probe) (fleet.Verdict, string) { return Run(ctx, p, env) }
}

// outcome is where a probe ended.
type outcome struct {
	probe    string
	verdict  fleet.Verdict
	detail   string
	attempts int
}

// Verify tries all probes at once, each again at its interval until it passes
// or the deadline (in time awake) is over. The verdict is fail where any probe
// failed, else inconclusive where any was that or ctx ended, else pass; the
// reason names the probes and what they said last.
func Verify(ctx context.Context, probes []fleet.Probe, deadline time.Duration, run Runner) (fleet.Verdict, fleet.Reason) {
	limited, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	outcomes := make([]outcome, len(probes))
	var wg sync.WaitGroup
	for i, p := range probes {
		wg.Go(func() { outcomes[i] = insist(limited, p, run) })
	}
	wg.Wait()
	if ctx.Err() != nil && !allPass(outcomes) {
		return fleet.VerdictInconclusive, fleet.Reason{
			Code: fleet.ReasonInconclusive, Message: "verification was interrupted",
		}
	}
	return judge(outcomes, deadline)
}

// insist repeats a probe until it passes or ctx ends.
func insist(ctx context.Context, p fleet.Probe, run Runner) outcome {
	o := outcome{probe: p.Name, verdict: fleet.VerdictFail, detail: "no answer before the deadline"}
	for {
		verdict, detail := run(ctx, p)
		// An attempt that the deadline cut off says less than the one before.
		if verdict != fleet.VerdictPass && ctx.Err() != nil {
			return o
		}
		o.verdict, o.detail = verdict, detail
		o.attempts++
		if verdict == fleet.VerdictPass {
			return o
		}
		pause := time.NewTimer(p.Interval.Or(DefaultInterval))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return o
		}
	}
}

func allPass(outcomes []outcome) bool {
	for _, o := range outcomes {
		if o.verdict != fleet.VerdictPass {
			return false
		}
	}
	return true
}

// judge makes one verdict of many.
func judge(outcomes []outcome, deadline time.Duration) (fleet.Verdict, fleet.Reason) {
	var failed, unsure []string
	for _, o := range outcomes {
		line := fmt.Sprintf("probe %q: %s (%d attempts in %s)", o.probe, o.detail, o.attempts, deadline)
		switch o.verdict {
		case fleet.VerdictFail:
			failed = append(failed, line)
		case fleet.VerdictInconclusive:
			unsure = append(unsure, line)
		case fleet.VerdictPass:
		}
	}
	switch {
	case len(failed) > 0:
		return fleet.VerdictFail, fleet.Reason{
			Code: fleet.ReasonProbeFailed, Message: list(failed),
			Hint: "see the log of the activation and of the service; publish a mended release",
		}
	case len(unsure) > 0:
		return fleet.VerdictInconclusive, fleet.Reason{
			Code: fleet.ReasonInconclusive, Message: list(unsure),
			Hint: "the probe could not tell; see why it has nothing to ask",
		}
	}
	return fleet.VerdictPass, fleet.Reason{}
}

// list joins lines and stays within what a report may carry.
func list(lines []string) string {
	s := ""
	for i, line := range lines {
		if i > 0 {
			line = "; " + line
		}
		if rest := fmt.Sprintf("; and %d more", len(lines)-i); len(s)+len(line)+len(rest) > fleet.MaxReasonBytes {
			return strings.TrimPrefix(s+rest, "; ")
		}
		s += line
	}
	return s
}
