package journal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// allFields compares whole states; an empty map is as good as none.
var allFields = cmp.Options{cmp.AllowUnexported(State{}), cmpopts.EquateEmpty()}

func open(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func appendAll(t *testing.T, j *Journal, recs ...Record) {
	t.Helper()
	if err := j.Append(recs...); err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, want, got State) {
	t.Helper()
	want.restoring, got.restoring = false, false
	if diff := cmp.Diff(want, got, allFields); diff != "" {
		t.Errorf("states differ (-want +got):\n%s", diff)
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("x", 3600))
	j, err := Open(dir, Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, j, adopt(0))
	appendAll(t, j, through(0, 1)...)
	appendAll(t, j, accept(2, 1), staged(2), activating(1, 2), Record{Kind: KindFloor, Floor: now})
	appendAll(t, j)
	want := j.State()
	if want.Seq != 12 || !want.Profiles[fleet.System].Since.Equal(now) {
		t.Errorf("seq %d, since %s", want.Seq, want.Profiles[fleet.System].Since)
	}
	got, err := Read(dir) // while the journal is open
	if err != nil {
		t.Fatal(err)
	}
	same(t, want, got)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(adopt(0)); !errors.Is(err, ErrClosed) {
		t.Errorf("appending to a closed journal: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	again := open(t, dir)
	same(t, want, again.State())
	appendAll(t, again, plain(KindActivated)...)
	if s := again.State(); s.Seq != want.Seq+1 || s.Transitions != want.Transitions+1 {
		t.Errorf("seq %d, transition %d", s.Seq, s.Transitions)
	}
	if diff := cmp.Diff(again.Pending(2), got.Pending(2)); diff != "" {
		t.Error(diff)
	}
}

func TestRefusedBatchLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	appendAll(t, j, adopt(0), accept(1))
	want := j.State()
	if err := j.Append(staged(1), activating(0, 1), activating(0, 1)); !errors.Is(err, ErrInFlight) {
		t.Errorf("got %v", err)
	}
	if err := j.Append(Record{Kind: KindSnapshot, Snapshot: &State{}}); !errors.Is(err, ErrRecord) {
		t.Errorf("got %v", err)
	}
	big := activating(0, 1)
	for range 200 {
		big.Activation.Activate.Steps[0].Exec.Env = append(big.Activation.Activate.Steps[0].Exec.Env, strings.Repeat("x", 32<<10))
	}
	if err := j.Append(big); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	same(t, want, j.State())
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	same(t, want, got)
}

func TestOneAgentPerDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

// TestLockOutlivesItsAgent: a program that an agent was just starting when it was
// killed has a copy of its lock until the exec.
func TestLockOutlivesItsAgent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	lock, err := takeLock(filepath.Join(dir, fileLock))
	if err != nil {
		t.Fatal(err)
	}
	given := make(chan error, 1)
	go func() {
		time.Sleep(10 * lockPause)
		given <- giveLock(lock)
	}()
	open(t, dir)
	if err := <-given; err != nil {
		t.Error(err)
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text  string
		newer bool
	}{{"2\n", true}, {"4000000000", true}, {"", false}, {"0\n", false}, {"-1\n", false}, {"one\n", false}, {strings.Repeat("9", 100), false}} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileVersion), []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); err == nil || errors.Is(err, ErrNewerState) != tc.newer {
			t.Errorf("opening version %q: %v", tc.text, err)
		}
		if _, err := Read(dir); err == nil || errors.Is(err, ErrNewerState) != tc.newer {
			t.Errorf("reading version %q: %v", tc.text, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, fileJournal)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("version %q: a journal was made", tc.text)
		}
	}
	if _, err := Read(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reading an empty directory: %v", err)
	}
}

