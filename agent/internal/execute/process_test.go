package execute

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDeadlineEndsTheWholeGroupAndNoService(t *testing.T) {
	t.Parallel()
	e, ready := executor(t, t.TempDir()), fifo(t)
	// A child and a grandchild that ignore SIGTERM would take the grace; these
	// only outlive their parent. The service is in a session of its own.
	script := `setsid sleep 600 >/dev/null 2>&1 & service=$!
(sleep 600 & echo $! >$1.grandchild; wait) &
child=$!
while [ ! -s $1.grandchild ]; do sleep 0.01; done
echo $child $(cat $1.grandchild) $service >$1
wait`
	if err := e.Start(t.Context(), "a", action(2*time.Second, sh(script, ready)), nil); err != nil {
		t.Fatal(err)
	}
	pids := strings.Fields(readLine(t, ready))
	res := waitFor(t, e, "a")
	if res.Outcome != OutcomeHung {
		t.Fatalf("got %+v", res)
	}
	for _, pid := range pids[:2] {
		if alive(t, atoi(t, pid)) {
			t.Errorf("process %s survived the deadline", pid)
		}
	}
	service := atoi(t, pids[2])
	if !alive(t, service) {
		t.Error("the service in its own session was ended")
	}
	if err := unix.Kill(service, unix.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestDeadlineKillsWhatIgnoresSIGTERM(t *testing.T) {
	t.Parallel()
	e, ready := executor(t, t.TempDir()), fifo(t)
	if err := e.Start(t.Context(), "a", action(time.Second,
		sh(`trap "" TERM; echo $$ >$1; while :; do sleep 1; done`, ready)), nil); err != nil {
		t.Fatal(err)
	}
	pid := atoi(t, readLine(t, ready))
	res := waitFor(t, e, "a")
	if res.Outcome != OutcomeHung || alive(t, pid) {
		t.Errorf("got %+v, alive %v", res, alive(t, pid))
	}
	if took := res.Ended.Sub(res.Started); took < killGrace || took > 3*killGrace {
		t.Errorf("took %s, with a grace of %s", took, killGrace)
	}
}

// A service that the activation starts keeps the log's descriptor at most; it
// must survive the run's end, and nobody may wait for it.
func TestDaemonSurvivesAndHoldsNobody(t *testing.T) {
	t.Parallel()
	e, ready, poke := executor(t, t.TempDir()), fifo(t), fifo(t)
	script := `setsid sh -c 'echo $$ >$1; read x <$2; echo still here; echo $$ >$1; exec sleep 600' sh $1 $2 &`
	if err := e.Start(t.Context(), "a", action(time.Minute, sh(script, ready, poke)), nil); err != nil {
		t.Fatal(err)
	}
	pid := atoi(t, readLine(t, ready))
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeOK {
		t.Fatalf("got %+v", res)
	}
	if st, err := e.Status("a"); err != nil || st.Phase != PhaseDone {
		t.Fatalf("status %+v, %v: the service holds the lock", st, err)
	}
	if err := os.WriteFile(poke, []byte("go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := atoi(t, readLine(t, ready)); again != pid || !alive(t, pid) {
		t.Error("the service died when it wrote")
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	awaitDeath(t, pid)
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	e, hold := executor(t, t.TempDir()), fifo(t)
	if err := e.Start(t.Context(), "a", action(time.Minute, sh("read x <$1", hold)), nil); err != nil {
		t.Fatal(err)
	}
	why := errors.New("newer generation")
	other := executor(t, filepath.Dir(filepath.Dir(e.Log("a"))))
	for _, w := range []*Executor{e, other} {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(30*time.Millisecond, func() { cancel(why) })
		if _, err := w.Wait(ctx, "a"); !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
		if st, err := w.Status("a"); err != nil || st.Phase != PhaseRunning {
			t.Errorf("got %+v, %v", st, err)
		}
	}
	if err := e.Prune(keeping()); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(hold, []byte("go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	results := make(chan Result, 2)
	for _, w := range []*Executor{e, other} {
		go func() {
			res, err := w.Wait(t.Context(), "a")
			if err != nil {
				res.Message = err.Error()
			}
			results <- res
		}()
	}
	for range 2 {
		if res := <-results; res.Outcome != OutcomeOK {
			t.Errorf("got %+v", res)
		}
	}
}

// dyingAgent starts a run in a runner that waited, has another one wait, says so,
// and waits to be killed.
func dyingAgent(dir, hold string) int {
	self, err := os.Executable()
	if err != nil {
		return 1
	}
	e, err := New(dir, []string{self, "run-action"}, Options{})
	if err != nil {
		return 1
	}
	ready := `echo begun; read x <$1; echo ended`
	err = errors.Join(e.Prepare(), e.Start(context.Background(), "a", action(time.Minute, sh(ready, hold)), nil), e.Prepare())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("started", e.waiting.child.pid)
	select {}
}

func TestAnotherAgentAdoptsTheRun(t *testing.T) {
	t.Parallel()
	dir, hold := t.TempDir(), fifo(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	agent := exec.CommandContext(t.Context(), self, "dying-agent", dir, hold)
	agent.Stderr = os.Stderr
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	said := strings.Fields(line)
	if err != nil || len(said) != 2 || said[0] != "started" {
		t.Fatalf("agent said %q, %v", line, err)
	}
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait()
	awaitDeath(t, atoi(t, said[1])) // It waits for nothing.

	e := executor(t, dir)
	if st, err := e.Status("a"); err != nil || st.Phase != PhaseRunning {
		t.Fatalf("got %+v, %v", st, err)
	}
	if err := os.WriteFile(hold, []byte("go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
	if log, err := os.ReadFile(e.Log("a")); err != nil || string(log) != "begun\nended\n" {
		t.Errorf("log %q, %v", log, err)
	}
}

func TestKilledRunnerIsLost(t *testing.T) {
	t.Parallel()
	e, ready := executor(t, t.TempDir()), fifo(t)
	if err := e.Start(t.Context(), "a", action(time.Minute, sh(`echo $$ >$1; exec sleep 600`, ready)), nil); err != nil {
		t.Fatal(err)
	}
	step := atoi(t, readLine(t, ready))
	var s started
	if err := readJSON(e.path("a"), fileStarted, &s); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(s.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	res := waitFor(t, e, "a")
	if res.Outcome != OutcomeLost || res.Message == "" {
		t.Errorf("got %+v", res)
	}
	if alive(t, step) {
		t.Error("what the lost run left goes on")
	}
	if st, err := e.Status("a"); err != nil || st.Phase != PhaseLost {
		t.Errorf("got %+v, %v", st, err)
	}
	if err := e.Start(t.Context(), "a", action(time.Minute, sh("true")), nil); !errors.Is(err, ErrExists) {
		t.Errorf("starting a lost run again: %v", err)
	}
}

func TestRunnerThatIsToldToStop(t *testing.T) {
	t.Parallel()
	e, ready := executor(t, t.TempDir()), fifo(t)
	if err := e.Start(t.Context(), "a", action(time.Minute, sh(`echo $$ >$1; exec sleep 600`, ready)), nil); err != nil {
		t.Fatal(err)
	}
	step := atoi(t, readLine(t, ready))
	var s started
	if err := readJSON(e.path("a"), fileStarted, &s); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGTERM} {
		if err := unix.Kill(s.PID, sig); err != nil {
			t.Fatal(err)
		}
	}
	res := waitFor(t, e, "a")
	if res.Outcome != OutcomeStopped || !strings.Contains(res.Message, "told to stop") || alive(t, step) {
		t.Errorf("got %+v", res)
	}
}

// A runner that a person or a service manager starts, without an open lock.
func TestRunnerTakesTheLockItself(t *testing.T) {
	t.Parallel()
	e, hold := executor(t, t.TempDir()), fifo(t)
	if err := os.Mkdir(e.path("a"), 0o700); err != nil {
		t.Fatal(err)
	}
	req := request{ID: "a", Action: action(time.Minute, sh("echo begun >$1; read x <$1", hold))}
	if err := writeJSON(e.path("a"), fileAction, req); err != nil {
		t.Fatal(err)
	}
	runner := exec.CommandContext(t.Context(), e.runner[0], "run-action", e.path("a"))
	if err := runner.Start(); err != nil {
		t.Fatal(err)
	}
	readLine(t, hold)
	if st, err := e.Status("a"); err != nil || st.Phase != PhaseRunning {
		t.Errorf("got %+v, %v", st, err)
	}
	if err := e.Start(t.Context(), "a", req.Action, nil); !errors.Is(err, ErrExists) {
		t.Errorf("starting it beside: %v", err)
	}
	if err := os.WriteFile(hold, []byte("go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := runner.Wait(); err != nil {
		t.Error(err)
	}
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
	if again := exec.CommandContext(t.Context(), e.runner[0], "run-action", e.path("a")); again.Run() == nil {
		t.Error("a run was carried out twice")
	}
}
