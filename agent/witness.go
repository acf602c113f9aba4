package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	stdsync "sync"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/agent/internal/witness"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

const (
	// witnessFirst is how long the coordinator may take to answer before anybody else is
	// asked; witnessPause is between two rounds of that.
	witnessFirst = time.Second
	witnessPause = 3 * time.Second
	// hereWithin and outsideWithin bound what a witness may take: one that is slower is
	// taken to be away. A witness that is just asking for another host asks for this one
	// after that, and after a pause: twice two seconds and a half, and one.
	hereWithin    = 2 * time.Second
	outsideWithin = 8 * time.Second
	// answerAgain is how soon an address is tried again that can't be listened on, such
	// as that of a network which is not up yet.
	answerAgain = 30 * time.Second
)

// reachOf is the newest signed word about who can tell what is out of reach.
func (a *Agent) reachOf(b *bound) fleet.Reach {
	if o := b.desired.Newest(fleet.System); o != nil && o.Generation.Doc.Reach != nil {
		return *o.Generation.Doc.Reach
	}
	return fleet.Reach{}
}

// witnessLoop answers other hosts where the newest generation says so.
func (a *Agent) witnessLoop(ctx context.Context, b *bound) error {
	l := a.progress.Loop("witness", "beginning", oneMoment)
	defer l.Ends()
	for {
		l.Waits()
		address := a.reachOf(b).Answers
		if address == "" {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-a.newest:
			}
			continue
		}
		err := a.answerAt(ctx, b, address)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			continue // It is another one by now.
		}
		a.config.Log.Warn("this host can't answer others as a witness; it tries again", "address", address, "error", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.newest:
		case <-time.After(answerAgain):
		}
	}
}

// answerAt answers until ctx ends, or the newest generation has another address.
func (a *Agent) answerAt(ctx context.Context, b *bound, address string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return err //nolint:wrapcheck // It says all.
	}
	a.config.Log.Info("answering others as a witness", "address", address)
	s := &witness.Server{
		TLS: pki.WitnessServerTLS(pki.ServerConfig{
			Certificate: a.identity.Certificate, CAs: a.identity.CAs, Fleet: b.fleet, Now: a.now,
		}),
		Reach: func(ctx context.Context) error {
			err := a.reachOnce(ctx, b)
			if err != nil && a.inFlight() {
				// Perhaps of the same release as who asks, and broken in the same way.
				err = witness.ErrBusy
			}
			return err
		},
		Log: a.config.Log,
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	for {
		select {
		case err := <-served:
			return err
		case <-a.newest:
			if a.reachOf(b).Answers != address {
				cancel()
				return <-served
			}
		}
	}
}

// reachOnce reports over a new connection, once. A refusal is an answer: a coordinator
// with a full disk says nothing against the host; nor does a full disk here.
func (a *Agent) reachOnce(ctx context.Context, b *bound) error {
	_, err := a.report(ctx, b, b.client.Reach)
	if refused := (*sync.RefusedError)(nil); err != nil && !errors.As(err, &refused) && !errors.Is(err, errAckNotKept) {
		return err
	}
	if !a.link.isUp() {
		a.link.nudge() // It may have come back just now.
	}
	return nil
}

// ask puts a question to all witnesses at once, and returns those that say yes, and why
// the others don't. Where one yes is enough, the first ends it.
func (a *Agent) ask(ctx context.Context, witnesses []fleet.Witness, ask witness.Ask, within time.Duration, enough bool) (yes []fleet.MachineName, no error) {
	b := a.bound.Load()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	errs := make([]error, len(witnesses))
	var wg stdsync.WaitGroup
	for i, w := range witnesses {
		wg.Go(func() {
			err := witness.Put(ctx, pki.WitnessClientTLS(a.asClient(b.fleet), w.Machine), w.Address, ask)
			switch {
			case err != nil:
				errs[i] = fmt.Errorf("%s: %w", w.Machine, err)
			case enough:
				cancel()
			}
		})
	}
	wg.Wait()
	for i, w := range witnesses {
		if errs[i] == nil {
			yes = append(yes, w.Machine)
		}
	}
	return yes, errors.Join(errs...)
}

// askBefore notes in the intent to activate who answers now: only that counts afterwards.
func (w *worker) askBefore(ctx context.Context, act *journal.Activation, r *fleet.Reach) {
	if r == nil || len(r.Witnesses) == 0 || !act.OnlineBefore {
		return
	}
	if !r.Coordinator {
		act.Witnesses, _ = w.a.ask(ctx, r.Witnesses, witness.Here, hereWithin, false) // Who does not answer is no witness.
		return
	}
	var no error
	if act.Outside, no = w.a.ask(ctx, r.Witnesses, witness.Coordinator, outsideWithin, false); len(act.Outside) == 0 && ctx.Err() == nil {
		w.log.Warn("nobody reaches the coordinator on this host from outside: whether others do afterwards can't be told", "error", no)
	}
}

// among are the witnesses that are named.
func among(all []fleet.Witness, names []fleet.MachineName) []fleet.Witness {
	return slices.DeleteFunc(slices.Clone(all), func(w fleet.Witness) bool { return !slices.Contains(names, w.Machine) })
}

// witnesses has a verification count on those that answered before the activation.
func (t *trial) witnesses(act *journal.Activation, r *fleet.Reach) {
	if r != nil {
		t.here, t.outside = among(r.Witnesses, act.Witnesses), among(r.Witnesses, act.Outside)
	}
}

// reachOutside is reach for a host that the coordinator runs on: it is reached where
// somebody else does.
func (w *worker) reachOutside(ctx context.Context, t trial) (why string, ok bool) {
	for {
		yes, no := w.a.ask(ctx, t.outside, witness.Coordinator, outsideWithin, true)
		if len(yes) > 0 {
			return "", true
		}
		if no != nil && ctx.Err() == nil {
			why = "nobody reaches the coordinator on this host from outside: " + strings.ReplaceAll(no.Error(), "\n", "; ")
		}
		if sleep(ctx, spread(witnessPause)) != nil {
			return why, false
		}
	}
}

// bearWitness asks, until ctx ends, those that answered before whether they reach the
// coordinator, and says what came of the last round. One that says no shows that this host
// is well connected, and the coordinator is not. One that says yes shows that it is this
// host. So does a coordinator that takes connections and fails the handshake: that is
// between the two.
func (w *worker) bearWitness(ctx context.Context, t trial) (witnessed bool) {
	if len(t.here) == 0 {
		return false
	}
	for wait := witnessFirst; sleep(ctx, wait) == nil; wait = witnessPause {
		yes, no := w.a.ask(ctx, t.here, witness.Coordinator, outsideWithin, true)
		if ctx.Err() != nil {
			break // Half a round says nothing.
		}
		strange := w.a.bound.Load().client.Strange(ctx, hereWithin)
		if ctx.Err() != nil {
			break
		}
		witnessed = len(yes) == 0 && errors.Is(no, witness.ErrNo) && !strange
	}
	return witnessed
}
