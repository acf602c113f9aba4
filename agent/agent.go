package agent

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	stdsync "sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/deadman"
	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/handover"
	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/plugin"
	"github.com/cameronraysmith/fleet/agent/internal/quarantine"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/watchdog"
)

// Names below the state directory.
const (
	identityDir = "identity"
	desiredDir  = "desired"
	blobsDir    = "blobs"
	runsDir     = "runs"
	// pluginsDir has the executables of plugins, pluginStateDir by default what
	// driver plugins keep.
	pluginsDir     = "plugins"
	pluginStateDir = "plugin-state"
)

// maxFetches is how many profiles fetch at a time.
const maxFetches = 4

// Agent is the agent of one host.
type Agent struct {
	config   Config
	journal  *journal.Journal
	identity *identity.Store
	// rooted has the trust roots; nil before there are any.
	rooted atomic.Pointer[desired.Store]
	// looks is poked by who asks how this host is, to have what a person did looked for now.
	looks chan struct{}
	// rootMoved is poked when there is another trust root.
	rootMoved chan struct{}
	executor  *execute.Executor
	switches  *deadman.Children // nil for none
	// startSwitch is how one is started.
	startSwitch deadman.Start
	blobs       sync.Blobs
	drivers     map[string]driver.Driver
	stop        func() error // ends the drivers; nil before they are open
	plugins     *plugin.Host // nil before it is open
	bootID      string
	run         string       // names this run: a random text
	suspect     atomic.Bool  // a power loss may have damaged what was built
	floor       atomic.Int64 // unix nanoseconds of the newest signed time seen
	// standing is how the agent's service stood when it was last looked at; nil for never.
	standing atomic.Pointer[handover.Standing]
	// cluttered says that there may be something to clear away that nobody needs.
	cluttered atomic.Bool

	// fetches has an element for each profile that fetches.
	fetches chan struct{}

	console  consoles
	link     *link
	rest     *rest
	logHeads *logHeads
	// progress is what a supervisor wants to hear of; decided is poked when a
	// profile's state changes.
	progress *watchdog.Progress
	decided  chan struct{}
	// attempts is what the agent is at, for the next one should it die of it.
	attempts *quarantine.Ledger
	// newest is poked when another generation of the system is the newest.
	newest chan struct{}

	// taking is held while documents are taken, whoever brings them, and while
	// the trust root is reset.
	taking stdsync.Mutex

	// renewing is held while the host identity is: one renewal replaces the
	// connection that another would use.
	renewing stdsync.Mutex

	// building is held, shared, while blobs and secrets of a generation are
	// made ready; who clears away takes it alone.
	building stdsync.RWMutex

	mu      stdsync.Mutex
	workers map[fleet.ProfileName]*worker
	// startWorker begins a profile's worker; nil until the host is enrolled and
	// Run runs.
	startWorker func(*worker)

	// Set once, when the host is enrolled.
	bound atomic.Pointer[bound]
}

// bound is what an agent has once it knows who it is.
type bound struct {
	fleet   fleet.FleetID
	machine fleet.MachineName
	desired *desired.Store
	client  *sync.Client
	latest  func() time.Time
}

// New opens the state directory, for itself alone. Close gives it back; Run
// does too. Errors: journal.ErrLocked where another agent has it,
// journal.ErrNewerState, or of the file system.
func New(c Config) (*Agent, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &Agent{
		config: c, workers: map[fleet.ProfileName]*worker{},
		blobs:  sync.Blobs{Dir: filepath.Join(c.StateDir, blobsDir), Pace: c.BlobPace},
		bootID: c.BootID, run: rand.Text(), fetches: make(chan struct{}, maxFetches), link: newLink(), rest: newRest(c.Activity),
		console: consoles{wanted: make(chan struct{}, 1)},
		looks:   make(chan struct{}, 1), rootMoved: make(chan struct{}, 1), progress: watchdog.NewProgress(awake), decided: make(chan struct{}, 1), newest: make(chan struct{}, 1),
		attempts: quarantine.Open(filepath.Join(c.RunDir, attemptsDir)),
	}
	a.cluttered.Store(true) // By the one before, which may have been killed.
	const restart = "make room on this host's disk, then start the agent again: what runs goes on"
	if a.journal, err = journal.Open(c.StateDir, journal.Options{Now: a.now, Log: c.Log}); err != nil {
		return nil, a.hinted(fmt.Errorf("starting agent: %w", err), restart)
	}
	if err := a.open(); err != nil {
		return nil, errors.Join(a.hinted(fmt.Errorf("starting agent: %w", err), restart), a.Close())
	}
	return a, nil
}