// Every way to cut the last line off is a torn write; so are bytes that never
// reached the disk. What was acknowledged before stays.
func TestTornTail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	appendAll(t, j, adopt(0), accept(1))
	want := j.State()
	whole, err := os.ReadFile(j.path())
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, j, staged(1), activating(0, 1))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	longer, err := os.ReadFile(j.path())
	if err != nil {
		t.Fatal(err)
	}
	var tails [][]byte
	for n := len(whole); n < len(longer); n += 1 + n%7 {
		tails = append(tails, longer[:n])
	}
	zeros := bytes.Clone(longer)
	clear(zeros[len(whole)+20 : len(longer)-10])
	tails = append(tails, longer[:len(longer)-1], zeros, append(bytes.Clone(whole), make([]byte, 4096)...))
	for _, data := range tails {
		if err := os.WriteFile(j.path(), data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		same(t, want, got)
		var log bytes.Buffer
		k, err := Open(dir, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		same(t, want, k.State())
		if torn := len(data) > len(whole); torn != strings.Contains(log.String(), "interrupted write") {
			t.Errorf("%d bytes torn; log: %s", len(data)-len(whole), log.String())
		}
		appendAll(t, k, staged(1))
		after := k.State()
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err = Read(dir); err != nil {
			t.Fatal(err)
		}
		same(t, after, got)
	}
}

func TestCorruptMiddle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	for n := uint64(1); n < 5; n++ {
		appendAll(t, j, accept(n))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(j.path())
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	flipped := bytes.Clone(lines[1])
	flipped[40] ^= 1
	for name, second := range map[string][]byte{
		"a flipped bit": flipped, "a missing line": nil, "a doubled line": slicesTwice(lines[1]),
		"rubbish": []byte("rubbish\n"), "an empty line": []byte("\n"),
	} {
		bad := bytes.Join([][]byte{lines[0], second, lines[2], lines[3]}, nil)
		if err := os.WriteFile(j.path(), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, rerr := Read(dir)
		_, oerr := Open(dir, Options{})
		for _, err := range []error{rerr, oerr} {
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), j.path()) ||
				!strings.Contains(err.Error(), "fleet-agent recover") || !strings.Contains(err.Error(), "line ") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if now, err := os.ReadFile(j.path()); err != nil || !bytes.Equal(now, bad) {
			t.Errorf("%s: the file was changed (%v)", name, err)
		}
	}
}

func slicesTwice(b []byte) []byte { return append(bytes.Clone(b), b...) }

// failing stands for a disk that fails.
type failing struct {
	file
	short, flush, truncate bool
}

var errDisk = errors.New("disk is full")

func (f *failing) Write(b []byte) (int, error) {
	if f.short {
		n, err := f.file.Write(b[:len(b)/2])
		return n, errors.Join(errDisk, err)
	}
	return f.file.Write(b)
}

func (f *failing) Sync() error {
	if f.flush {
		return errDisk
	}
	return f.file.Sync()
}

func (f *failing) Truncate(n int64) error {
	if f.truncate {
		return errDisk
	}
	return f.file.Truncate(n)
}

func TestFailingDisk(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		disk   failing
		broken bool
	}{
		{"short write", failing{short: true}, false},
		{"short write that can't be taken back", failing{short: true, truncate: true}, true},
		{"failed flush", failing{flush: true}, true},
		{"failed flush that can't be taken back", failing{flush: true, truncate: true}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			j := open(t, dir)
			appendAll(t, j, adopt(0), accept(1))
			want := j.State()
			disk := tc.disk
			disk.file, j.file = j.file, &disk
			if err := j.Append(staged(1)); !errors.Is(err, errDisk) {
				t.Fatalf("got %v", err)
			}
			same(t, want, j.State())
			disk.short, disk.flush, disk.truncate = false, false, false
			err := j.Append(accept(2))
			if errors.Is(err, ErrBroken) != tc.broken || !tc.broken && err != nil {
				t.Fatalf("the next write: %v", err)
			}
			if !tc.broken {
				want = j.State()
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			// A flush that failed leaves open whether its record is there.
			if got := open(t, dir).State(); !tc.disk.flush || !tc.disk.truncate {
				same(t, want, got)
			}
		})
	}
}

