// Package coordinator is the program that a fleet's hosts and operators talk
// to: it keeps signed releases, wakes hosts when something is new for them and
// keeps what they report. It has no key that signs releases or decrypts
// secrets, and its store can be lost without harm to hosts.
package coordinator

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/blob"
	"github.com/cameronraysmith/fleet/coordinator/internal/ca"
	"github.com/cameronraysmith/fleet/coordinator/internal/enrol"
	"github.com/cameronraysmith/fleet/coordinator/internal/looks"
	"github.com/cameronraysmith/fleet/coordinator/internal/publish"
	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/coordinator/internal/store/bolt"
	"github.com/cameronraysmith/fleet/coordinator/internal/transport"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/watchdog"
)

// ErrOtherFleet says that the state directory belongs to another fleet.
var ErrOtherFleet = errors.New("state directory belongs to another fleet")

// Kinds of events that this package writes.
const (
	// KindStarted is a start.
	KindStarted audit.Kind = "coordinator-started"
	// KindStoreDamaged is damage of the store's file.
	KindStoreDamaged audit.Kind = "store-damaged"
)

// Config is what a coordinator is made from. New checks it; it is not changed
// later.
type Config struct {
	// Kit is the start-up kit.
	Kit *kit.Kit
	// StateDir is made where it is missing. One process may use it at a time.
	StateDir string
	// Listen is the address to listen on, host:port; port 0 takes a free one.
	Listen string
	// MaxBlobBytes bounds one blob; 0 is the default of 8 GiB.
	MaxBlobBytes uint64
	// MinFreeBytes is what uploads leave free on the disk; 0 is the default.
	MinFreeBytes uint64
	// TransferPace is the slowest upload or download that is put up with; the zero value is
	// pace.Default.
	TransferPace pace.Limit
	// Supervisor is told that the coordinator serves and makes progress; nil for
	// nobody.
	Supervisor *watchdog.Supervisor
	// Now tells the time; nil is the system's clock.
	Now func() time.Time
	// Log is where the log goes; nil is nowhere.
	Log *slog.Logger
}

// Coordinator is a coordinator that listens.
type Coordinator struct {
	store    *bolt.Store
	blobs    *blob.Store
	registry *registry.Registry
	server   *transport.Server
	listener net.Listener
	backups  *backups
	scrubber *scrubber
	log      *slog.Logger

	supervisor *watchdog.Supervisor
	progress   *watchdog.Progress
}

// New opens the state directory, applies the kit and begins to listen; Run
// answers. Who gets a Coordinator must call Run, or Close. Errors:
// ErrOtherFleet, those of the store, refusals of pkg/release about the kit's
// trust roots.
func New(ctx context.Context, c Config) (*Coordinator, error) {
	if c.Now == nil {
		c.Now = time.Now //nolint:forbidigo // Here it is injected.
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.TransferPace == (pace.Limit{}) {
		c.TransferPace = pace.Default
	}
	if c.Kit == nil {
		return nil, errors.New("starting the coordinator: no kit")
	}
	co, err := newCoordinator(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("starting the coordinator: %w", roomless(err, c.StateDir))
	}
	return co, nil
}

func newCoordinator(ctx context.Context, c Config) (_ *Coordinator, err error) {
	if err := c.Kit.Check(); err != nil {
		return nil, err
	}
	trust, err := release.OpenChain(c.Kit.Roots, c.Kit.RootPin)
	if err != nil {
		return nil, err
	}
	if f := trust.Root().Fleet; f != c.Kit.Fleet {
		return nil, fmt.Errorf("the kit is of fleet %s, its trust root of %s: %w", c.Kit.Fleet, f, release.ErrWrongFleet)
	}
	authority, err := newAuthority(c)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	blobs, err := blob.Open(filepath.Join(c.StateDir, blobsDir), blob.Options{
		MaxBytes: c.MaxBlobBytes, MinFree: c.MinFreeBytes, Now: c.Now, Log: c.Log,
	})
	if err != nil {
		return nil, err
	}
	db, err := bolt.Open(filepath.Join(c.StateDir, storeFile))
	if err != nil {
		return nil, err
	}
	co := &Coordinator{
		store: db, blobs: blobs, log: c.Log, supervisor: c.Supervisor, progress: watchdog.NewProgress(awake),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, co.Close())
		}
	}()
	if err := co.assemble(ctx, c, trust, authority); err != nil {
		return nil, err
	}
	// No probes of the kernel's: HTTP/2 has pings of its own. After a wake-up of
	// thousands the probes come all at once, some are lost, and gRPC's
	// TCP_USER_TIMEOUT then ends connections that nothing is wrong with.
	if co.listener, err = (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", c.Listen); err != nil {
		return nil, fmt.Errorf("listening on %s: %w", c.Listen, err)
	}
	if co.backups, err = listenBackups(ctx, c.StateDir, db, blobs, c.Now, c.Log); err != nil {
		return nil, err
	}
	return co, nil
}

