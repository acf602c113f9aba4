package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/probe"
)

// System is the system whose executables this host runs.
const System = runtime.GOOS + "/" + runtime.GOARCH

// Defaults of a Host.
const (
	defaultStart = 10 * time.Second
	defaultCall  = 30 * time.Second
	defaultBuild = time.Hour
	defaultIdle  = 10 * time.Second
	defaultFirst = time.Second
	defaultMax   = 5 * time.Minute
)

// Options of a Host. Zero fields take defaults.
type Options struct {
	// Dir keeps executables, for the agent alone. Absolute.
	Dir string
	// SocketDir is for sockets; its path must be short. Absolute.
	SocketDir string
	// StateDir has a directory for each driver plugin, open to others. Absolute.
	StateDir string
	// Path is PATH of plugins.
	Path string
	// Start bounds the handshake, Call a call, Build a build; Idle is how long a
	// process is kept without one.
	Start, Call, Build, Idle time.Duration
	// First and Max bound the waits before a plugin is started again that failed.
	First, Max time.Duration
	// Now is wall time, for certificates.
	Now func() time.Time
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		to  *time.Duration
		def time.Duration
	}{
		{&o.Start, defaultStart},
		{&o.Call, defaultCall},
		{&o.Build, defaultBuild},
		{&o.Idle, defaultIdle},
		{&o.First, defaultFirst},
		{&o.Max, defaultMax},
	} {
		if *d.to == 0 {
			*d.to = d.def
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Host runs plugins. Close ends all of them.
type Host struct {
	opts  Options
	store store

	mu       sync.Mutex // guards what follows
	sessions map[key]*session
	closed   bool
}

// key tells plugins apart: one executable may be pinned under two names.
type key struct {
	name   fleet.PluginName
	kind   fleet.PluginKind
	digest fleet.Digest
}

// Open makes the directories and clears away what a crash left. No other
// process may use them.
func Open(o Options) (*Host, error) {
	o = o.withDefaults()
	s, err := openStore(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(o.SocketDir); err != nil {
		return nil, fmt.Errorf("opening plugins: %w", err)
	}
	return &Host{opts: o, store: s, sessions: map[key]*session{}}, nil
}

// Whole says whether a plugin's executable is here, as it was signed. It reads
// all of it.
func (h *Host) Whole(ref fleet.BlobRef) bool {
	f, err := h.store.open(ref)
	if err != nil {
		if errors.Is(err, errChanged) {
			h.opts.Log.Warn("a stored plugin is fetched again", "reason", string(fleet.ReasonPluginChecksum), "error", err)
		}
		return false
	}
	return f.Close() == nil
}

// Install copies a plugin's executable from a file.
func (h *Host) Install(ref fleet.BlobRef, from string) error { return h.store.install(ref, from) }

// Prune removes the executables that are not in keep.
func (h *Host) Prune(keep map[fleet.Digest]bool) error {
	h.mu.Lock()
	var gone []*session
	for k, s := range h.sessions {
		if !keep[k.digest] {
			gone = append(gone, s)
			delete(h.sessions, k)
		}
	}
	h.mu.Unlock()
	for _, s := range gone {
		s.close()
	}
	return h.store.prune(keep)
}

// Close ends all plugins and refuses further calls.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	sessions := h.sessions
	h.sessions = nil
	h.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range sessions {
		wg.Go(s.close)
	}
	wg.Wait()
	if err := os.RemoveAll(h.opts.SocketDir); err != nil {
		return fmt.Errorf("ending plugins: %w", err)
	}
	return nil
}

var errClosed = errors.New("is not started any more: the agent ends")

// session returns the one of a plugin's executable for this system.
func (h *Host) session(p fleet.Plugin) (*session, error) {
	ref, ok := p.On(System)
	if !ok {
		return nil, &Error{
			Plugin: p.Name, Kind: p.Kind, Code: fleet.ReasonPluginMissing,
			Cause: fmt.Errorf("has no executable for %s", System),
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, &Error{Plugin: p.Name, Kind: p.Kind, Code: fleet.ReasonPluginMissing, Cause: errClosed}
	}
	k := key{p.Name, p.Kind, ref.Digest}
	s := h.sessions[k]
	if s == nil {
		s = &session{
			host: h, plugin: p, ref: ref, turn: make(chan struct{}, 1),
			log: h.opts.Log.With("plugin", string(p.Name), "kind", string(p.Kind)),
		}
		h.sessions[k] = s
	}
	return s, nil
}

// launch verifies the executable and starts it.
func (h *Host) launch(ctx context.Context, s *session) (*process, fleet.ReasonCode, error) {
	exe, err := h.store.open(s.ref)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fleet.ReasonPluginMissing, errors.New("is not on this host any more")
	case errors.Is(err, errChanged):
		return nil, fleet.ReasonPluginChecksum, err
	case err != nil:
		return nil, fleet.ReasonInternal, fmt.Errorf("cannot be read: %w", err)
	}
	defer func() { _ = exe.Close() }()
	l := launch{
		plugin: s.plugin, exe: exe, socketDir: h.opts.SocketDir, path: h.opts.Path,
		timeout: h.opts.Start, now: h.opts.Now, log: s.log,
	}
	if err := os.MkdirAll(h.opts.SocketDir, 0o700); err != nil {
		return nil, fleet.ReasonInternal, fmt.Errorf("could not get a directory for its socket: %w", err)
	}
	if s.plugin.Kind == fleet.PluginDriver {
		l.stateDir = filepath.Join(h.opts.StateDir, string(s.plugin.Name))
		// Services of other users live there.
		if err := os.MkdirAll(l.stateDir, 0o755); err != nil { //nolint:gosec // Nothing secret is in it.
			return nil, fleet.ReasonInternal, fmt.Errorf("could not get a directory to keep things in: %w", err)
		}
	}
	return start(ctx, l)
}

// broken says whether an error of a call is the plugin's doing, and its code.
func broken(err error) (fleet.ReasonCode, bool) {
	switch {
	case errors.Is(err, driver.ErrGone), errors.Is(err, probe.ErrGone):
		return fleet.ReasonPluginCrashed, true
	case errors.Is(err, driver.ErrAnswer), errors.Is(err, probe.ErrAnswer), errors.Is(err, probe.ErrUnsupported):
		return fleet.ReasonPluginAnswer, true
	}
	return "", false
}