func (a *Agent) open() (err error) {
	c := a.config
	st := a.journal.State()
	a.raiseFloor(st.Floor)
	if a.drivers, a.stop, err = c.OpenDrivers(); err != nil {
		return fmt.Errorf("opening drivers: %w", err)
	}
	if len(a.drivers) == 0 {
		return errors.New("opening drivers: there is none")
	}
	if why := contain.Without(); why != "" && a.drivers[fleet.DriverHome] != nil {
		c.Log.Info("what home profiles have run as their users is part of the agent's service, and is bounded less", "because", why)
	}
	if err := a.openPlugins(); err != nil {
		return err
	}
	a.identity, err = identity.Open(identity.Options{
		Dir: filepath.Join(c.StateDir, identityDir), AgeIdentity: c.AgeIdentity, Trusted: a.trustedCAs,
	})
	if err != nil {
		return err
	}
	if a.logHeads, err = openLogHeads(c.StateDir); err != nil {
		c.Log.Warn("what this host kept of the coordinator's event log can't be read, and is begun anew", "error", err)
	}
	a.executor, err = execute.New(filepath.Join(c.StateDir, runsDir), c.Runner, execute.Options{
		Log: c.Log, Unit: c.DeadMan.Unit, Units: a.units(),
	})
	if err != nil {
		return err
	}
	a.openSwitches()
	if err := os.MkdirAll(a.blobs.Dir, 0o700); err != nil {
		return fmt.Errorf("opening blobs: %w", err)
	}
	if err := a.openBoot(); err != nil {
		return err
	}
	for name := range st.Profiles {
		a.workers[name] = newWorker(a, name)
	}
	if a.workers[fleet.System] == nil {
		a.workers[fleet.System] = newWorker(a, fleet.System)
	}
	if !a.identity.Enrolled() {
		return nil
	}
	return a.bind()
}

// trustedCAs are those of the newest trust root.
func (a *Agent) trustedCAs() []*x509.Certificate {
	if s := a.rooted.Load(); s != nil {
		if t := s.Trust(); t != nil {
			return t.CAs()
		}
	}
	return nil
}

// bind opens what depends on who the host is.
func (a *Agent) bind() error {
	if err := a.finishReset(); err != nil {
		return err
	}
	id, err := a.identity.Binding()
	if err != nil {
		return err
	}
	a.raiseFloor(id.Issued)
	store, err := desired.Open(filepath.Join(a.config.StateDir, desiredDir), id.Root, a.journal.State().Root.Version)
	if err != nil {
		return err
	}
	store.Watch(a.attempts)
	a.rooted.Store(store)
	if damage := store.Damage(); damage != nil {
		a.config.Log.Error("signed documents on this host's disk are damaged; the coordinator is asked for them", "error", damage)
		a.noteDamage(damage)
	}
	a.raiseFloor(store.Floor())
	a.restoreSecrets(store)
	for _, p := range store.Profiles() {
		a.worker(p)
	}
	a.bound.Store(&bound{
		fleet: id.Fleet, machine: id.Machine, desired: store, client: a.newClient(id), latest: a.latest,
	})
	return nil
}

// Close gives the state directory back, for an agent that was not Run.
func (a *Agent) Close() error {
	if b := a.bound.Load(); b != nil {
		b.client.Close()
	}
	var err error
	if a.plugins != nil {
		err = a.plugins.Close()
		a.plugins = nil
	}
	if a.stop != nil {
		err = errors.Join(err, a.stop())
		a.stop = nil
	}
	return errors.Join(err, a.journal.Close())
}

