package deadman

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// What the test binary is with these as its first argument.
const (
	asRunner = "run-action"
	asSwitch = "dead-man-switch"
	asClaim  = "claim" // directory, order, verdict
	// asSwitches goes on with all.
	asSwitches = "dead-man-switches"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case asRunner:
			os.Exit(execute.RunAction(os.Args[2]))
		case asSwitch:
			os.Exit(Main(os.Args[2], []string{os.Args[0], asRunner}))
		case asSwitches:
			os.Exit(Resume(os.Args[2], []string{os.Args[0], asRunner}))
		case asClaim:
			v, err := claim(os.Args[2], os.Args[3], Verdict(os.Args[4]))
			if err != nil {
				panic(err)
			}
			_, _ = os.Stdout.WriteString(string(v))
			os.Exit(0)
		}
	}
	goleak.VerifyTestMain(m)
}

// world is a switch and what it would go back to.
type world struct {
	*Switch
	t        *testing.T
	children *Children
	order    Order
	back     string // a file that the way back makes
}

func newWorld(t *testing.T, after time.Duration) *world {
	t.Helper()
	t.Parallel()
	return another(t, after)
}

// another is a switch of a test that may have others.
func another(t *testing.T, after time.Duration) *world {
	t.Helper()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, children: &Children{Command: []string{exe, asSwitch}}, back: filepath.Join(dir, "back")}
	if w.Switch, err = Open(filepath.Join(dir, "switch"), w.children.Start); err != nil {
		t.Fatal(err)
	}
	w.order = Order{
		ID: "act-1", After: after, Runs: filepath.Join(dir, "runs"), Activate: "act-1-activate", Back: []string{"act-1-rollback-1", "act-1-rollback-2"},
		Rollback: action("echo $LAB >>" + w.back), Env: []string{"LAB=yes"},
	}
	t.Cleanup(func() {
		if err := w.Done(w.order.ID); err != nil {
			t.Error(err)
		}
		w.children.Reap(context.Background())
	})
	return w
}

func action(script string) driver.Action {
	return driver.Action{Deadline: time.Minute, Steps: []driver.Step{{Exec: &driver.Exec{Argv: []string{"/bin/sh", "-c", script}}}}}
}

func (w *world) arm() {
	w.t.Helper()
	if err := w.Arm(w.t.Context(), w.order); err != nil {
		w.t.Fatal(err)
	}
}

// outcome waits until the switch has done what it does.
func (w *world) outcome() Outcome {
	w.t.Helper()
	for range 6000 {
		var o Outcome
		if err := readJSON(filepath.Join(w.dir, fileOutcome+w.order.ID), &o); err == nil {
			return o
		}
		time.Sleep(5 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(w.dir, fileLog))
	w.t.Fatalf("nothing came of it: %s", log)
	return Outcome{}
}

// went says how often the way back was carried out.
func (w *world) went() int {
	w.t.Helper()
	b, err := os.ReadFile(w.back)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	return strings.Count(string(b), "yes\n")
}

func TestFires(t *testing.T) {
	w := newWorld(t, 50*time.Millisecond)
	w.arm()
	if o := w.outcome(); !o.Back || w.went() != 1 {
		t.Errorf("got %+v, %d times back", o, w.went())
	}
	if v, err := w.Claim(w.order.ID, Verified); v != Fired || err != nil {
		t.Errorf("called verified after that: %q, %v", v, err)
	}
}

// TestDecided: whoever decides in time keeps the switch from firing, and its
// process ends.
func TestDecided(t *testing.T) {
	for _, v := range []Verdict{Verified, Kept, Ended} {
		t.Run(string(v), func(t *testing.T) {
			w := newWorld(t, 2*time.Second)
			w.arm()
			if got, err := w.Claim(w.order.ID, v); got != v || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
			for n := 0; ; n++ {
				if there, err := wake(w.dir); err != nil || n == 1000 {
					t.Fatalf("the process is there: %t, %v", there, err)
				} else if !there {
					break
				}
				time.Sleep(time.Millisecond)
			}
			if w.went() != 0 {
				t.Error("it went back")
			}
		})
	}
}

// TestOneVerdict: of many processes that decide at once, all learn of the same
// one verdict.
func TestOneVerdict(t *testing.T) {
	w := newWorld(t, time.Hour)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		id := "act-" + string(rune('a'+n))
		out := make([]string, 8)
		var wg sync.WaitGroup
		for i := range out {
			wg.Go(func() {
				b, err := exec.Command(exe, asClaim, w.dir, id, string([]Verdict{Verified, Fired}[i%2])).Output() //nolint:noctx // It ends.
				if err != nil {
					t.Error(err)
				}
				out[i] = string(b)
			})
		}
		wg.Wait()
		for _, o := range out {
			if o == "" || o != out[0] {
				t.Errorf("verdicts are %q", out)
				break
			}
		}
	}
}

