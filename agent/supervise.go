package agent

import (
	"context"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/watchdog"
)

const (
	// oneMoment bounds what only thinks and writes a line.
	oneMoment = 5 * time.Minute
	// oneStep bounds what a loop does before it waits again: some of it reads a whole
	// closure, or runs nix.
	oneStep = time.Hour
	// longStep bounds what has bounds of its own, but no short one: a download makes
	// progress or ends, an activation ends at its deadline, a build when nix does.
	longStep = 24 * time.Hour
	// oneCall bounds talking to the coordinator; each call of it has a bound of its
	// own.
	oneCall = 30 * time.Minute
)

// statusLine says in a line where this host is. It takes the locks that everything
// here depends on, so that nobody hears of progress where one is held for ever.
func (a *Agent) statusLine() string {
	st := a.snapshot()
	parts := []string{"not enrolled"}
	if st.Machine != "" {
		parts[0] = string(st.Machine)
		for _, p := range st.Profiles {
			text := string(p.Profile) + " " + string(p.State)
			if !p.Current.IsZero() {
				text += " " + p.Current.Number.String()
			}
			parts = append(parts, text)
		}
	}
	if c := st.Coordinator; c.Code != "" {
		parts = append(parts, "coordinator: "+string(c.Code))
	}
	if st.Paused != "" {
		parts = append(parts, "paused")
	}
	return strings.Join(parts, "; ")
}

// rests is sleepOr of a loop.
func rests(ctx context.Context, l *watchdog.Loop, d time.Duration, early <-chan struct{}) error {
	l.Waits()
	return sleepOr(ctx, d, early)
}
