package agent

import (
	"context"
	"math/rand/v2"
	stdsync "sync"
	"time"
)

const (
	// tickInterval is how often the agent looks at wall time: a laptop that
	// slept past a renewal notices at the next tick.
	tickInterval = time.Minute
	// lookPause is how long a look at what a person did is good for.
	lookPause = time.Second
	// quietPause is how long after work an agent counts as idle.
	quietPause = 3 * time.Second
	// tidyTicks is how many idle ticks pass until idleness is told again.
	tidyTicks = 10
)

// rest knows whether the agent works or is idle, as it is nearly all of its
// life, and tells it: Config.Activity.
type rest struct {
	settled chan struct{} // work has ended
	tell    func(busy bool)

	mu     stdsync.Mutex
	jobs   int
	worked bool // since the last tick
	idle   bool
	ticks  int // since idleness was told
}

func newRest(tell func(busy bool)) *rest {
	if tell == nil {
		tell = func(bool) {}
	}
	return &rest{settled: make(chan struct{}, 1), tell: tell}
}

// work notes that a step begins; end MUST be called when it ends.
func (r *rest) work() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jobs++
	r.worked = true
	if r.idle {
		r.idle = false
		r.tell(true)
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.jobs--
	}
}

// tick tells that the agent is idle when nothing was done since the last tick,
// or where sure is set, and again now and then.
func (r *rest) tick(sure bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.jobs > 0 {
		return
	}
	worked := r.worked
	r.worked = false
	if worked && !sure {
		return
	}
	if r.ticks++; !r.idle || r.ticks >= tidyTicks {
		r.idle, r.ticks = true, 0
		r.tell(false)
	}
}

// tick looks once a minute at wall time, and whether there is work.
func (a *Agent) tick(ctx context.Context, b *bound) error {
	r := renewal{jitter: rand.Float64()}
	poke(a.rest.settled)
	a.succeed(ctx)
	t := time.NewTicker(tickInterval)
	defer t.Stop()
	l := a.progress.Loop("clock", "beginning", oneCall)
	defer l.Ends()
	for {
		l.Does("looking at the time", oneCall)
		a.renewIfDue(ctx, b, &r)
		if a.link.isStale(a.config.Now()) {
			a.link.wantRefresh() // It finds out about the stream, too.
		}
		var again <-chan time.Time
		if r.failed > 0 {
			again = time.After(r.retryAt.Sub(awake()))
		}
		l.Waits()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-again:
		case <-a.rootMoved: // The identity's CA may count no longer.
		case <-a.rest.settled:
			if err := sleep(ctx, quietPause); err != nil {
				return err
			}
			a.rest.tick(true)
			l.Does("looking at the agent's service", oneStep)
			a.succeed(ctx)
		case <-a.looks:
			a.lookForDrift()
			// Whoever asks again and again is not looked for more often than that.
			if err := sleep(ctx, lookPause); err != nil {
				return err
			}
		case <-t.C:
			a.rest.tick(false)
			a.lookForDrift()
			l.Does("looking at the agent's service", oneStep)
			a.succeed(ctx)
		}
	}
}