func newAuthority(c Config) (*ca.Authority, error) {
	authority, err := pki.ParseCA(c.Kit.CACert, c.Kit.CAKey)
	if err != nil {
		return nil, err
	}
	key, err := pki.ParseKey(c.Kit.Key)
	if err != nil {
		return nil, err
	}
	id := pki.CoordinatorIdentity(c.Kit.Fleet, fleet.MachineName(c.Kit.Name))
	var others []*x509.Certificate
	for _, der := range c.Kit.OtherCAs {
		other, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("reading another CA: %w: make the kit anew", err)
		}
		others = append(others, other)
	}
	return ca.New(ca.Options{CA: authority, Others: others, Identity: id, Cert: c.Kit.Cert, Key: key, Now: c.Now})
}

// assemble puts the parts together over an open store.
func (co *Coordinator) assemble(ctx context.Context, c Config, trust *release.Trust, authority *ca.Authority) error {
	if err := claim(ctx, co.store, c.Kit.Fleet); err != nil {
		return err
	}
	log, err := audit.Open(ctx, co.store, c.Now, c.Log)
	if err != nil {
		return err
	}
	actor := pki.CoordinatorIdentity(c.Kit.Fleet, fleet.MachineName(c.Kit.Name)).Path()
	co.registry, err = registry.Open(ctx, registry.Options{Store: co.store, Log: log, Actor: actor, Now: c.Now, Slog: c.Log, Progress: co.progress})
	if err != nil {
		return err
	}
	if err := applyKit(ctx, co.store, co.registry, c.Kit, actor); err != nil {
		return err
	}
	publisher, err := publish.Open(ctx, publish.Options{
		Store: co.store, Log: log, Blobs: co.blobs, Now: c.Now, Slog: c.Log,
		Roots: c.Kit.Roots, RootPin: c.Kit.RootPin,
	})
	if err != nil {
		return err
	}
	looked, err := looks.Open(ctx, co.store, log, c.Kit.Fleet, c.Log)
	if err != nil {
		return err
	}
	enroller := enrol.New(enrol.Options{
		Store: co.store, Log: log, Registry: co.registry, Authority: authority, Now: c.Now, Slog: c.Log,
	})
	co.server = transport.New(transport.Options{
		Fleet: c.Kit.Fleet, Registry: co.registry, Publisher: publisher, Enroller: enroller, Authority: authority,
		Log: log, Looks: looked, Blobs: co.blobs, TransferPace: c.TransferPace, Now: c.Now, Slog: c.Log,
	})
	started := []audit.Entry{{Actor: actor, Kind: KindStarted, Message: fmt.Sprintf("trust root %d", publisher.Trust().Root().Version)}}
	if notice := co.store.Notice(); notice != "" {
		started = append(started, audit.Entry{Actor: actor, Kind: KindStoreDamaged, Message: notice, Alarm: true})
	}
	ops, was, err := restored(ctx, co.store, actor)
	if err != nil {
		return err
	}
	co.scrubber = &scrubber{co: co, log: log, publisher: publisher, actor: actor, told: map[fleet.Digest]bool{}}
	co.blobs.OnDamage(co.scrubber.damaged)
	err = log.Commit(ctx, audit.Change{Ops: ops, Entries: append(started, was...)})
	crashpoint.Hit(crashpoint.StartRecorded)
	return err
}

// Addr is the address that the coordinator listens on.
func (co *Coordinator) Addr() net.Addr { return co.listener.Addr() }

// partialAge is how long an upload that broke off is kept, and sweepEvery how
// often those are looked for.
const (
	partialAge = 7 * 24 * time.Hour
	sweepEvery = 24 * time.Hour
)

// Run serves until ctx ends, stops within seconds, writes what is only in
// memory and closes the state directory.
func (co *Coordinator) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	// What the last calls said is written after the last call.
	served, stopped := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error {
		defer stopped()
		l := co.progress.Loop("serving", "beginning", takeWithin)
		defer l.Ends()
		return co.server.Serve(gctx, taking{co.listener, l})
	})
	g.Go(func() error {
		co.supervisor.Run(gctx, co.progress, co.statusLine, nil)
		return nil
	})
	g.Go(func() error { return co.registry.Run(served) })
	g.Go(func() error {
		co.sweep(gctx)
		return nil
	})
	g.Go(func() error {
		co.scrubber.run(gctx)
		return nil
	})
	g.Go(func() error {
		co.backups.run(gctx)
		return nil
	})
	g.Go(func() error {
		trim(gctx)
		return nil
	})
	return errors.Join(g.Wait(), co.Close())
}

// sweep removes uploads that broke off long ago.
func (co *Coordinator) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if _, err := co.blobs.Sweep(ctx, partialAge); err != nil && ctx.Err() == nil {
			co.log.Warn("removing old uploads failed", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Close closes what New opened, where Run is not called. Closing again is no
// error.
func (co *Coordinator) Close() error {
	var err error
	if co.listener != nil {
		if e := co.listener.Close(); e != nil && !errors.Is(e, net.ErrClosed) {
			err = e
		}
	}
	if co.backups != nil {
		err = errors.Join(err, co.backups.closing())
	}
	if e := co.store.Close(); e != nil && !errors.Is(e, store.ErrClosed) {
		err = errors.Join(err, e)
	}
	return err
}
