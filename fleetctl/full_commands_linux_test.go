package fleetctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/disktest"
)

// TestDiskFullCommands lets the disk of the repository be full at every write of every
// other command that writes there. What fails says so; what was there stays readable;
// and the same command works once there is room.
func TestDiskFullCommands(t *testing.T) {
	disktest.Each(t, func(t *testing.T, kind disktest.Kind) {
		dir := filepath.Join(t.TempDir(), "first")
		disk := disktest.New(t, kind, filepath.Dir(dir))
		w := newWorldIn(t, dir)
		w.published("galena")
		dana := w.person("dana")
		request := dana.request()
		inventory := filepath.Join(t.TempDir(), "inventory.json")
		if err := os.WriteFile(inventory, []byte(`{"instances": {}, "machines": {"beryl": {"name": "beryl", "machineClass": "nixos", "tags": []}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		full, met := 0, 0
		for _, args := range [][]string{
			{"token", "galena"},
			{"trust", "new-key", "release-2"},
			{"trust", "add-key", "release", filepath.Join(dir, "trust", "keys", "release-2.pub")},
			{"trust", "rotate", "builder"},
			{"trust", "sign", "-y"},
			{"trust", "ca", "add"},
			{"trust", "sign", "-y"},
			{"trust", "ca", "use"},
			{"kit"},
			{"operator", "add", "dana", "--role", "viewer", "--request", request},
			{"operator", "remove", "dana", "--reason", "left"},
			{"ban", "galena", "--reason", "lost"},
			{"ban", "galena", "--lift", "--reason", "found"},
			{"carry", "galena", "--file", filepath.Join(dir, "galena.tar")},
			{"audit", "export", filepath.Join(dir, "log.jsonl")},
			{"status"},
		} {
			n, m := untilRoom(t, w, kind, disk, args)
			full, met = full+n, met+m
		}
		w.write(strings.ReplaceAll(fleetText, "machines:", "inventory: {file: inventory.json}\nmachines:"), "fleet.yaml")
		n, m := untilRoom(t, w, kind, disk, []string{"inventory", "import", "--from-file", inventory})
		full, met = full+n, met+m
		if full == 0 || met == 0 {
			t.Error("the disk was never full: the test shows nothing")
		}
		t.Logf("%s: %d steps %s, %d times the disk's own word", t.Name(), full, disktest.Said, met)
	})
}

// untilRoom runs a command with more and more room until it works, and says how often
// it did not, and how often by the disk's own word.
func untilRoom(t *testing.T, w *world, kind disktest.Kind, disk *disktest.Disk, args []string) (full, met int) {
	t.Helper()
	for step := 0; ; step++ {
		if step > 200 {
			t.Fatalf("%q: there is never enough room", args)
		}
		disk.Leave(step)
		code, _, errs := w.run(args...)
		disk.Leave(-1)
		if code == exitOK {
			return full, met
		}
		full++
		if strings.Contains(errs, kind.Word()) {
			met++
		} else {
			t.Errorf("%q, step %d: exit %d, %s", args, step, code, errs)
		}
		if !strings.Contains(errs, "hint: ") {
			t.Errorf("%q, step %d: no hint in %s", args, step, errs)
		}
		if left, err := filepath.Glob(filepath.Join(w.dir, "*", ".*.tmp-*")); len(left) > 0 || err != nil {
			t.Errorf("%q, step %d: left behind: %v, %v", args, step, left, err)
		}
		if args[0] == "inventory" {
			continue // Nothing can be read without one.
		}
		w.ok("trust", "show")
		w.ok("releases")
		w.ok("operator", "list")
	}
}
