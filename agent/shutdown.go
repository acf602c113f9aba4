package agent

import (
	"context"
	"time"
)

// stopping says whether the host is being shut down.
func (a *Agent) stopping(ctx context.Context) bool {
	return a.config.Stopping != nil && a.config.Stopping(ctx)
}

// leaveWithin bounds how long the agent's end waits, where the host is shut down, for runs
// that have no service of their own; the agent's unit gives it 30 s.
const leaveWithin = 20 * time.Second

// leaveRuns ends such runs where the host is shut down.
func (a *Agent) leaveRuns(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	if a.stopping(ctx) {
		a.executor.Leave(ctx)
	}
}
