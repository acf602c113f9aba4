package agent

import (
	"context"
	"fmt"
	stdsync "sync"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/console"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
)

const (
	// lookStands is for how long a look at the console counts, which takes a few
	// milliseconds: profiles decide one after the other, and between an intent and its start
	// again. No longer: somebody may sit down in between.
	lookStands = 200 * time.Millisecond
	// listenAgain is how soon the socket for the person at the console is tried again.
	listenAgain = time.Minute
)

var _ control.PersonHost = (*Agent)(nil)

// consoles is what the agent knows of the console of its host.
type consoles struct {
	// wanted is poked when a generation owes the person at the console anything.
	wanted chan struct{}

	mu    stdsync.Mutex
	facts console.Facts
	at    time.Time // when they were looked for, in time awake; zero for never
}

// look is what is known of the console, of the last moments.
func (a *Agent) look() console.Facts {
	if a.config.Console == nil {
		return console.Facts{Presence: console.Nobody}
	}
	a.console.mu.Lock()
	defer a.console.mu.Unlock()
	if a.console.at.IsZero() || awake().Sub(a.console.at) > lookStands {
		a.console.facts = a.config.Console.Look(context.Background())
		a.console.at = awake()
	}
	return a.console.facts
}

// atConsole finds out what is owed to the person at the console before the target is
// activated, where it lies ready, or its activation is no more than an intent.
func (w *worker) atConsole(in *inputs, now time.Time, f facts) {
	p, target := in.state, in.desired.Target
	built := p.Staged
	switch c := in.observed.Change; {
	case c != nil && (c.Phase != reconcile.PhaseActivating || c.Run != reconcile.RunNone):
		w.waits.begun(p.Activation.ID)
	case c != nil:
		built = p.Activation.To
	}
	if target == nil || built.Ref.Digest != target.Digest || in.observed.Staged != target.Digest && in.observed.Change == nil {
		return
	}
	if target.Digest == p.Current.Ref.Digest && !in.observed.Unsure {
		return
	}
	o, err := w.a.bound.Load().desired.Load(target.Digest)
	if err != nil || o.Generation.Doc.Policy.Console.IsZero() {
		return
	}
	if built.Path == p.Current.Path && !in.observed.Unsure {
		return // Its secrets or its policy are new, and nothing that runs is disturbed.
	}
	waits := w.waits.get()
	if waits.Now == target.Digest || f.bootAllowed == target.Digest {
		return // Root has said so.
	}
	look, uid := w.a.look(), waits.UID
	if look.Presence == console.Somebody {
		uid = look.Person.UID
	}
	in.observed.Console = &reconcile.Console{
		Rules: o.Generation.Doc.Policy.Console, Somebody: look.Presence != console.Nobody, UID: uid, Unused: look.Unused,
		OnBattery: look.OnBattery, Doubt: look.Doubt,
		// What is remembered goes by the clock, and decisions never by a time before the
		// newest that was signed.
		Waits: shift(waits.Waits, now.Sub(w.a.config.Now())),
	}
}

// shift moves times from one clock to another.
func shift(w reconcile.Waits, by time.Duration) reconcile.Waits {
	for _, t := range []*time.Time{&w.Since, &w.Told, &w.At} {
		if !t.IsZero() {
			*t = t.Round(0).Add(by) // By the wall: it went on while the machine slept.
		}
	}
	return w
}

// recordWait remembers since when something waits for the console, and forgets it where
// nothing is left to wait.
func (w *worker) recordWait(plan reconcile.Plan, in inputs) error {
	c := in.observed.Console
	switch {
	case plan.Step == reconcile.StepNothing && (w.waits.get().Now == "" || w.waits.get().Now == in.state.Current.Ref.Digest):
		return w.waits.forget() // But for what root has said just now.
	case c == nil || !reconcile.WaitsForConsole(plan):
		return nil
	}
	now := w.a.config.Now()
	if since := w.waits.get().Since; !since.IsZero() && !since.After(now) {
		return nil
	}
	return w.waits.change(func(f *waiting) {
		f.Since, f.Past = now, ""
		if act := in.state.Activation; act != nil && in.observed.Change.Run != reconcile.RunNone {
			f.Past = act.ID
		}
	})
}