// TestProcessDies: one that was killed leaves the order, and the next counts from
// the start; of one that had fired the next goes on, without doing anything twice.
func TestProcessDies(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.arm()
	first := w.children.pids[0]
	w.kill(first)
	w.arm()
	if n := len(w.children.pids); n == 0 || w.children.pids[n-1] == first {
		t.Fatalf("processes are %v", w.children.pids)
	}
	w.kill(w.children.pids[len(w.children.pids)-1])
	if v, err := w.Claim(w.order.ID, Fired); v != Fired || err != nil {
		t.Fatalf("%q, %v", v, err)
	}
	for range 2 {
		if err := w.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if o := w.outcome(); !o.Back || w.went() != 1 {
			t.Errorf("got %+v, %d times back", o, w.went())
		}
	}
}

func (w *world) kill(pid int) {
	w.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	for range 1000 {
		if there, err := wake(w.dir); err == nil && !there {
			return
		}
		time.Sleep(time.Millisecond)
	}
	w.t.Fatal("it survives SIGKILL")
}

// TestEndsActivation: what still activates is ended before the way back.
func TestEndsActivation(t *testing.T) {
	w := newWorld(t, time.Hour)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e, err := execute.New(w.order.Runs, []string{exe, asRunner}, execute.Options{})
	if err != nil {
		t.Fatal(err)
	}
	begun := filepath.Join(t.TempDir(), "begun")
	w.arm()
	if err := e.Start(t.Context(), w.order.Activate, action("touch "+begun+"; sleep 600"), nil); err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		if _, err := os.Stat(begun); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := w.Extend(t.Context(), w.order.ID, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if o := w.outcome(); !o.Back || w.went() != 1 {
		t.Errorf("got %+v, %d times back", o, w.went())
	}
	if res, err := e.Wait(t.Context(), w.order.Activate); err != nil || res.Outcome != execute.OutcomeStopped {
		t.Errorf("the activation: %+v, %v", res, err)
	}
}

// TestWayBackFails: as often as the agent would try, and no more.
func TestWayBackFails(t *testing.T) {
	w := newWorld(t, time.Millisecond)
	w.order.Rollback = action("echo $LAB >>" + w.back + "; exit 3")
	w.arm()
	if o := w.outcome(); o.Back || !strings.Contains(o.Detail, "exit code 3") || w.went() != len(w.order.Back) {
		t.Errorf("got %+v, tried %d times", o, w.went())
	}
}

// TestExtensions: more time is given a few times, and then no more.
func TestExtensions(t *testing.T) {
	w := newWorld(t, 30*time.Second)
	w.arm()
	for range maxExtensions {
		if err := w.Extend(t.Context(), w.order.ID, 30*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Extend(t.Context(), w.order.ID, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if o, err := readOrder(w.dir); err != nil || o.Sequence != maxExtensions || o.After != 30*time.Second {
		t.Errorf("the order is %+v: %v", o, err)
	}
}

// TestNobodyWaits: a program that does not come to wait is an error, in bounded
// time, and names the file to look at.
func TestNobodyWaits(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.children.Command = []string{"/bin/false"}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := w.Arm(ctx, w.order); err == nil || !strings.Contains(err.Error(), fileLog) {
		t.Errorf("got %v", err)
	}
	if w.children.Command = []string{filepath.Join(w.dir, "none")}; w.Arm(t.Context(), w.order) == nil {
		t.Error("armed by a program that isn't there")
	}
}

// TestRelease: only a process without an order is sent away.
func TestRelease(t *testing.T) {
	w := newWorld(t, time.Hour)
	if err := w.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		there, err := wake(w.dir)
		if err != nil || n == 5000 {
			t.Fatalf("no process comes: %v", err)
		}
		if there {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for n := 0; ; n++ {
		if err := w.Release(); err != nil || n == 5000 {
			t.Fatalf("it stays: %v", err)
		}
		if there, err := wake(w.dir); err != nil {
			t.Fatal(err)
		} else if !there {
			break
		}
		time.Sleep(time.Millisecond)
	}
	w.arm()
	if err := w.Release(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if there, err := wake(w.dir); err != nil || !there {
		t.Errorf("one with an order went: %v", err)
	}
}

// TestRestart: the agent's unit is started anew after the way back, and again where
// systemd is busy, but not for ever.
func TestRestart(t *testing.T) {
	for name, c := range map[string]struct{ fails, want int }{"at once": {0, 1}, "at last": {2, 3}, "never": {9, 3}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, time.Millisecond)
			w.order.Rollback, w.order.Unit = driver.Action{}, "fleet-agent.service"
			var tried []string
			p := process{dir: w.dir, now: time.Now, out: &bytes.Buffer{}, idle: time.Hour, pause: time.Millisecond}
			p.restart = func(_ context.Context, unit string) error {
				if tried = append(tried, unit); len(tried) <= c.fails {
					return errors.New("busy")
				}
				return nil
			}
			if err := w.write(w.order); err != nil {
				t.Fatal(err)
			}
			if err := p.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !w.outcome().Back || len(tried) != c.want || tried[0] != w.order.Unit {
				t.Errorf("tried %q, want %d", tried, c.want)
			}
		})
	}
}

// TestDirectoryGone: a process whose state is removed ends.
func TestDirectoryGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "switch")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p := process{dir: dir, now: time.Now, out: &bytes.Buffer{}, idle: time.Hour}
	done := make(chan error, 1)
	go func() { done <- p.run(t.Context()) }()
	time.Sleep(100 * time.Millisecond)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestKeep: the kept program is made anew when, and only when, another is
// installed.
func TestKeep(t *testing.T) {
	dir, program := t.TempDir(), filepath.Join(t.TempDir(), "agent")
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(program+".new", []byte(text), 0o755), os.Rename(program+".new", program)); err != nil { //nolint:gosec // A program.
			t.Fatal(err)
		}
	}
	for _, text := range []string{"one", "two"} {
		write(text)
		var before os.FileInfo
		for range 2 {
			kept, err := Keep(dir, program)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(kept)
			fi, serr := os.Stat(kept)
			if err := errors.Join(err, serr); err != nil || string(b) != text || fi.Mode().Perm() != 0o700 {
				t.Fatalf("kept %q %v: %v", b, fi, err)
			}
			if before != nil && !os.SameFile(before, fi) {
				t.Error("copied again")
			}
			before = fi
		}
	}
	if err := os.Truncate(filepath.Join(dir, fileProgram), 0); err != nil { // as a power loss may
		t.Fatal(err)
	}
	if kept, err := Keep(dir, program); err != nil {
		t.Error(err)
	} else if b, _ := os.ReadFile(kept); string(b) != "two" {
		t.Errorf("kept %q", b)
	}
}

