package agent

import (
	"context"
	"math/rand/v2"
	"slices"
	stdsync "sync"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

const (
	// onlineFresh is how long a host counts as online after an answer while
	// its stream is down.
	onlineFresh = time.Minute
	// refreshPause keeps a storm of hints from becoming a storm of questions.
	refreshPause = 100 * time.Millisecond
)

// link is what is known of the way to the coordinator.
type link struct {
	refresh chan struct{} // look at what is desired
	report  chan struct{} // report
	kick    chan struct{} // don't wait with connecting

	mu     stdsync.Mutex
	online bool
	seen   time.Time // wall time of the last answer
	awake  time.Time // the same, monotonic
	reason fleet.Reason
	asked  []fleet.Digest // documents that the coordinator lacks
	// troubles are refusals, by either side, while the stream is up.
	troubles [troubles]fleet.Reason
}

// trouble is what a refusal is about.
type trouble int

const (
	troubleReport    trouble = iota // a report was refused
	troubleDesired                  // the question what is desired was refused
	troubleRoot                     // this host refused a trust root
	troubleLoosening                // this host refused a loosening
	troubleLocal                    // this host could not keep what it was told
	troubleDamage                   // signed documents were damaged on this host's disk
	troubleFreshness                // this host refused a freshness statement
	troubleIdentity                 // no new certificate: it was refused, by either side
	troubleOlder                    // the coordinator knows less than it once did
	troubles                        // how many there are
)

// note remembers a refusal for the status; an empty reason ends it.
func (l *link) note(t trouble, why fleet.Reason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.troubles[t] = why
}

func (l *link) trouble(t trouble) fleet.Reason {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.troubles[t]
}

func newLink() *link {
	return &link{
		refresh: make(chan struct{}, 1), report: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		reason: fleet.Reason{Code: fleet.ReasonUnreachable, Message: "not tried yet"},
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (l *link) wantRefresh() { poke(l.refresh) }
func (l *link) wantReport()  { poke(l.report) }
func (l *link) nudge()       { poke(l.kick) }

// up notes that the stream is open.
func (l *link) up(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.online, l.seen, l.awake, l.reason = true, now, awake(), fleet.Reason{}
}

// answered notes any answer.
func (l *link) answered(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen, l.awake = now, awake()
}

// down notes that the stream is not open, and why.
func (l *link) down(why fleet.Reason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.online, l.reason = false, why
}

// isOnline says whether the coordinator answers, or did a moment ago.
func (l *link) isOnline(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.slept(now) && (l.online || !l.awake.IsZero() && awake().Sub(l.awake) < onlineFresh)
}

// isStale says whether the machine slept since the last answer.
func (l *link) isStale(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slept(now)
}

// slept says whether the machine slept since the last answer: then a stream may
// be dead without anybody having said so. A clock that was set counts too, until
// the next answer. l.mu is held.
func (l *link) slept(now time.Time) bool {
	return !l.awake.IsZero() && sleptSince(l.seen, l.awake, now)
}

// sleptSince says whether wall time and time awake went apart between then and
// now: in sleep, or because the clock was set.
func sleptSince(then, thenAwake, now time.Time) bool {
	// Without their monotonic parts, which stand still in sleep.
	return (now.Round(0).Sub(then.Round(0)) - awake().Sub(thenAwake)).Abs() > onlineFresh
}

func (l *link) isUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.online
}

func (l *link) state() (fleet.Reason, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	why := l.reason
	for _, t := range l.troubles {
		if why.Code == "" {
			why = t
		}
	}
	return why, l.seen
}

// remember keeps which documents the coordinator asked for last.
func (l *link) remember(ds []fleet.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = ds
}

func (l *link) unknown() []fleet.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

func (a *Agent) newClient(id identity.Binding) *sync.Client {
	addresses := id.Addresses
	if len(a.config.Coordinator) > 0 {
		addresses = a.config.Coordinator
	}
	var drivers []string
	for name := range a.drivers {
		drivers = append(drivers, "driver:"+name)
	}
	slices.Sort(drivers)
	return sync.New(sync.Config{
		Addresses: addresses, Log: a.config.Log,
		TLS: pki.ClientTLS(a.asClient(id.Fleet)),
		Hello: sync.Hello{
			Version: a.config.Version, InstanceID: a.identity.InstanceID(), BootID: a.bootID, RunID: a.run, Capabilities: drivers,
		},
	})
}

// asClient is how this host says who it is, and knows others of its fleet.
func (a *Agent) asClient(f fleet.FleetID) pki.ClientConfig {
	return pki.ClientConfig{Certificate: a.identity.Certificate, CAs: a.identity.CAs, Fleet: f, Now: a.now}
}

// watch follows the coordinator's hints.
func (a *Agent) watch(ctx context.Context, b *bound) error {
	l := a.progress.Loop("stream", "beginning", oneMoment)
	defer l.Ends()
	l.Waits()
	return b.client.Watch(ctx, a.config.watchBackoff(), a.link.kick,
		func(h sync.Hint) {
			l.Does("taking a hint", oneMoment)
			defer l.Waits()
			a.link.up(a.config.Now())
			switch h {
			case sync.HintHello:
				a.link.wantRefresh()
				a.link.wantReport()
				a.backOnline()
			case sync.HintDesired:
				a.link.wantRefresh()
			case sync.HintReport:
				a.link.wantReport()
			}
		},
		func(err error) {
			l.Does("noting that it ended", oneMoment)
			defer l.Waits()
			r := sync.ReasonOf(err)
			a.link.down(r)
			a.config.Log.Info("no stream to the coordinator", "reason", string(r.Code), "error", err)
		})
}

// backOnline ends waits that had only the coordinator's absence for a reason.
func (a *Agent) backOnline() {
	for _, w := range a.sorted() {
		w.online()
	}
}

// refreshLoop asks what is desired after each hint, and on the poll interval.
func (a *Agent) refreshLoop(ctx context.Context, b *bound) error {
	failed := 0
	l := a.progress.Loop("desired", "beginning", oneCall)
	defer l.Ends()
	for {
		poll := a.config.PollInterval
		t := time.NewTimer(poll - poll/10 + spread(poll/5))
		l.Waits()
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
			// Without a stream, opening one is the poll.
			if !a.link.isUp() {
				continue
			}
			a.link.wantReport()
		case <-a.link.refresh:
			t.Stop()
		}
		l.Does("asking what is desired", oneCall)
		got, err := a.refresh(ctx, b)
		if err != nil {
			return err
		}
		if err := rests(ctx, l, refreshPause, nil); err != nil {
			return err
		}
		if got == refreshed {
			failed = 0
			continue
		}
		if !a.link.isUp() {
			continue // The next stream's hello asks.
		}
		var early <-chan struct{}
		if got == notKept {
			early = a.link.refresh // The coordinator is well: a hint is worth an attempt.
		}
		if err := rests(ctx, l, spread(grow(a.config.Retry, failed)), early); err != nil {
			return err
		}
		failed++
		a.link.wantRefresh()
	}
}

// grow is the wait after so many failed attempts.
func grow(r Retry, failed int) time.Duration {
	d := r.First
	for range min(failed, 32) {
		if d >= r.Max {
			break
		}
		d *= 2
	}
	return min(d, r.Max)
}

// spread draws evenly from (0, d].
func spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(rand.Int64N(int64(d))) + 1 //nolint:gosec // Spreads load; no secret.
}

// awake is for differences only: its monotonic part stands still while the
// machine sleeps, and no step of the clock moves it.
func awake() time.Time { return time.Now() } //nolint:forbidigo // Not as wall time.

// sleep waits for d in time awake, or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error { return sleepOr(ctx, d, nil) }

// sleepOr is sleep that a receive from early ends.
func sleepOr(ctx context.Context, d time.Duration, early <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-early:
		return nil
	case <-t.C:
		return nil
	}
}
