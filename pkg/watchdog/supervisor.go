package watchdog

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"
)

// Supervisor is whoever started this program and wants to hear of it: systemd, or
// on systems without such a thing (launchd) this program itself, which then ends
// itself where it got stuck. A nil Supervisor wants to hear nothing.
type Supervisor struct {
	notify *notifier
	// period without progress ends this program; 0 is for ever.
	period time.Duration
	log    *slog.Logger
	abort  func()
	quiet  *time.Timer // ends this program itself; nil where systemd does
	failed bool        // the last message was not sent
}

// FromEnvironment finds out who supervises this process, and takes what says so
// from the environment, so that programs which it starts do not speak for it. nil
// is nobody.
func FromEnvironment(log *slog.Logger) (*Supervisor, error) {
	every, err := period(os.Getenv)
	if err != nil {
		return nil, err
	}
	s := &Supervisor{period: every, log: log, abort: abort}
	address := os.Getenv(envSocket)
	for _, name := range []string{envSocket, envUsec, envPID} {
		_ = os.Unsetenv(name) // Fails only for names that can't be.
	}
	switch {
	case address == "" && every == 0:
		return nil, nil //nolint:nilnil // See above.
	case address != "":
		if s.notify, err = dial(address); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// abort ends this program as the watchdog of systemd would: Go prints what each
// goroutine is at.
func abort() { _ = syscall.Kill(os.Getpid(), syscall.SIGABRT) }

// Run tells that the program is up, then, until ctx ends, that it makes progress
// and what status says, and then that it stops. status is asked each time, and
// again when changed says so; where it does not return, nothing is told: it should
// take the locks that everything depends on. Run returns when ctx has ended.
func (s *Supervisor) Run(ctx context.Context, p *Progress, status func() string, changed <-chan struct{}) {
	if s == nil {
		return
	}
	defer s.tell("STOPPING=1")
	var tick <-chan time.Time
	if s.period > 0 {
		// Three times, so that one that comes late does not count.
		t := time.NewTicker(s.period / 3)
		defer t.Stop()
		tick = t.C
		if s.notify == nil {
			s.quiet = time.AfterFunc(s.period, s.abort)
			defer s.quiet.Stop()
		}
	}
	s.tell("READY=1", statusLine(status()))
	late := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			if late == "" {
				s.tell(statusLine(status()))
			}
			continue
		case <-tick:
		}
		text := status()
		now := p.Stuck()
		if now != "" {
			if now != late {
				s.log.Error("stuck: the service manager is told of no progress any more, and will end this program", "loops", now)
			}
			s.tell(statusLine("stuck: " + now))
		} else {
			s.tell("WATCHDOG=1", statusLine(text))
			if s.quiet != nil {
				s.quiet.Reset(s.period)
			}
		}
		late = now
	}
}

// maxStatus bounds a status, in bytes.
const maxStatus = 512

func statusLine(text string) string {
	return "STATUS=" + strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text[:min(len(text), maxStatus)], ""))
}

// tell sends; a manager that can't be told is said once.
func (s *Supervisor) tell(lines ...string) {
	err := s.notify.send(lines...)
	if err != nil && !s.failed {
		s.log.Warn("the service manager can't be told", "error", err)
	}
	s.failed = err != nil
}
