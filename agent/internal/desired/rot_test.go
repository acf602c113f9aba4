package desired_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestRot flips bytes all over what is kept, every one of small files: the store opens all the same,
// says what is damaged or refuses it, judges by no older root than the host
// had, and the next answer of the coordinator mends it.
func TestRot(t *testing.T) {
	f, dir := agenttest.NewFleet(t), t.TempDir()
	f.NextRoot()
	f.NextRoot()
	s := newStore(t, f, dir)
	now := time.Now()
	env, ref := f.Seal(f.Generation(7, source()))
	offer := desired.Offer{Profile: fleet.System, Newest: desired.Document{Generation: env}}
	if err := s.Take(system, offer, now); err != nil {
		t.Fatal(err)
	}
	floor := s.RootVersion()
	if floor != 3 {
		t.Fatalf("root version %d", floor)
	}
	var files []string
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(files) != 5 {
		t.Fatalf("kept are %v", files)
	}
	meaningless := 0
	for _, path := range files {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		step := 1 + len(whole)/200
		for n := 0; n*step < len(whole); n++ {
			at := n * step
			b := append([]byte(nil), whole...)
			b[at] ^= 1 << (at % 8)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := desired.Open(dir, f.RootPin, floor)
			if err != nil {
				t.Fatalf("%s, byte %d: %v", path, at, err)
			}
			damage := s.Damage()
			if s.Trust() == nil && (damage == nil || !strings.Contains(damage.Error(), dir)) {
				t.Errorf("%s, byte %d: no trust root, and nothing said: %v", path, at, damage)
			}
			d, _ := s.Desired(system, now)
			switch {
			case d.Target != nil && d.Target.Digest != ref.Digest:
				t.Errorf("%s, byte %d: %v is desired", path, at, d.Target)
			case d.Target != nil && damage == nil:
				meaningless++ // It is signed still, and means the same.
			case d.Target == nil && d.Refusal.Code == "" && damage == nil:
				t.Errorf("%s, byte %d: nothing is desired, and nobody says why", path, at)
			}
			if n%16 != 0 { // Each mending waits for the disk.
				continue
			}
			if err := s.AddRoots(f.Roots[s.RootVersion():]); err != nil { // As the coordinator answers.
				t.Fatalf("%s, byte %d: roots again: %v", path, at, err)
			}
			if err := s.Take(system, offer, now); err != nil {
				t.Fatalf("%s, byte %d: offered again: %v", path, at, err)
			}
			if d, _ := s.Desired(system, now); d.Target == nil || d.Target.Digest != ref.Digest || s.Damage() != nil || s.RootVersion() != floor {
				t.Errorf("%s, byte %d: after the answer: %+v, %v", path, at, d, s.Damage())
			}
			again, err := desired.Open(dir, f.RootPin, floor)
			if err != nil {
				t.Fatal(err)
			}
			if d, _ := again.Desired(system, now); d.Target == nil || again.Damage() != nil {
				t.Errorf("%s, byte %d: not mended on the disk: %+v, %v", path, at, d, again.Damage())
			}
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d flips mean nothing", meaningless)
}

// TestOlderRootJudgesNothing: a host that lost its newest root does not go by
// the one before.
func TestOlderRootJudgesNothing(t *testing.T) {
	f, dir := agenttest.NewFleet(t), t.TempDir()
	first := f.Roots[:1:1]
	f.NextRoot()
	s, err := desired.Open(dir, f.RootPin, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AddRoots(first); err != nil {
		t.Fatal(err)
	}
	env, _ := f.Seal(f.Generation(1, source()))
	offer := desired.Offer{Profile: fleet.System, Newest: desired.Document{Generation: env}}
	if err := s.Take(system, offer, time.Now()); err == nil || s.Trust() != nil || s.RootVersion() != 1 {
		t.Errorf("taken by an older root: %v", err)
	}
	if err := s.AddRoots(f.Roots); err != nil {
		t.Fatal(err)
	}
	if err := s.Take(system, offer, time.Now()); err != nil || s.Damage() != nil {
		t.Errorf("by the newest: %v, %v", err, s.Damage())
	}
}

// TestLargeFreshness: a statement's file that is no statement keeps nothing from
// working, whatever its size.
func TestLargeFreshness(t *testing.T) {
	f, dir := agenttest.NewFleet(t), t.TempDir()
	newStore(t, f, dir)
	if err := os.WriteFile(filepath.Join(dir, "freshness.json"), make([]byte, 4*fleet.MaxDocumentBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := desired.Open(dir, f.RootPin, 0); err != nil || s.Freshness() != nil || s.Trust() == nil {
		t.Errorf("opened: %v", err)
	}
}
