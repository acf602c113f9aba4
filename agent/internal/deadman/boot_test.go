package deadman

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestResume: after a boot, one process goes on with what was armed and with what was
// being taken back, of all switches, and leaves alone what is decided.
func TestResume(t *testing.T) {
	armed, firing, decided := newWorld(t, time.Second), another(t, time.Hour), another(t, time.Hour)
	dir := t.TempDir()
	for name, w := range map[string]*world{"armed": armed, "firing": firing, "decided": decided} {
		w.arm()
		w.kill(w.children.pids[0])
		if err := os.Symlink(w.dir, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for w, v := range map[*world]Verdict{firing: Fired, decided: Verified} {
		if got, err := w.Claim(w.order.ID, v); got != v || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	// One that never had an order, and no switch at all.
	if err := os.Mkdir(filepath.Join(dir, "idle"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileProgram), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), exe, asSwitches, dir).CombinedOutput(); err != nil || bytes.Count(out, []byte("back: true")) != 2 {
		t.Errorf("%v: %s", err, out)
	}
	if armed.went() != 1 || firing.went() != 1 || decided.went() != 0 {
		t.Errorf("went back %d, %d and %d times", armed.went(), firing.went(), decided.went())
	}
	for _, w := range []*world{armed, firing} {
		if o := w.outcome(); !o.Back {
			t.Errorf("%+v", o)
		}
	}
}

// TestResumeIsInTheWayOfNobody: the agent that starts beside it finds its switch
// armed, and decides.
func TestResumeIsInTheWayOfNobody(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.arm()
	w.kill(w.children.pids[0])
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	cmd := exec.CommandContext(t.Context(), exe, asSwitches, filepath.Dir(w.dir))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- cmd.Wait() }()
	for n := 0; ; n++ {
		if there, err := wake(w.dir); err != nil || n == 5000 {
			t.Fatalf("the process is there: %t, %v", there, err)
		} else if there {
			break
		}
		time.Sleep(time.Millisecond)
	}
	before := w.children.pids[0]
	w.arm()
	if got := w.children.pids; len(got) != 1 || got[0] != before {
		t.Errorf("another process was started: %v, was %d", got, before)
	}
	if v, err := w.Claim(w.order.ID, Verified); v != Verified || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if err := <-ended; err != nil || w.went() != 0 {
		t.Errorf("%v, %d times back", err, w.went())
	}
}

// TestResumeOfWhatIsDamaged: an order that nobody can carry out is said, keeps no other
// from being carried out, and is nothing to try again and again.
func TestResumeOfWhatIsDamaged(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.arm()
	w.kill(w.children.pids[0])
	if v, err := w.Claim(w.order.ID, Fired); v != Fired || err != nil {
		t.Fatalf("%q, %v", v, err)
	}
	dir := filepath.Dir(w.dir)
	for name, text := range map[string]string{"a-damaged": "{", "z-damaged": `{"id": "../x"}`} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o700), os.WriteFile(filepath.Join(dir, name, fileOrder), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := w.resumes(dir, nil)
	if err != nil || strings.Count(out, "it is damaged") != 2 || w.went() != 1 {
		t.Errorf("%v, %d times back: %s", err, w.went(), out)
	}
}

// resumes is Resume within the test.
func (w *world) resumes(dir string, start func(unit string) error) (said string, err error) {
	w.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	var out bytes.Buffer
	err = resume(w.t.Context(), dir, process{
		runner: []string{exe, asRunner}, now: time.Now, out: &out, pause: time.Millisecond,
		restart: func(context.Context, string) error { return nil },
		start:   func(_ context.Context, unit string) error { return start(unit) },
	})
	return out.String(), err
}

// TestResumeStartsTheAgent: the power went after the way back, before the agent was
// started again. What fails is tried again.
func TestResumeStartsTheAgent(t *testing.T) {
	w := newWorld(t, 50*time.Millisecond)
	w.order.Unit = "fleet-lab-none.service"
	w.arm()
	w.outcome()
	var started []string
	out, err := w.resumes(filepath.Dir(w.dir), func(unit string) error {
		if started = append(started, unit); len(started) == 1 {
			return errors.New("systemd is busy")
		}
		return nil
	})
	if err != nil || !slices.Equal(started, []string{w.order.Unit, w.order.Unit}) || !strings.Contains(out, "busy") || w.went() != 1 {
		t.Errorf("%v, started %q, %d times back: %s", err, started, w.went(), out)
	}
}

// TestResumeCountsBoots: after three of them an order is due at once.
func TestResumeCountsBoots(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.arm()
	w.kill(w.children.pids[0])
	for n := range maxBoots {
		p := process{dir: w.dir, now: time.Now, out: io.Discard}
		if p.count(); p.longest != 0 {
			t.Errorf("boot %d: %s are left", n+1, p.longest)
		}
	}
	out, err := w.resumes(filepath.Dir(w.dir), nil)
	if err != nil || w.went() != 1 || !strings.Contains(out, "booted 3 times") {
		t.Errorf("%v, %d times back: %s", err, w.went(), out)
	}
}

// TestResumeNeedsNoRoom: where nothing can be written the deadline counts all the same;
// before an activation that is an error, because nothing may begin then.
func TestResumeNeedsNoRoom(t *testing.T) {
	w := newWorld(t, 50*time.Millisecond)
	if err := w.write(w.order); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(w.dir, fileArmed), 0o700); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := process{dir: w.dir, runner: []string{exe, asRunner}, now: time.Now, out: io.Discard, idle: time.Hour, pause: time.Millisecond}
	if err := p.wait(t.Context(), nil); err == nil || w.went() != 0 {
		t.Errorf("%v, %d times back", err, w.went())
	}
	p.resumes = true
	if err := p.wait(t.Context(), nil); err != nil || w.went() != 1 {
		t.Errorf("%v, %d times back", err, w.went())
	}
}

// TestKeepWhileAnOrderWaits: what a generation brings does not replace what would take
// it back.
func TestKeepWhileAnOrderWaits(t *testing.T) {
	w := newWorld(t, time.Hour)
	dir := filepath.Dir(w.dir)
	keep := func(text, want string) {
		t.Helper()
		program := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(program, []byte(text), 0o700); err != nil { //nolint:gosec // A program.
			t.Fatal(err)
		}
		kept, err := Keep(dir, program)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(kept); err != nil || string(got) != want {
			t.Errorf("%q is kept, %v; want %q", got, err, want)
		}
	}
	keep("one", "one")
	w.arm()
	keep("two", "one")
	if err := w.Done(w.order.ID); err != nil {
		t.Fatal(err)
	}
	keep("three", "three")
}