// TestNoRoomForTheWayBack: what can't begin is tried again, under the same name.
func TestNoRoomForTheWayBack(t *testing.T) {
	w := newWorld(t, time.Hour)
	if err := w.write(w.order); err != nil {
		t.Fatal(err)
	}
	// In the place of the directory of runs, as no disk is filled here.
	if err := os.WriteFile(w.order.Runs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := &bytes.Buffer{}
	p := process{dir: w.dir, runner: []string{exe, asRunner}, now: time.Now, out: out, pause: 10 * time.Millisecond}
	time.AfterFunc(300*time.Millisecond, func() { _ = os.Remove(w.order.Runs) })
	if err := p.fire(t.Context(), &w.order); err != nil {
		t.Fatal(err)
	}
	if o := w.outcome(); !o.Back || w.went() != 1 {
		t.Errorf("got %+v, %d times back: %s", o, w.went(), out)
	}
}

// FuzzOrder: whatever became of an order, it is refused or can be carried out.
func FuzzOrder(f *testing.F) {
	whole, err := json.Marshal(Order{
		ID: "a", After: time.Second, Runs: "/r", Activate: "a-activate", Back: []string{"a-1"}, Rollback: action("true"), Unit: "fleet-agent.service",
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(bytes.Replace(whole, []byte(`"a-1"`), []byte(`"../a"`), 1))
	f.Add(bytes.Replace(whole, []byte(`"/r"`), []byte(`"r"`), 1))
	f.Add(bytes.Replace(whole, []byte(`fleet-agent`), []byte(`--now`), 1))
	f.Add([]byte("null"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, fileOrder), data, 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := readOrder(dir)
		if err != nil {
			if string(data) == string(whole) {
				t.Error(err)
			}
			return
		}
		if o == nil || !filepath.IsAbs(o.Runs) || o.After <= 0 || strings.HasPrefix(o.Unit, "-") {
			t.Errorf("%q is read as %+v", data, o)
		}
		for _, n := range append([]string{o.ID, o.Activate}, o.Back...) {
			if n == "" || filepath.Base(n) != n || n == ".." {
				t.Errorf("%q has the name %q", data, n)
			}
		}
	})
}
