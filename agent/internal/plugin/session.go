package plugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// session is one plugin's process, from call to call.
type session struct {
	host   *Host
	plugin fleet.Plugin
	ref    fleet.BlobRef
	log    *slog.Logger

	// turn is held by whoever looks at or changes what follows.
	turn    chan struct{}
	process *process // nil for none
	users   int
	idle    *time.Timer
	closed  bool
	// failed counts failures in a row; until is when the plugin may be started
	// again, in time awake.
	failed int
	until  time.Time
	last   error
}

func (s *session) lock(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *session) unlock() { <-s.turn }

func (s *session) error(code fleet.ReasonCode, cause error) error {
	return &Error{Plugin: s.plugin.Name, Kind: s.plugin.Kind, Code: code, Cause: cause}
}

// call makes one call, bounded by limit. A plugin that does not answer by then,
// ends, or breaks its contract is ended, and the error is an *Error; other
// errors are the callee's own.
func (s *session) call(ctx context.Context, limit time.Duration, do func(context.Context, grpc.ClientConnInterface) error) error {
	p, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = do(limited, p.conn)
	code, bad := broken(err)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		// Cut short from outside: that says nothing about the plugin.
		err, bad = context.Cause(ctx), false
	case overdue(limited, err):
		code, bad = fleet.ReasonPluginHung, true
		err = fmt.Errorf("did not answer within %s and was ended", limit)
	case code == fleet.ReasonPluginCrashed:
		err = s.crash(p, err)
	case bad:
		err = fmt.Errorf("answered what it must not and was ended: %w", err)
	}
	s.release(p, code, err, bad)
	if bad {
		return s.error(code, err)
	}
	return err
}

// overdue says whether a call whose own caller goes on came to nothing because its
// time was up. The plugin's side is told the deadline, and may be the first to end
// the call then.
func overdue(limited context.Context, err error) bool {
	return limited.Err() != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// crash says how a plugin ended that can't be reached any more.
func (s *session) crash(p *process, err error) error {
	t := time.NewTimer(exitGrace)
	defer t.Stop()
	select {
	case <-p.exited:
		return fmt.Errorf("ended while it was asked: %w", p.exitError())
	case <-t.C:
		return fmt.Errorf("closed its connection and was ended: %w", err)
	}
}

// acquire returns the process, starting it where there is none.
func (s *session) acquire(ctx context.Context) (*process, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	if s.closed {
		return nil, s.error(fleet.ReasonPluginMissing, errClosed)
	}
	if p := s.process; p != nil && !p.alive() {
		p.kill()
		s.process = nil
		if s.users == 0 {
			s.fail(fleet.ReasonPluginCrashed, fmt.Errorf("ended while nothing was asked of it: %w", p.exitError()))
		}
	}
	if s.process == nil {
		if wait := s.until.Sub(awake()); wait > 0 {
			return nil, s.error(fleet.ReasonPluginBackoff,
				fmt.Errorf("is started again in %s: the last time it %w", wait.Round(10*time.Millisecond), s.last))
		}
		p, code, err := s.host.launch(ctx, s)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			s.fail(code, err)
			return nil, s.error(code, err)
		}
		s.log.Debug("plugin started", "pid", p.cmd.Process.Pid)
		s.process, s.users = p, 0
	}
	s.users++
	if s.idle != nil {
		s.idle.Stop()
	}
	return s.process, nil
}

// fail has the plugin wait before it is started again.
func (s *session) fail(code fleet.ReasonCode, err error) {
	s.last = err
	wait := s.host.opts.First << min(s.failed, 20)
	if wait <= 0 || wait > s.host.opts.Max {
		wait = s.host.opts.Max
	}
	s.failed++
	s.until = awake().Add(wait)
	s.log.Warn("plugin failed", "reason", string(code), "error", printable(err.Error()), "failed", s.failed, "wait", wait)
}

// release gives the process back after a call.
func (s *session) release(p *process, code fleet.ReasonCode, err error, bad bool) {
	s.turn <- struct{}{}
	defer s.unlock()
	if bad {
		p.kill()
	}
	if s.process != p {
		return // It failed in another call, or was closed.
	}
	s.users--
	switch {
	case bad:
		s.process = nil
		s.fail(code, err)
	case s.users == 0:
		s.failed = 0
		if s.idle == nil {
			s.idle = time.AfterFunc(s.host.opts.Idle, s.rest)
		} else {
			s.idle.Reset(s.host.opts.Idle)
		}
	}
}

// rest ends a process that nothing was asked of for a while.
func (s *session) rest() {
	s.turn <- struct{}{}
	defer s.unlock()
	if s.process == nil || s.users > 0 || s.closed {
		return
	}
	s.process.end()
	s.process = nil
	s.log.Debug("plugin ended: it has nothing to do")
}

func (s *session) close() {
	s.turn <- struct{}{}
	defer s.unlock()
	s.closed = true
	if s.idle != nil {
		s.idle.Stop()
	}
	if s.process != nil {
		s.process.end()
		s.process = nil
	}
}

// awake is monotonic.
func awake() time.Time { return time.Now() } //nolint:forbidigo // Only differences count.