// Run works until ctx ends, and then stops within seconds: an activation in
// flight goes on in its own process, and the next agent takes it up. It
// returns nil where ctx ended, and an error only where nothing more can be
// done, such as a disk that takes no more journal.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, a.Close()) }()
	server, err := control.Listen(ctx, a.config.RunDir, a)
	if err != nil {
		return fmt.Errorf("starting agent: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Serve(ctx) })
	g.Go(func() error {
		a.config.Supervisor.Run(ctx, a.progress, a.statusLine, a.decided)
		return nil
	})
	g.Go(func() error {
		if err := a.enrol(ctx); err != nil {
			return err
		}
		b := a.bound.Load()
		a.mu.Lock()
		defer a.mu.Unlock()
		// Only called by goroutines of g, so g.Go is never called after g.Wait.
		a.startWorker = func(w *worker) { g.Go(func() error { return w.run(ctx) }) }
		for _, w := range a.workers {
			a.startWorker(w)
		}
		g.Go(func() error { return a.watch(ctx, b) })
		g.Go(func() error { return a.refreshLoop(ctx, b) })
		g.Go(func() error { return a.reportLoop(ctx, b) })
		g.Go(func() error { return a.tick(ctx, b) })
		g.Go(func() error { return a.witnessLoop(ctx, b) })
		g.Go(func() error { return a.servePerson(ctx) })
		if a.config.Freshness.Key != "" {
			g.Go(func() error { return a.attestLoop(ctx, b) })
		}
		return nil
	})
	err = g.Wait()
	a.executor.Release()
	if errors.Is(err, context.Canceled) || errors.Is(err, errStopped) {
		err = a.writeBoot(true)
	}
	a.leaveRuns(ctx)
	return err
}

// errStopped is the cause of work that ends because the agent stops.
var errStopped = errors.New("agent stops")

// worker returns the worker of a profile, making it where there is none yet.
func (a *Agent) worker(p fleet.ProfileName) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.workers[p]
	if w == nil {
		w = newWorker(a, p)
		a.workers[p] = w
		if a.startWorker != nil {
			a.startWorker(w)
		}
	}
	return w
}

// sorted returns all workers by profile.
func (a *Agent) sorted() []*worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	var ws []*worker
	for _, w := range a.workers {
		ws = append(ws, w)
	}
	slices.SortFunc(ws, func(x, y *worker) int {
		if x.profile < y.profile {
			return -1
		}
		return 1
	})
	return ws
}

// wakeAll has all profiles decide again.
func (a *Agent) wakeAll() {
	for _, w := range a.sorted() {
		w.wake()
	}
}

// now is wall time, but never before the newest signed time seen: a clock that
// steps back must not make an expired document good again.
func (a *Agent) now() time.Time {
	now := a.config.Now()
	if floor := time.Unix(0, a.floor.Load()); now.Before(floor) {
		return floor
	}
	return now
}

// publisherAhead is how far the publisher's clock may be ahead of this host's.
const publisherAhead = time.Hour

// latest is when a document may be issued at the latest; zero where this host's
// clock is not known to be right. It goes by the clock alone: by the floor, each
// document from the future would make room for the next.
func (a *Agent) latest() time.Time {
	if a.config.ClockSynced == nil || !a.config.ClockSynced() {
		return time.Time{}
	}
	return a.config.Now().Add(publisherAhead)
}

// raiseFloor lifts the floor of now; it never sinks.
func (a *Agent) raiseFloor(t time.Time) bool {
	for n := t.UnixNano(); !t.IsZero(); {
		old := a.floor.Load()
		if n <= old {
			return false
		}
		if a.floor.CompareAndSwap(old, n) {
			return true
		}
	}
	return false
}

// recordFloor lifts the floor, for good where t is above what is on record.
func (a *Agent) recordFloor(t time.Time) error {
	return a.journal.Append(a.floorAt(t)...) //nolint:wrapcheck // It says what failed.
}

// floorAt lifts the floor, and returns what has to be recorded that it stays where it
// is, also by what is here no longer; nothing where that is on record.
func (a *Agent) floorAt(t time.Time) []journal.Record {
	a.raiseFloor(t)
	t = time.Unix(0, a.floor.Load()).UTC()
	// By the journal: an earlier attempt to record it may have failed.
	if st := a.journal.State(); !t.After(st.Floor) {
		return nil
	}
	return []journal.Record{{Kind: journal.KindFloor, Floor: t}}
}
