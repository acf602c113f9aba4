package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// The person at the console has a socket of their own, next to root's and in a directory
// of its own, so that nothing else need be opened to them. What answers there is root, and
// whoever is on the machine may connect: so it takes one line of JSON and answers with one,
// within some seconds and bounds, and has no parts that a stranger's bytes reach before it
// is known who they are.

const (
	// personSuffix is added to the run directory's name.
	personSuffix = "-console"
	personSocket = "console.sock"
	// personTimeout bounds a connection.
	personTimeout = 5 * time.Second
	// maxQuestionBytes and maxAnswerBytes bound the two lines.
	maxQuestionBytes = 512
	maxAnswerBytes   = 256 << 10
	// maxPersons are served at a time, maxPerUser of them for one user, and others than root
	// and who is at the console have no more than maxStrangers, for whoever has subordinate
	// users of their own is many: nobody keeps the person at the console out. Each keeps its
	// place for personPause after its answer, so that nobody keeps the agent busy either.
	maxPersons   = 64
	maxStrangers = 48
	maxPerUser   = 4
	personPause  = 50 * time.Millisecond
)

// PersonSocketPath is where the socket for the person at the console is.
func PersonSocketPath(runDir string) string {
	return filepath.Join(filepath.Clean(runDir)+personSuffix, personSocket)
}

// ErrNotAllowed is the answer to whoever is neither root nor at the console.
var ErrNotAllowed = errors.New("not allowed")

// Postponed is what was put off, and until when.
type Postponed struct {
	Profile fleet.ProfileName `json:"profile"`
	Target  fleet.Ref         `json:"target"`
	Until   time.Time         `json:"until"`
	// Left is how many more times it may be.
	Left uint32 `json:"left"`
}

// PersonHost is the agent as the person at the console may use it. Methods MUST be safe
// for concurrent use.
type PersonHost interface {
	// AtConsole says whether that user is at the console now.
	AtConsole(ctx context.Context, uid uint32) bool
	Status(ctx context.Context) (Status, error)
	// Postpone puts off all that waits for the person at the console, for so long, 0 for as
	// long as may be.
	Postpone(ctx context.Context, ask time.Duration, actor string) ([]Postponed, error)
}

// question is what is asked: do is status or postpone.
type question struct {
	Do  string         `json:"do"`
	For fleet.Duration `json:"for,omitempty"`
}

// reply is the answer to it.
type reply struct {
	// Refused is empty, or says how: not-allowed, not-possible, failed.
	Refused   string       `json:"refused,omitempty"`
	Reason    fleet.Reason `json:"reason,omitzero"`
	Status    *Status      `json:"status,omitempty"`
	Postponed []Postponed  `json:"postponed,omitempty"`
}

const (
	notAllowed  = "not-allowed"
	notPossible = "not-possible"
	failed      = "failed"
)

// PersonServer serves the person at the console.
type PersonServer struct {
	listener *net.UnixListener
	host     PersonHost
	uidOf    func(*net.UnixConn) (uint32, error)

	mu     sync.Mutex
	places map[uint32]int // by uid
	taken  int
}

// ListenPerson opens the socket for the person at the console, in a directory that it
// makes. It refuses one that somebody else made.
func ListenPerson(ctx context.Context, runDir string, h PersonHost) (*PersonServer, error) {
	path := PersonSocketPath(runDir)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // For everybody: the socket asks who they are.
		return nil, fmt.Errorf("opening the console's socket: %w", err)
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the console's socket: %w", err)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !fi.IsDir() || !ok || int64(st.Uid) != int64(os.Geteuid()) {
		return nil, fmt.Errorf("opening the console's socket: %s is none of the agent's", dir)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // As above.
		return nil, fmt.Errorf("opening the console's socket: %w", err)
	}
	l, err := listenAt(ctx, path, 0o666)
	if err != nil {
		return nil, err
	}
	return &PersonServer{listener: l, host: h, uidOf: peerUID, places: map[uint32]int{}}, nil
}

// Serve answers until ctx ends.
func (s *PersonServer) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	defer stop()
	// systemd takes the run directory away; this one the agent made itself.
	defer func() { _ = os.Remove(filepath.Dir(s.listener.Addr().String())) }()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := s.listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("serving the console's socket: %w", err)
		case err != nil: // As without free descriptors: later there are.
			pause(ctx, personTimeout)
			continue
		}
		uid, err := s.uidOf(conn)
		if err != nil || !s.admit(ctx, uid) {
			_ = conn.Close()
			continue
		}
		running.Go(func() {
			defer s.give(uid)
			s.serve(ctx, conn, uid)
			pause(ctx, personPause)
		})
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// admit takes a place for a user, where there is one. Who is at the console is asked only
// where strangers have theirs: that takes a moment, in which nobody else is let in.
func (s *PersonServer) admit(ctx context.Context, uid uint32) bool {
	taken, room := s.take(uid, maxStrangers)
	if !taken && room && (isTrusted(uid) || s.host.AtConsole(ctx, uid)) {
		taken, _ = s.take(uid, maxPersons)
	}
	return taken
}

