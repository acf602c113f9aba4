// Package probe looks whether what was activated works.
package probe

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Defaults of a probe that does not say.
const (
	DefaultTimeout  = 10 * time.Second
	DefaultInterval = time.Second
)

// maxDetailBytes bounds what a probe says.
const maxDetailBytes = 512

// Env is what probes run in.
type Env struct {
	// Path is the built path: relative programs are found in it, and it is the
	// working directory. Empty for none.
	Path string
	// Environ is the whole environment of programs, NAME=VALUE.
	Environ []string
	// User to run programs as; empty for the agent's own.
	User string
	// Plugin makes attempts at probes of kind plugin; nil where there are none.
	Plugin Plugin
	// Systemctl is the program; default "systemctl" in PATH of this process.
	Systemctl string
}

// Plugin makes one attempt at a probe that a plugin makes, until ctx ends at
// the latest. One that can't be asked is inconclusive.
type Plugin func(ctx context.Context, p fleet.Probe) (fleet.Verdict, string)

// Run makes one attempt, bounded by the probe's timeout, and says in a line
// what it saw. Where ctx ends before, the verdict is inconclusive.
func Run(ctx context.Context, p fleet.Probe, env Env) (fleet.Verdict, string) {
	verdict, detail := run(ctx, p, env)
	return verdict, oneLine(detail)
}

func run(ctx context.Context, p fleet.Probe, env Env) (fleet.Verdict, string) {
	timeout := p.Timeout.Or(DefaultTimeout)
	attempt, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var verdict fleet.Verdict
	var detail string
	switch p.Kind {
	case fleet.ProbeExec:
		verdict, detail = runExec(attempt, p, env)
	case fleet.ProbeHTTP:
		verdict, detail = runHTTP(attempt, p)
	case fleet.ProbeTCP:
		verdict, detail = runTCP(attempt, p)
	case fleet.ProbeSystemd:
		verdict, detail = runSystemd(attempt, p, env)
	case fleet.ProbePlugin:
		if env.Plugin == nil {
			return fleet.VerdictInconclusive, "no plugin is pinned here"
		}
		// It says itself that it was too slow.
		return env.Plugin(attempt, p)
	default:
		return fleet.VerdictInconclusive, fmt.Sprintf("this agent knows no probe of kind %q", p.Kind)
	}
	switch {
	case verdict == fleet.VerdictPass:
		return verdict, detail
	case ctx.Err() != nil:
		return fleet.VerdictInconclusive, "interrupted"
	case attempt.Err() != nil:
		return verdict, strings.TrimSuffix(fmt.Sprintf("no answer within %s: %s", timeout, detail), ": ")
	}
	return verdict, detail
}

// oneLine bounds outside text and takes what terminals would act on out of it.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r)
	}), " ")
	if len(s) <= maxDetailBytes {
		return s
	}
	// The end of a program's output says most.
	return "…" + strings.ToValidUTF8(s[len(s)-maxDetailBytes:], "")
}
