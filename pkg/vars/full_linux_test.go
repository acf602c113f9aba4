package vars_test

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/disktest"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// TestDiskFull has a change meet a full disk at each of its writes. It says whether anything
// was made, and the next run has all of it or nothing.
func TestDiskFull(t *testing.T) {
	disktest.Each(t, func(t *testing.T, kind disktest.Kind) {
		top := t.TempDir()
		disk := disktest.New(t, kind, top)
		dir := filepath.Join(top, "tree")
		copyTree(t, dir)
		const fresh = "vars/shared/fresh/fresh"
		last, full, decided := "", 0, 0
		for room, done := 0, 0; done < 3; room++ {
			if room > 300 {
				t.Fatal("there is never enough room")
			}
			value := strconv.Itoa(room)
			disk.Leave(room)
			_, err := tryChange(t, dir, "alice", func(c *vars.Change) error {
				if err := c.PutSecret(fresh, []byte(value+strings.Repeat(" ", 9000)), vars.Access{}); err != nil {
					return err
				}
				return c.PutSecret(psk, []byte(value), vars.Access{})
			})
			disk.Leave(-1)
			if err == nil {
				done++
			} else {
				full++
				said := strings.Contains(err.Error(), "nothing was made") || strings.Contains(err.Error(), "writing to the tree in") || strings.Contains(err.Error(), "locking")
				if strings.Contains(err.Error(), "the next run that writes ends it") {
					decided++
					said = true
				}
				if !said || !strings.Contains(err.Error(), kind.Word()) {
					t.Errorf("room %d: %v", room, err)
				}
			}
			// With room again, a run that changes nothing itself ends what was decided.
			change(t, dir, "alice", func(*vars.Change) error { return nil })
			healthy(t, dir)
			a, aerr := open(t, dir).Read(psk, options(t, "m1").Identities)
			b, berr := open(t, dir).Read(fresh, options(t, "alice").Identities)
			if last == "" && berr != nil && aerr == nil {
				continue // As it was.
			}
			if aerr != nil || berr != nil || strings.TrimSpace(string(b)) != string(a) || string(a) != value && string(a) != last {
				t.Fatalf("room %d: one is %.9q, the other %.9q; before it was %q, %v, %v", room, a, b, last, aerr, berr)
			}
			last = string(a)
		}
		if full == 0 {
			t.Error("the disk was never full")
		}
		t.Logf("%s: %d changes %s, %d of them decided", t.Name(), full, disktest.Said, decided)
	})
}

// A tree that cannot be written to is refused before anything is done; reading it works.
func TestReadOnlyTree(t *testing.T) {
	const dir = "/proc/self" // Nobody can make a file there, root neither.
	open(t, dir)
	_, err := vars.Begin(t.Context(), dir, options(t, "alice"))
	says(t, err, dir, "that you may write to")
}
