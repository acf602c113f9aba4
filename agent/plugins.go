package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/plugin"
	"github.com/cameronraysmith/fleet/agent/internal/probe"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	external "github.com/cameronraysmith/fleet/pkg/probe"
)

// PluginConfig is about external drivers and probes. Zero fields take defaults.
type PluginConfig struct {
	// Dir has a directory for each driver plugin; absolute, default below the
	// state directory.
	Dir string
	// Start bounds the start of a plugin (default 10s), Call a call of a driver
	// (30s), Build a build (1h). Idle is how long one is kept without work (10s).
	Start, Call, Build, Idle time.Duration
}

// openPlugins makes what runs plugins.
func (a *Agent) openPlugins() (err error) {
	c := a.config
	a.plugins, err = plugin.Open(plugin.Options{
		Dir: c.below(pluginsDir), SocketDir: c.socketDir(), StateDir: c.Plugins.Dir, Path: bundledriver.DefaultPath,
		Start: c.Plugins.Start, Call: c.Plugins.Call, Build: c.Plugins.Build, Idle: c.Plugins.Idle,
		First: c.Retry.First, Max: c.Retry.Max, Now: a.now, Log: c.Log,
	})
	return err //nolint:wrapcheck // It says what failed.
}

// driverOf returns the driver of a generation: a built-in one, or the plugin
// that the generation pins under that name.
func (a *Agent) driverOf(g *fleet.Generation) (driver.Driver, error) {
	name := g.Source.Driver
	if d := a.drivers[name]; d != nil {
		return d, nil
	}
	if p, ok := g.Plugin(fleet.PluginName(name), fleet.PluginDriver); ok {
		return a.plugins.Driver(p), nil
	}
	return nil, fmt.Errorf("%w: this agent has no driver %q: update the agent, or publish another kind of source",
		driver.ErrSource, name)
}

// pluginRefs lists the executables that a generation needs on this host.
func pluginRefs(g *fleet.Generation) ([]fleet.BlobRef, error) {
	var refs []fleet.BlobRef
	for _, p := range g.Plugins {
		ref, ok := p.On(plugin.System)
		if !ok {
			return nil, &plugin.Error{
				Plugin: p.Name, Kind: p.Kind, Code: fleet.ReasonPluginMissing,
				Cause: fmt.Errorf("has no executable for %s", plugin.System),
			}
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// fetchPlugins brings the plugins of a generation here, each read in whole; ok
// is false where that is to be tried again.
func (w *worker) fetchPlugins(ctx context.Context, p reconcile.Plan, g *fleet.Generation) (ok bool, err error) {
	refs, err := pluginRefs(g)
	if err != nil {
		w.later(ctx, p, fleet.ReasonPluginMissing, err)
		return false, nil
	}
	var lacking []fleet.BlobRef
	for _, ref := range refs {
		if !w.a.plugins.Whole(ref) {
			lacking = append(lacking, ref)
		}
	}
	if ok, err := w.bring(ctx, p, lacking); !ok || err != nil {
		return ok, err
	}
	for _, ref := range lacking {
		if err := w.a.plugins.Install(ref, w.a.blobs.Path(ref.Digest)); err != nil {
			w.later(ctx, p, fleet.ReasonFetchFailed, err)
			return false, nil
		}
	}
	return true, nil
}

// pluginFailed has what was staged made ready again after a growing wait,
// because a plugin could not say how to activate it: its executable is looked
// at on the way. It returns false where err is something else.
func (w *worker) pluginFailed(ctx context.Context, p reconcile.Plan, staged journal.Built, err error) bool {
	if _, ok := errors.AsType[*plugin.Error](err); !ok {
		return false
	}
	w.note(func(f *facts) {
		f.damaged = staged.Ref.Digest
		if f.fetched == f.damaged {
			f.fetched = ""
		}
	})
	w.later(ctx, p, fleet.ReasonInternal, err)
	return true
}

// pluginProbe makes attempts at the probes that g's plugins make.
func (w *worker) pluginProbe(g fleet.Generation, path string) probe.Plugin {
	return func(ctx context.Context, p fleet.Probe) (fleet.Verdict, string) {
		pinned, ok := g.Plugin(p.Plugin, fleet.PluginProbe)
		if !ok { // Validated, so not in a document that was ever accepted.
			return fleet.VerdictInconclusive, fmt.Sprintf("no plugin %q is pinned", p.Plugin)
		}
		res, err := w.a.plugins.Check(ctx, pinned, external.Request{Profile: w.profile, Path: path, Config: p.Config})
		if err == nil {
			return res.Verdict, res.Detail
		}
		switch code := plugin.CodeOf(err, ""); code { //nolint:exhaustive // The others don't lack the executable.
		case fleet.ReasonPluginMissing, fleet.ReasonPluginChecksum:
			if ref, ok := pinned.On(plugin.System); ok {
				err = errors.Join(err, w.refetchPlugin(ctx, ref))
			}
		}
		return fleet.VerdictInconclusive, err.Error()
	}
}

// refetchPlugin brings back an executable that was lost or changed since the
// generation was made ready.
func (w *worker) refetchPlugin(ctx context.Context, ref fleet.BlobRef) error {
	if err := w.a.bound.Load().client.FetchBlob(ctx, w.a.blobs, ref); err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	return w.a.plugins.Install(ref, w.a.blobs.Path(ref.Digest)) //nolint:wrapcheck // It says what failed.
}

// prunePlugins removes the executables that no kept document needs, and has the
// driver plugins of the others give back what is not in paths.
func (a *Agent) prunePlugins(ctx context.Context, documents map[fleet.Digest]bool, paths []string) []error {
	keep, drivers := map[fleet.Digest]bool{}, map[fleet.PluginName]fleet.Generation{}
	for d := range documents {
		g, err := a.bound.Load().desired.LoadAccepted(d)
		if err != nil {
			continue // There is none.
		}
		refs, err := pluginRefs(&g)
		if err != nil {
			continue // Never fetched here.
		}
		for _, ref := range refs {
			keep[ref.Digest] = true
		}
		name := fleet.PluginName(g.Source.Driver)
		newest, seen := drivers[name]
		if _, ok := g.Plugin(name, fleet.PluginDriver); ok && (!seen || newest.Number.Compare(g.Number) < 0) {
			drivers[name] = g
		}
	}
	var errs []error
	for name, g := range drivers {
		p, _ := g.Plugin(name, fleet.PluginDriver)
		if ref, ok := p.On(plugin.System); !ok || !a.plugins.Whole(ref) {
			continue // Not fetched yet: it has nothing to give back.
		}
		if _, err := driver.Prune(ctx, a.plugins.Driver(p), paths); err != nil && !errors.Is(err, driver.ErrUnsupported) {
			errs = append(errs, err)
		}
	}
	return append(errs, a.plugins.Prune(keep))
}