// take takes a place for a user where fewer than most are taken; room says that one more
// may be the user's, at least.
func (s *PersonServer) take(uid uint32, most int) (taken, room bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places[uid] >= maxPerUser {
		return false, false
	}
	if s.taken >= most {
		return false, true
	}
	s.taken++
	s.places[uid]++
	return true, true
}

// isTrusted says whether a user may ask wherever they are.
func isTrusted(uid uint32) bool { return uid == 0 || int64(uid) == int64(os.Geteuid()) }

func (s *PersonServer) give(uid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if s.places[uid]--; s.places[uid] == 0 {
		delete(s.places, uid)
	}
}

// serve answers one question.
func (s *PersonServer) serve(ctx context.Context, conn net.Conn, uid uint32) {
	ctx, cancel := context.WithTimeout(ctx, personTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	line, err := bufio.NewReaderSize(io.LimitReader(conn, maxQuestionBytes), maxQuestionBytes).ReadBytes('\n')
	if err != nil {
		return // No question.
	}
	answer, err := json.Marshal(s.answer(ctx, line, uid))
	if err == nil {
		_, _ = conn.Write(append(answer, '\n')) // Who went away gets none.
	}
}

func (s *PersonServer) answer(ctx context.Context, line []byte, uid uint32) reply {
	trusted := isTrusted(uid)
	if !trusted && !s.host.AtConsole(ctx, uid) {
		return reply{Refused: notAllowed, Reason: fleet.Reason{
			Code: fleet.ReasonCode(notAllowed), Message: "only root and whoever is at this machine's screen may ask",
			Hint: "log in at the machine itself: a session over the network does not count",
		}}
	}
	var q question
	if err := json.Unmarshal(line, &q); err != nil {
		return refuse(errors.New("this is no question"))
	}
	switch q.Do {
	case "status":
		st, err := s.host.Status(ctx)
		if err != nil {
			return refuse(err)
		}
		if !trusted {
			st = st.forPerson()
		}
		return reply{Status: &st}
	case "postpone":
		p, err := s.host.Postpone(ctx, time.Duration(q.For), actor(uid))
		if err != nil {
			return refuse(err)
		}
		return reply{Postponed: p}
	}
	return refuse(NotPossible("", "this agent does not know how to do that"))
}

func refuse(err error) reply {
	r := reply{Refused: failed, Reason: reasonFor(err)}
	if errors.Is(err, ErrNotPossible) {
		r.Refused = notPossible
	}
	return r
}

// reasonFor is an error for whoever asked.
func reasonFor(err error) fleet.Reason {
	return fleet.Reason{Code: fleet.ReasonInternal, Message: stripped(err), Hint: ui.HintOf(err)}
}

// ChangedOnHost comes before what somebody made of a host, where that is added to a reason.
const ChangedOnHost = "; and what runs was changed on the host: "

// open are the reasons whose words are for everybody: they name times and generations only.
func open(code fleet.ReasonCode) bool {
	switch code { //nolint:exhaustive // Codes are open.
	case fleet.ReasonConsoleNotice, fleet.ReasonPostponed, fleet.ReasonOnBattery, fleet.ReasonInUse, fleet.ReasonUpToDate,
		fleet.ReasonNothingDesired, fleet.ReasonNewGeneration, fleet.ReasonObserve, fleet.ReasonRebootAsk, fleet.ReasonRebootNeeded, fleet.ReasonDegraded, fleet.ReasonRebooting:
		return true
	}
	return false
}

// forPerson is what the person at the console may see: where the machine is, and why. What
// a program printed, such as a probe, and where the coordinator is are for root.
func (s Status) forPerson() Status {
	s.Coordinator.Message, s.Coordinator.Hint = "", ""
	if s.Paused != "" {
		s.Paused = "by root" // Whose words were for others.
	}
	profiles := make([]Profile, len(s.Profiles))
	for i, p := range s.Profiles {
		if !open(p.Reason.Code) {
			p.Reason.Message, p.Reason.Hint = "", ""
		}
		// Paths, also of other users' homes.
		p.Reason.Message, _, _ = strings.Cut(p.Reason.Message, ChangedOnHost)
		p.Refused = nil
		profiles[i] = p
	}
	s.Profiles = profiles
	return s
}
