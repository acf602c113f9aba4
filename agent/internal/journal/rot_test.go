package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// rotting is a journal of a host that ran 1 and was about to activate 2.
func rotting(t *testing.T) (dir string, whole []byte, st State) {
	t.Helper()
	dir = t.TempDir()
	j := open(t, dir)
	appendAll(t, j, adopt(0))
	appendAll(t, j, through(0, 1)...)
	appendAll(t, j, Record{Kind: KindRoot, Root: &Root{Version: 3, Digest: fleet.DigestOf([]byte("root"))}})
	appendAll(t, j, Record{Kind: KindFloor, Floor: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)})
	appendAll(t, j, accept(2), staged(2), activating(1, 2))
	st = j.State()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(j.path())
	if err != nil {
		t.Fatal(err)
	}
	return dir, whole, st
}

func flipped(b []byte, at int, to byte) []byte {
	b = bytes.Clone(b)
	b[at] = to
	return b
}

// TestEveryByte flips every byte of a journal, the last line's too: that is
// found, never taken for an interrupted write, and nothing is cut off.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	dir, whole, _ := rotting(t)
	path := filepath.Join(dir, fileJournal)
	for at := range whole {
		for _, to := range []byte{whole[at] ^ 0x01, whole[at] ^ 0x20, ^whole[at], 0} {
			got, err := scan(bytes.NewReader(flipped(whole, at, to)), path)
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path+" line ") {
				t.Errorf("byte %d is %#x: %d good, %d torn, %v", at, to, got.good, got.torn, err)
			}
		}
	}
	bad := flipped(whole, len(whole)-5, 'x')
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("opening: %v", err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, bad) {
		t.Errorf("the file was changed (%v)", err)
	}
}

func nothingProven() (map[fleet.ProfileName]Proven, error) { return nil, nil }

// TestRecover damages a journal everywhere: a new one starts, no number sinks,
// and the old file is kept.
func TestRecover(t *testing.T) {
	t.Parallel()
	dir, whole, was := rotting(t)
	path := filepath.Join(dir, fileJournal)
	proven := func() (map[fleet.ProfileName]Proven, error) {
		return map[fleet.ProfileName]Proven{fleet.System: {Highest: accept(2).Ref}}, nil
	}
	for at := 0; at < len(whole); at += 1 + at%13 {
		bad := flipped(whole, at, whole[at]^0x04)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Recover(dir, Options{}, proven)
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		if kept, err := os.ReadFile(got.Kept); err != nil || !bytes.Equal(kept, bad) {
			t.Errorf("byte %d: the damaged file is not kept: %v", at, err)
		}
		if err := os.Remove(got.Kept); err != nil {
			t.Fatal(err)
		}
		j, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		st := j.State()
		p := st.Profile(fleet.System)
		if p.Highest.Number != was.Profiles[fleet.System].Highest.Number || p.Adopted || p.Activation != nil || p.Phase != PhaseIdle {
			t.Errorf("byte %d: %+v", at, p)
		}
		if st.Transitions <= was.Transitions || st.Seq <= 1 {
			t.Errorf("byte %d: %d transitions, there were %d", at, st.Transitions, was.Transitions)
		}
		out := st.Pending(0)
		if n := len(out); n == 0 || out[n-1].Seq != st.Transitions || out[n-1].Reason.Code != fleet.ReasonJournalRecovered ||
			!strings.Contains(out[n-1].Reason.Message, path) {
			t.Errorf("byte %d: the recovery is not to be reported: %v", at, out)
		}
		// The agent goes on as after enrolment.
		appendAll(t, j, adopt(0), accept(2), staged(2), activating(0, 2))
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRecoverKeepsWhatCanBeRead: after the damage too.
func TestRecoverKeepsWhatCanBeRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	used, floor := fleet.DigestOf([]byte("loosening")), time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	appendAll(t, j, adopt(0))
	appendAll(t, j, accept(1))
	appendAll(t, j, accept(4, 2, 3))
	appendAll(t, j, failed(4))
	appendAll(t, j, Record{Kind: KindForgiven, Profile: fleet.System, Digest: fleet.DigestOf([]byte("x")), Loosening: used, Expires: floor})
	appendAll(t, j, Record{Kind: KindPaused, Reason: fleet.Reason{Message: "lunch"}})
	appendAll(t, j, Record{Kind: KindFloor, Floor: floor})
	appendAll(t, j, Record{Kind: KindRoot, Root: &Root{Version: 5}})
	was := j.State()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(dir, Options{}, nothingProven); !errors.Is(err, ErrWhole) {
		t.Errorf("a whole journal: %v", err)
	}
	whole, err := os.ReadFile(j.path())
	if err != nil {
		t.Fatal(err)
	}
	second := bytes.IndexByte(whole, '\n') + 20
	if err := os.WriteFile(j.path(), flipped(whole, second, 'x'), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(dir, Options{}, func() (map[fleet.ProfileName]Proven, error) { return nil, errDisk }); !errors.Is(err, errDisk) {
		t.Errorf("without proof: %v", err)
	}
	if _, err := Recover(dir, Options{}, nothingProven); err != nil {
		t.Fatal(err)
	}
	st := open(t, dir).State()
	p := st.Profile(fleet.System)
	if p.Highest != was.Profiles[fleet.System].Highest || len(p.RevertTo) != 2 || st.Transitions <= was.Transitions ||
		!st.Used(used) || st.Paused == nil || !st.Floor.Equal(floor) || st.Root.Version != 5 {
		t.Errorf("got %+v of %+v", st, p)
	}
	if _, refused := p.IsRefused(p.Highest.Digest); !refused {
		t.Error("a generation that failed would be tried again")
	}
	if _, err := Recover(dir, Options{}, nothingProven); !errors.Is(err, ErrLocked) {
		t.Errorf("beside an agent: %v", err)
	}
}
