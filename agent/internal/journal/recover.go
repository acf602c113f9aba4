package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// ErrWhole says that there is nothing to recover.
var ErrWhole = errors.New("journal is whole")

// minTransitionBytes is less than any record of a transition takes.
const minTransitionBytes = 64

// Proven is what signed documents beside the journal prove of a profile.
type Proven struct {
	Highest  fleet.Ref
	RevertTo []fleet.Ref
}

// Recovery says what Recover did.
type Recovery struct {
	// Damage is what is wrong with the journal; it names file and line.
	Damage error
	// Kept is where the damaged file is.
	Kept string
	// Unreadable is how many bytes of it nothing could be read from.
	Unreadable int64
	// Highest generations known to have been accepted.
	Highest map[fleet.ProfileName]fleet.Ref
}

// Recover gives a damaged journal up: it keeps the file beside and starts a new
// one, in which no generation is known to run, so that the agent adopts what
// runs as generation 0. Numbers never sink: of generations, transitions, signed
// times and trust roots all count that can be read anywhere in the file, and
// what prove says. That the journal was recovered is a transition of the new
// one. A crash leaves the damaged file or the new one in place.
//
// prove is called while no agent has the directory. Errors: ErrWhole,
// ErrLocked, ErrNewerState, or of prove or the file system.
func Recover(dir string, o Options, prove func() (map[fleet.ProfileName]Proven, error)) (Recovery, error) {
	o = o.withDefaults()
	if err := checkVersion(dir); err != nil {
		return Recovery{}, err
	}
	lock, err := takeLock(filepath.Join(dir, fileLock))
	if err != nil {
		return Recovery{}, fmt.Errorf("recovering journal: %w", err)
	}
	defer func() { _ = giveLock(lock) }()
	path := filepath.Join(dir, fileJournal)
	damage, s, err := examine(path)
	if err != nil {
		return Recovery{}, err
	}
	proven, err := prove()
	if err != nil {
		return Recovery{}, err
	}
	now := o.Now().UTC().Round(0)
	for name, p := range proven {
		s.raise(name, p)
	}
	st := s.anew(now, damage)
	r := Recovery{Damage: damage, Unreadable: s.unreadable, Highest: map[fleet.ProfileName]fleet.Ref{}}
	for name, p := range st.Profiles {
		r.Highest[name] = p.Highest
	}
	r.Kept = path + ".damaged-" + now.Format("20060102T150405Z")
	if err := keepBeside(path, r.Kept); err != nil {
		return Recovery{}, fmt.Errorf("recovering journal: %w", err)
	}
	lines, err := compacted(st, Record{Time: now})
	if err == nil {
		err = atomicfile.WriteFile(path, bytes.Join(lines, nil), 0o600)
	}
	if err != nil {
		return Recovery{}, fmt.Errorf("recovering journal: %w", err)
	}
	return r, nil
}

// examine says what is wrong with a journal, and what can be read of it.
func examine(path string) (damage error, s *salvaged, err error) {
	f, err := os.Open(path) //nolint:gosec // Below the caller's own state directory.
	if err != nil {
		return nil, nil, fmt.Errorf("recovering journal: %w", err)
	}
	defer func() { _ = f.Close() }()
	switch _, damage = scan(f, path); {
	case damage == nil:
		return nil, nil, fmt.Errorf("%w: %s", ErrWhole, path)
	case !errors.Is(damage, ErrCorrupt):
		return nil, nil, damage
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, nil, fmt.Errorf("recovering journal: %w", err)
	}
	s, err = salvage(f)
	return damage, s, err
}