// tell tells the person at the console what is about to begin, and records that.
func (w *worker) tell(ctx context.Context, p reconcile.Plan) error {
	now := w.a.now()
	in := w.observe(now)
	if plan, _ := reconcile.Decide(now, in.desired, in.observed, in.policy); !plan.Same(p) {
		return nil
	}
	c, look := in.observed.Console, w.a.look()
	if look.Presence == console.Somebody {
		m := w.notice(ctx, p.Target, in, c)
		if err := w.a.config.Console.Tell(ctx, look.Person, m); err != nil {
			// It is in their status, and they have the same time.
			w.log.Warn("the person at the console could not be told", "uid", look.Person.UID, "error", err)
		} else {
			w.log.Info("told the person at the console", "uid", look.Person.UID, "number", p.Target.Number.String())
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	told := w.a.config.Now()
	err := w.waits.change(func(f *waiting) { f.Waits = (&reconcile.Console{UID: c.UID, Waits: f.Waits}).Tell(told) })
	if err != nil {
		// Told is told: they must not be again because of a disk.
		w.log.Warn("recording that the person at the console was told failed", "error", err)
	}
	return nil
}

// notice is what the person at the console is told. Names in it are of a signed document.
func (w *worker) notice(ctx context.Context, target fleet.Ref, in inputs, c *reconcile.Console) console.Message {
	what := "An update of this computer"
	if w.profile != fleet.System {
		what = "An update of " + string(w.profile)
	}
	begins := w.a.config.Now().Add(time.Duration(c.Rules.Notice)).Local().Format("Mon 15:04")
	text := fmt.Sprintf("%s (generation %s, %s) begins at %s", what, target.Number, target.Release, begins)
	if o, err := w.a.bound.Load().desired.Load(target.Digest); err == nil {
		p := in.state
		boot, err := w.bootFor(ctx, route{from: p.Current, to: p.Staged, back: p.Current, again: unsure(p)}, o.Generation.Doc.Policy)
		if err == nil && boot != nil {
			text += " and restarts it: save your work"
		}
	}
	text += "."
	if left := c.Left(); left > 0 {
		text += fmt.Sprintf(" To put it off, %d more times: fleet-agent postpone", left)
	}
	return console.Message{Title: what, Body: refusal.Plain(text)}
}

// AtConsole says whether that user is at the console at this moment.
func (a *Agent) AtConsole(ctx context.Context, uid uint32) bool {
	if a.config.Console == nil {
		return false
	}
	f := a.config.Console.Look(ctx)
	return f.Presence == console.Somebody && f.Person.UID == uid
}

// Postpone puts off all that waits for the person at the console.
func (a *Agent) Postpone(_ context.Context, ask time.Duration, actor string) (done []control.Postponed, err error) {
	if _, err := a.enrolled(); err != nil {
		return nil, err
	}
	for _, w := range a.sorted() {
		p, werr := w.postpone(ask, actor)
		if werr != nil {
			err = werr
		} else if p.Profile != "" {
			done = append(done, p)
		}
	}
	switch {
	case len(done) > 0:
		return done, nil
	case err != nil:
		return nil, err
	}
	return nil, control.NotPossible("fleet-agent status tells where this machine is and why", "nothing waits for the person at the console")
}

// postpone puts off what waits in one profile; the zero value where nothing does.
func (w *worker) postpone(ask time.Duration, actor string) (control.Postponed, error) {
	var none control.Postponed
	// Nothing begins meanwhile: what is said to be put off is.
	w.begins.Lock()
	defer w.begins.Unlock()
	now := w.a.now()
	in := w.observe(now)
	plan, _ := reconcile.Decide(now, in.desired, in.observed, in.policy)
	c := in.observed.Console
	if c == nil || !reconcile.WaitsForConsole(plan) {
		return none, nil
	}
	waits, until, why := c.Postpone(now, ask, actor)
	if why != "" {
		return none, control.NotPossible("whoever publishes for this machine may change policy.console", "%s", why)
	}
	before, by := w.waits.get(), w.a.config.Now().Sub(now)
	if err := w.waits.change(func(f *waiting) { f.Waits = shift(waits, by) }); err != nil {
		w.waits.put(before)
		return none, w.a.hinted(err, "make room on this host's disk, then ask again: nothing was put off")
	}
	w.moved = true
	w.log.Info("put off", "number", plan.Target.Number.String(), "until", until.UTC(), "times", waits.Times, "actor", actor)
	w.wake()
	c.Waits = waits
	return control.Postponed{Profile: w.profile, Target: plan.Target, Until: until, Left: c.Left()}, nil
}

// beginNow has a generation wait no more for the person at the console: root has said so.
func (w *worker) beginNow(d fleet.Digest) error {
	if err := w.waits.change(func(f *waiting) { f.Now = d }); err != nil {
		return w.a.hinted(err, "make room on this host's disk, then ask again")
	}
	return nil
}

// wantConsole has the person at the console be served from now on.
func (a *Agent) wantConsole() { poke(a.console.wanted) }

// servePerson serves the person at the console, once a generation owes them anything:
// until then there is nothing that they could be asked.
func (a *Agent) servePerson(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.console.wanted:
		}
		s, err := control.ListenPerson(ctx, a.config.RunDir, a)
		if err == nil {
			return s.Serve(ctx)
		}
		a.config.Log.Error("the person at the console can't be served", "error", err)
		if err := sleep(ctx, listenAgain); err != nil {
			return err
		}
		a.wantConsole()
	}
}
