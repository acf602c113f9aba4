package fleetctl

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/disktest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestDiskFull lets the disk of the repository, and that of its releases alone, be
// full at every write of a publish, by bytes and by inodes, and everywhere by a
// limit on the size of files.
func TestDiskFull(t *testing.T) {
	disktest.Each(t, func(t *testing.T, kind disktest.Kind) {
		for _, part := range []string{"all", "releases", "secrets"} {
			t.Run("room for "+part, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "first")
				var disk *disktest.Disk
				if part == "all" {
					disk = disktest.New(t, kind, filepath.Dir(dir))
				}
				w := fullWorld(t, dir)
				if part != "all" {
					disk = apart(t, kind, filepath.Join(dir, part))
				}
				steps(t, w, kind, disk.Leave)
			})
		}
		if kind == disktest.Limit {
			t.Run("mark", diskFullMark)
		}
	})
}

// apart puts a directory onto a small disk, with what is in it.
func apart(t *testing.T, kind disktest.Kind, dir string) *disktest.Disk {
	t.Helper()
	before := dir + ".before"
	if err := os.Rename(dir, before); err != nil {
		t.Fatal(err)
	}
	disk := disktest.New(t, kind, dir)
	if err := os.CopyFS(dir, os.DirFS(before)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(before); err != nil {
		t.Fatal(err)
	}
	return disk
}

// fullWorld is a fleet with a secret, whose repository is in dir.
func fullWorld(t *testing.T, dir string) *world {
	t.Helper()
	w := newWorldIn(t, dir)
	w.write(fleetText+"  machine:\n    galena:\n      secrets: {token: {file: ./sealed/token.age}}\n", repo.FleetFile)
	w.sealSecret("0")
	w.enrol("galena")
	w.published()
	return w
}

// steps publishes with more and more room until it works three times, each
// time a new secret of a host that enrolled anew, so that all is written. What
// fails says so, and what is there then is whole.
func steps(t *testing.T, w *world, kind disktest.Kind, room func(step int)) {
	t.Helper()
	full, met := 0, 0
	used := numbers(t, w)
	for step, done := 0, 0; done < 3; step++ {
		if step > 300 {
			t.Fatal("there is never enough room")
		}
		room(-1)
		w.sealSecret(fmt.Sprint(step))
		w.clock = w.clock.Add(1e9)
		w.server.HostKeys = nil
		w.enrol("galena")
		head := w.server.Head
		room(step)
		code, _, errs := w.run("publish")
		if code == exitOK {
			done++
		} else {
			full++
			if strings.Contains(errs, kind.Word()) {
				met++
			}
			if !strings.Contains(errs, w.dir) || !strings.Contains(errs, "make room on the disk of this repository") {
				t.Errorf("step %d: exit %d, %s", step, code, errs)
			}
			if moved := w.server.Head != head; moved != strings.Contains(errs, "is committed and hosts see it") {
				t.Errorf("step %d: head moved: %v, but it says %s", step, moved, errs)
			}
		}
		if left, err := filepath.Glob(filepath.Join(w.dir, "*", ".*.tmp-*")); len(left) > 0 || err != nil {
			t.Errorf("step %d: left behind: %v, %v", step, left, err)
		}
		w.ok("releases") // It reads them all.
		now := numbers(t, w)
		for key, digest := range used {
			if now[key] != digest {
				t.Errorf("step %d: %s was %s, is %s", step, key, digest, now[key])
			}
		}
		used = now
	}
	if full == 0 || met == 0 {
		t.Error("the disk was never full: the test shows nothing")
	}
	room(-1)
	res := w.published()
	if _, twice := used["galena "+res.Generations[0].Number]; twice {
		t.Errorf("number %s is used twice", res.Generations[0].Number)
	}
	if _, manifest := w.desired("galena"); manifest == nil {
		t.Error("the secrets are gone")
	}
	for _, r := range w.releases() {
		if string(r.ID) == w.server.Head && r.State != repo.ReleaseCommitted {
			t.Errorf("release %s is %s", r.ID, r.State)
		}
	}
	t.Logf("%s: %d steps %s, %d times the disk's own word", t.Name(), full, disktest.Said, met)
}

// numbers are those in the repository, with their digests; each is there once.
func numbers(t *testing.T, w *world) map[string]fleet.Digest {
	t.Helper()
	out := map[string]fleet.Digest{}
	for _, r := range w.releases() {
		for _, g := range r.Generations {
			key := string(g.Machine) + " " + g.Number.String()
			if out[key] != "" {
				t.Errorf("%s is there twice", key)
			}
			out[key] = g.Digest
		}
	}
	return out
}

// diskFullMark has the record of a commit fail alone: hosts see the release.
func diskFullMark(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "first")
	disk := disktest.New(t, disktest.Limit, filepath.Dir(dir))
	w := newWorldIn(t, dir)
	w.published("galena")
	w.server.Before = func(method string) error {
		if strings.HasSuffix(method, "/Commit") {
			disk.Leave(0)
		}
		return nil
	}
	head := w.server.Head
	w.fails(exitError, "is committed and hosts see it", "publish", "galena")
	if w.server.Head == head {
		t.Error("it was not committed")
	}
	w.server.Before = nil
	disk.Leave(-1)
	if res := w.published("galena"); res.Generations[0].Number != "1.3" {
		t.Errorf("number %s", res.Generations[0].Number)
	}
	for _, r := range w.releases() {
		if r.State != repo.ReleaseCommitted {
			t.Errorf("release %s is %s", r.ID, r.State)
		}
	}
}
