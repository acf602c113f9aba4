package registry

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Kinds of events that this package writes.
const (
	KindSuperseded audit.Kind = "identity-superseded"
	KindReplaced   audit.Kind = "identity-replaced"
	KindDuplicate  audit.Kind = "duplicate-instance"
	KindOnSight    audit.Kind = "host-registered-on-sight"
	KindBanned     audit.Kind = "host-banned"
	KindUnbanned   audit.Kind = "host-unbanned"
	KindInventory  audit.Kind = "inventory-applied"
	KindTransition audit.Kind = "transition"
	KindGap        audit.Kind = "transitions-lost"
	// KindOlder is a store that knows less than it once acknowledged.
	KindOlder       audit.Kind = "coordinator-restored-older"
	KindHostKeys    audit.Kind = "host-keys-registered"
	KindKeysChanged audit.Kind = "host-keys-changed"
)

// Wake says what a host is woken for.
type Wake uint32

// What a host is woken for.
const (
	WakeDesired Wake = 1 << iota
	WakeReport
	// cut ends the session; Cause says why.
	cut
)

// Cut says whether the session is over.
func (w Wake) Cut() bool { return w&cut != 0 }

// instanceHold is how long after the last sign of life of an instance another
// one of the same identity is refused.
const instanceHold = 2 * time.Minute

// maxHello bounds each text of a hello, and maxCapabilities how many it names.
const (
	maxHello        = 128
	maxCapabilities = 32
)

// Session is one open stream of a host.
type Session struct {
	// C has an element when Take has something to say.
	C     <-chan struct{}
	c     chan struct{}
	bits  atomic.Uint32
	cause atomic.Pointer[error]
	entry *entry
	hello Hello
}

// Take returns what the host is to be woken for, and forgets it.
func (s *Session) Take() Wake { return Wake(s.bits.Swap(0)) }

// Cause says why the session was cut.
func (s *Session) Cause() error {
	if p := s.cause.Load(); p != nil {
		return *p
	}
	return nil
}

func (s *Session) wake(w Wake) {
	s.bits.Or(uint32(w))
	select {
	case s.c <- struct{}{}:
	default:
	}
}

func (s *Session) cut(cause error) {
	s.cause.CompareAndSwap(nil, &cause)
	s.wake(cut)
}

// CheckHello says whether a hello is well-formed.
func CheckHello(h Hello) error {
	if h.Instance == "" || len(h.Capabilities) > maxCapabilities {
		return fmt.Errorf("%w: hello: instance missing, or too many capabilities", ErrReport)
	}
	for _, s := range append([]string{h.Instance, h.Boot, h.Run, h.Version}, h.Capabilities...) {
		if !plain(s) {
			return fmt.Errorf("%w: hello: a part is too long, or no plain text", ErrReport)
		}
	}
	return nil
}

// plain says whether s is short and printable ASCII. Hellos of many hosts share
// a record of bounded size, in which any other character takes six times its
// room.
func plain(s string) bool {
	return len(s) <= maxHello && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// Attach opens a session. A session of the same instance is replaced; another
// instance is refused while one lives. Nothing is written: a burst of
// connections costs no disk. The caller must Detach. Errors: ErrBanned,
// ErrDuplicate, ErrStopping.
func (r *Registry) Attach(ctx context.Context, name fleet.MachineName, hello Hello) (*Session, error) {
	e := r.entry(name)
	s, err := r.attach(e, hello)
	if err != nil {
		if isDuplicate(err) {
			r.alarm(ctx, name, KindDuplicate, err.Error())
		}
		return nil, err
	}
	return s, nil
}

func (r *Registry) attach(e *entry, hello Hello) (*Session, error) {
	c := make(chan struct{}, 1)
	s := &Session{C: c, c: c, entry: e, hello: hello}
	now := r.o.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	h := e.host.Load()
	switch {
	case r.stopped:
		return nil, ErrStopping
	case h.Banned != "":
		return nil, fmt.Errorf("%w: %s", ErrBanned, h.Banned)
	}
	old := e.session.Load()
	if err := r.checkInstanceLocked(e, hello.Instance, now); err != nil {
		return nil, err
	}
	same := hello.Instance == h.Hello.Instance
	if life := hello.life(); same && life != "" && life == e.prevLife && life != h.Hello.life() {
		return nil, fmt.Errorf("%w: one that was over came back: two agents run with copies of one state directory; enrol one of them anew", ErrDuplicate)
	}
	switch {
	case !same, (hello.Run == "") != (h.Hello.Run == ""):
		// An agent that was updated, or went back, names its life otherwise.
		e.prevLife = ""
	case h.Hello.life() != hello.life():
		e.prevLife = h.Hello.life()
	}
	if !sameHello(h.Hello, hello) {
		e.updateLocked(func(h *Host) { h.Hello = hello })
	}
	e.seen.Store(now.Unix())
	e.heard = now
	e.session.Store(s)
	if old != nil {
		old.cut(ErrReplaced)
	}
	return s, nil
}

// checkInstanceLocked refuses an instance while another one lives or was seen
// a short while ago.
func (r *Registry) checkInstanceLocked(e *entry, instance string, now time.Time) error {
	h := e.host.Load()
	if h.Hello.Instance == "" || h.Hello.Instance == instance {
		return nil
	}
	if e.session.Load() != nil {
		return fmt.Errorf("%w: its stream is open; stop one of the two, or enrol one anew", ErrDuplicate)
	}
	if since := now.Sub(e.heard); since < instanceHold && since > -instanceHold {
		return fmt.Errorf("%w: it was seen less than %s ago; wait, or enrol one of the two anew", ErrDuplicate, instanceHold)
	}
	return nil
}

// Detach closes a session.
func (r *Registry) Detach(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.entry.session.CompareAndSwap(s, nil) {
		now := r.o.Now()
		s.entry.seen.Store(now.Unix())
		s.entry.heard = now
	}
}

// Wake wakes these machines, where they are connected, and returns how many
// are. It blocks on none of them.
func (r *Registry) Wake(w Wake, names ...fleet.MachineName) int {
	r.indexMu.RLock()
	defer r.indexMu.RUnlock()
	n := 0
	for _, name := range names {
		if e := r.index[name]; e != nil {
			if s := e.session.Load(); s != nil {
				s.wake(w)
				n++
			}
		}
	}
	return n
}

// Connected counts open sessions.
func (r *Registry) Connected() int {
	n := 0
	for _, e := range r.all() {
		if e.session.Load() != nil {
			n++
		}
	}
	return n
}

// Stop cuts all sessions and refuses new ones.
func (r *Registry) Stop() {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	for _, e := range r.all() {
		if s := e.session.Load(); s != nil {
			s.cut(ErrStopping)
		}
	}
}