// keepBeside gives the file a second name, durable before the first one is
// taken away.
func keepBeside(path, kept string) error {
	err := os.Link(path, kept)
	if errors.Is(err, os.ErrExist) {
		a, aerr := os.Stat(path)
		b, berr := os.Stat(kept)
		if aerr == nil && berr == nil && os.SameFile(a, b) {
			err = nil // A recovery was cut short.
		}
	}
	if err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// salvaged is what can be read of a damaged journal.
type salvaged struct {
	// state is folded up to the damage; of what comes after, only numbers and
	// prohibitions count.
	state      *State
	unreadable int64
}

func salvage(r io.Reader) (*salvaged, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	s := &salvaged{state: newState()}
	for whole := true; ; {
		line, err := readLine(br)
		end := errors.Is(err, io.EOF)
		if end && len(line) == 0 {
			return s, nil
		}
		if err != nil && !end && !errors.Is(err, errTooLong) {
			return nil, fmt.Errorf("recovering journal: %w", err)
		}
		recs, bad := decode(bytes.TrimSuffix(line, []byte("\n")))
		switch {
		case bad != nil:
			whole = false
			s.unreadable += int64(len(line))
		case whole && s.fold(recs):
		default:
			whole = false
			s.take(recs)
		}
		if end {
			return s, nil
		}
	}
}

// fold applies a line that follows on what was read, and says whether it did.
func (s *salvaged) fold(recs []Record) bool {
	next := s.state.draft()
	for i := range recs {
		if apply(next, &recs[i]) != nil {
			return false
		}
	}
	s.state = next
	return true
}

// take keeps what a readable line after the damage proves.
func (s *salvaged) take(recs []Record) {
	st := s.state
	for i := range recs {
		r := &recs[i]
		st.Seq, st.Transitions = max(st.Seq, r.Seq), max(st.Transitions, r.Transition, r.Acked)
		for _, t := range r.Pending {
			st.Transitions = max(st.Transitions, t.Seq)
		}
		if _, err := fleet.ParseProfileName(string(r.Profile)); err != nil && r.Profile != "" {
			continue
		}
		switch r.Kind { //nolint:exhaustive // Of the others nothing is kept.
		case KindAccept:
			s.raise(r.Profile, Proven{Highest: r.Ref, RevertTo: r.RevertTo})
		case KindFailed, KindRefused:
			s.profile(r.Profile).refuse(r, r.Ref)
		case KindForgiven, KindLoosened:
			if r.Kind == KindForgiven {
				delete(s.profile(r.Profile).Refused, r.Digest)
			}
			if r.Loosening != "" && !st.Used(r.Loosening) {
				_ = st.use(r.Loosening, r.Expires, r.Time) // Only fails where it is used.
			}
		case KindPaused:
			st.Paused = &Pause{Reason: r.Reason.Message, Actor: r.Actor, Since: r.Time}
		case KindResumed:
			st.Paused = nil
		case KindMode:
			st.Mode = r.Mode
		case KindFloor:
			if r.Floor.After(st.Floor) {
				st.Floor = r.Floor
			}
		case KindRoot:
			if r.Root != nil && (r.Root.Version > st.Root.Version || st.Reset != nil && r.Root.Digest == st.Reset.Digest) {
				st.Root, st.Reset = *r.Root, nil
			}
		case KindTrustReset:
			for _, p := range st.Profiles {
				p.Highest, p.RevertTo = fleet.Ref{}, nil
			}
			st.Reset = clonePtr(r.Root)
		}
	}
}

func (s *salvaged) profile(name fleet.ProfileName) *ProfileState {
	p := s.state.Profiles[name]
	if p == nil {
		p = &ProfileState{Phase: PhaseIdle}
		if s.state.Profiles == nil {
			s.state.Profiles = map[fleet.ProfileName]*ProfileState{}
		}
		if len(s.state.Profiles) < fleet.MaxProfiles {
			s.state.Profiles[name] = p
		}
	}
	return p
}

func (s *salvaged) raise(name fleet.ProfileName, proven Proven) {
	if p := s.profile(name); proven.Highest.Number.Compare(p.Highest.Number) > 0 {
		p.Highest, p.RevertTo = proven.Highest, proven.RevertTo
	}
}

// anew is the state to start from.
func (s *salvaged) anew(now time.Time, damage error) *State {
	why := bounded(fleet.Reason{
		Code:    fleet.ReasonJournalRecovered,
		Message: fmt.Sprintf("the journal was damaged and given up, what runs is adopted: %v", damage),
		Hint:    "check this host's disk; pauses and refusals that were in the damaged part have to be made again",
	})
	st := s.state.clone()
	st.Seq++
	if st.Transitions == 0 {
		// Nothing tells how many there were: a host makes fewer than one a second.
		st.Transitions = uint64(max(now.Unix(), 0)) //nolint:gosec // Not negative.
	} else {
		st.Transitions += uint64(s.unreadable / minTransitionBytes) //nolint:gosec // Not negative.
	}
	for name, p := range st.Profiles {
		st.Profiles[name] = &ProfileState{
			Phase: PhaseIdle, Reason: why, Since: now, Highest: p.Highest, RevertTo: p.RevertTo,
			Refused: p.Refused, Interrupted: p.Interrupted,
		}
	}
	st.Transitions++
	st.emit(&Record{Kind: KindAdopt, Transition: st.Transitions, Time: now, Profile: fleet.System}, fleet.Ref{}, why)
	return st
}
