package plugin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/probe"
)

// Driver is a driver plugin as a driver. What it answers is checked; an *Error
// of any method is worth another attempt.
func (h *Host) Driver(p fleet.Plugin) driver.Driver { return &external{host: h, plugin: p} }

// external is a driver.Driver and a driver.Pruner. What it answers about
// malformed answers is said by pkg/driver.
type external struct {
	host   *Host
	plugin fleet.Plugin
}

var _ driver.Pruner = (*external)(nil)

func (e *external) do(ctx context.Context, limit time.Duration, f func(context.Context, driver.Driver) error) error {
	s, err := e.host.session(e.plugin)
	if err != nil {
		return err
	}
	return s.call(ctx, limit, func(ctx context.Context, cc grpc.ClientConnInterface) error {
		return f(ctx, driver.Connect(cc))
	})
}

// must is for the methods that every driver has.
func (e *external) must(ctx context.Context, limit time.Duration, f func(context.Context, driver.Driver) error) error {
	return e.do(ctx, limit, func(ctx context.Context, d driver.Driver) error {
		err := f(ctx, d)
		if errors.Is(err, driver.ErrUnsupported) {
			return fmt.Errorf("%w: it serves no driver: %w", driver.ErrAnswer, err)
		}
		return err
	})
}

// Current implements driver.Driver.
func (e *external) Current(ctx context.Context, profile fleet.ProfileName) (path string, err error) {
	err = e.must(ctx, e.host.opts.Call, func(ctx context.Context, d driver.Driver) error {
		path, err = d.Current(ctx, profile)
		return err //nolint:wrapcheck // The driver's own.
	})
	return path, err
}

// Build implements driver.Driver.
func (e *external) Build(ctx context.Context, req driver.BuildRequest, progress func(driver.Progress)) (path string, err error) {
	err = e.must(ctx, e.host.opts.Build, func(ctx context.Context, d driver.Driver) error {
		path, err = d.Build(ctx, req, progress)
		return err //nolint:wrapcheck // The driver's own.
	})
	return path, err
}

// Diff implements driver.Driver.
func (e *external) Diff(ctx context.Context, profile fleet.ProfileName, from, to string) (lines []string, err error) {
	err = e.must(ctx, e.host.opts.Call, func(ctx context.Context, d driver.Driver) error {
		lines, err = d.Diff(ctx, profile, from, to)
		return err //nolint:wrapcheck // The driver's own.
	})
	return lines, err
}

// Activation implements driver.Driver.
func (e *external) Activation(ctx context.Context, profile fleet.ProfileName, from, to string) (a driver.Activation, err error) {
	err = e.must(ctx, e.host.opts.Call, func(ctx context.Context, d driver.Driver) error {
		a, err = d.Activation(ctx, profile, from, to)
		return err //nolint:wrapcheck // The driver's own.
	})
	return a, err
}

// Prune implements driver.Pruner.
func (e *external) Prune(ctx context.Context, keep []string) (removed []string, err error) {
	err = e.do(ctx, e.host.opts.Call, func(ctx context.Context, d driver.Driver) error {
		removed, err = driver.Prune(ctx, d, keep)
		return err //nolint:wrapcheck // The driver's own.
	})
	return removed, err
}

// Check asks a probe plugin once. The deadline of ctx is the plugin's; one that
// does not answer by then is ended.
func (h *Host) Check(ctx context.Context, p fleet.Plugin, req probe.Request) (res probe.Result, err error) {
	s, err := h.session(p)
	if err != nil {
		return res, err
	}
	limit := h.opts.Call
	if deadline, ok := ctx.Deadline(); ok {
		limit = deadline.Sub(awake())
	}
	// The call's own deadline, not the attempt's, so that a hung plugin is told
	// from an agent that was called away.
	outer := context.WithoutCancel(ctx)
	outer, cancel := context.WithCancelCause(outer)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() {
		if cause := context.Cause(ctx); cause != context.DeadlineExceeded { //nolint:errorlint // The very value.
			cancel(cause)
		}
	})
	defer stop()
	err = s.call(outer, limit, func(ctx context.Context, cc grpc.ClientConnInterface) error {
		res, err = probe.Connect(cc).Check(ctx, req)
		return err //nolint:wrapcheck // The probe's own.
	})
	return res, err
}