func TestCompaction(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	appendAll(t, j, adopt(0))
	for n := uint64(1); n <= 3; n++ {
		appendAll(t, j, through(n-1, n)...)
	}
	appendAll(t, j, accept(4, 2, 3), failed(4), accept(5), activating(3, 5), Record{Kind: KindPaused, Reason: fleet.Reason{Message: "x"}})
	hold := about(KindHeld, func(r *Record) {
		r.Reason = fleet.Reason{Code: fleet.ReasonBackoff, Message: strings.Repeat("m", 1000)}
	})
	var seq uint64
	for j.size > 0 {
		before := j.size
		appendAll(t, j, hold)
		s := j.State()
		if s.Seq <= seq {
			t.Fatalf("seq %d after %d", s.Seq, seq)
		}
		seq = s.Seq
		if s.Transitions > 600 {
			appendAll(t, j, Record{Kind: KindAck, Acked: s.Transitions - 300})
		}
		if j.size < before {
			break
		}
	}
	if j.size > compactMin/2 {
		t.Errorf("still %d bytes", j.size)
	}
	want := j.State()
	if want.Outbox() < 300 {
		t.Errorf("%d pending transitions", want.Outbox())
	}
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	same(t, want, got)
	appendAll(t, j, plain(KindActivated)...)
	want = j.State()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	same(t, want, open(t, dir).State())
}

// A journal full of what is alive isn't rewritten again and again, and one that
// can't be rewritten goes on.
func TestCompactionThatDoesNotPayOrFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	hold := about(KindHeld, func(r *Record) {
		r.Reason = fleet.Reason{Code: fleet.ReasonBackoff, Message: strings.Repeat("m", 1500)}
	})
	for j.size < 2*compactMin {
		appendAll(t, j, hold)
	}
	if j.compactAt <= compactMin || j.compactAt < j.size {
		t.Errorf("%d bytes, next look at %d bytes", j.size, j.compactAt)
	}
	size := j.size
	// A directory without room for the new file: here, one that is gone.
	j.dir = filepath.Join(dir, "gone")
	j.compactAt = 0
	appendAll(t, j, Record{Kind: KindAck, Acked: j.State().Transitions})
	if j.size < size || j.compactAt <= j.size {
		t.Errorf("%d bytes, next look at %d", j.size, j.compactAt)
	}
	if j.broken == nil {
		t.Error("a journal that can't be found any more is written on")
	}
}

func TestConcurrentAppends(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 20 {
				if err := j.Append(about(KindHeld, because(fleet.ReasonBackoff))); err != nil {
					t.Error(err)
				}
				_ = j.State()
				if _, err := Read(dir); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if got, err := Read(dir); err != nil || got.Transitions != 160 {
		t.Errorf("%d transitions, %v", got.Transitions, err)
	}
}

func BenchmarkAppend(b *testing.B) {
	j, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = j.Close() }()
	rec := Record{Kind: KindFloor, Floor: time.Unix(1, 0)}
	for b.Loop() {
		if err := j.Append(rec); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(j.size)/float64(b.N), "B/record")
}

func ExampleRead() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	j, err := Open(dir, Options{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = j.Close() }()
	if err := j.Append(
		Record{Kind: KindAdopt, Profile: fleet.System, Built: &Built{Path: "/srv/old"}},
		Record{Kind: KindMode, Mode: fleet.ModeManage},
	); err != nil {
		panic(err)
	}
	s, err := Read(dir)
	if err != nil {
		panic(err)
	}
	p := s.Profile(fleet.System)
	fmt.Println(s.Mode, p.Phase, p.Current.Path, len(s.Pending(0)))
	// Output: manage idle /srv/old 1
}
