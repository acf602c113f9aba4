package vars_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/vars"
)

// TestKilledAtEachPoint kills a writer at each crash point that it meets, once each time that
// it meets it, and once more at the same place of the run that recovers. Whatever was done
// until then, the next run finds the tree as it was, or ends the change: it is never half.
func TestKilledAtEachPoint(t *testing.T) {
	program := filepath.Join(t.TempDir(), "writer")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "crashpoints", "-o", program, "./testdata/writer")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	write := func(dir string, env ...string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), program, dir, "testdata/clan-tree-keys/alice.txt")
		cmd.Env = append(os.Environ(), env...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		return stderr.Bytes(), err
	}
	dir, log := clanTree(t), filepath.Join(t.TempDir(), "log")
	before := names(files(t, dir))
	if out, err := write(dir, "FLEET_CRASHPOINT_LOG="+log); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	after := names(files(t, dir))
	points := regexp.MustCompile(`(?m)^writer (\S+) (\S+) \d+$`).FindAllStringSubmatch(string(readFile(t, log)), -1)
	if len(points) < 20 {
		t.Fatalf("only %d points are met", len(points))
	}
	outcomes := map[string]int{}
	for n := range points {
		dir := clanTree(t)
		for range 2 { // The second run recovers, and is killed at its n-th point, where it has so many.
			out, err := write(dir, "FLEET_CRASHPOINT=*#"+strconv.Itoa(n+1)+"=kill")
			exit := (*exec.ExitError)(nil)
			if killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL; err != nil && !killed {
				t.Fatalf("killed at %s: %v\n%s", points[n][1:], err, out)
			}
		}
		// Nothing but ciphertext was ever staged.
		for p, content := range staged(t, dir) {
			if strings.Contains(content, "rotated") || strings.Contains(content, "AGE-SECRET-KEY") {
				t.Errorf("killed at %s: plaintext in %s", points[n][1:], p)
			}
		}
		change(t, dir, "alice", func(*vars.Change) error { return nil }) // It recovers, and changes nothing itself.
		got := names(files(t, dir))
		switch {
		case slices.Equal(got, before):
			outcomes["as it was"]++
			opensFor(t, dir, "vars/shared/ca/key", "alice", "bob")
		case slices.Equal(got, after):
			outcomes["changed"]++
			if v, err := open(t, dir).Read("vars/shared/psk/psk", options(t, "m2").Identities); err != nil || string(v) != "rotated" {
				t.Errorf("killed at %s: got %q, %v", points[n][1:], v, err)
			}
			opensFor(t, dir, "vars/per-machine/m1/pw/tok", "alice", "m1")
		default:
			t.Errorf("killed at %s: the tree is half changed: %q", points[n][1:], got)
		}
		healthy(t, dir)
		if left := staged(t, dir); len(left) > 0 {
			t.Errorf("killed at %s: %d staged files are left", points[n][1:], len(left))
		}
	}
	if outcomes["as it was"] == 0 || outcomes["changed"] == 0 {
		t.Errorf("outcomes: %v; want both", outcomes)
	}
}

func names(m map[string]string) (list []string) {
	for p := range m {
		list = append(list, p)
	}
	slices.Sort(list)
	return list
}

// staged are the files of changes that are not over.
func staged(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := files(t, filepath.Join(dir, ".fleet-vars"))
	delete(m, ".gitignore")
	delete(m, "lock")
	return m
}

// A reader of a tree in which a change is half made is told so.
func TestHalfMadeChangeIsAWarning(t *testing.T) {
	dir := clanTree(t)
	write(t, dir, ".fleet-vars/change.json", `{"steps":[]}`)
	w := open(t, dir).Warnings()
	if len(w) != 1 {
		t.Fatalf("warnings: %v", w)
	}
	says(t, w[0], "half made")
	if _, err := tryChange(t, dir, "alice", func(*vars.Change) error { return nil }); err != nil {
		t.Error(err)
	}
	if w := open(t, dir).Warnings(); len(w) > 0 {
		t.Errorf("warnings: %v", w)
	}
}
