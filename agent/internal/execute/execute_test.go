package execute

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
	"github.com/cameronraysmith/fleet/agent/internal/systemd"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// The test binary is also the runner, an agent that dies, and a writer of much
// output.
// systemdVariable is where a runner of the tests finds the address of its systemd.
const systemdVariable = "EXECUTE_TEST_SYSTEMD"

// groupsVariable is where it finds control groups, if it has any with that systemd.
const groupsVariable = "EXECUTE_TEST_GROUPS"

func TestMain(m *testing.M) {
	flag.Parse()
	manager = systemd.Address(os.Getenv(systemdVariable))
	useGroups(os.Getenv(groupsVariable))
	switch flag.Arg(0) {
	case "run-action":
		os.Exit(RunAction(flag.Arg(1)))
	case "dying-agent":
		os.Exit(dyingAgent(flag.Arg(1), flag.Arg(2)))
	case "spoil-output":
		os.Exit(spoilOutput())
	}
	goleak.VerifyTestMain(m)
}

const testPath = "PATH=/usr/local/bin:/usr/bin:/bin"

// sh is a step that runs a shell script with arguments from $1 on.
func sh(script string, args ...string) driver.Step {
	return driver.Step{Exec: &driver.Exec{
		Argv: append([]string{"/bin/sh", "-c", script, "sh"}, args...), Env: []string{testPath},
	}}
}

func action(deadline time.Duration, steps ...driver.Step) driver.Action {
	return driver.Action{Steps: steps, Deadline: deadline}
}

func executor(t *testing.T, dir string) *Executor {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(dir, []string{self, "run-action"}, Options{Poll: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func waitFor(t *testing.T, e *Executor, id string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	res, err := e.Wait(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// fifo makes a pipe that a script can open to say that it is there: reading
// from it waits for that, without polling.
func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readLine(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// alive says whether a process runs; zombies don't.
func alive(t *testing.T, pid int) bool {
	t.Helper()
	all, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(all, pid)
}

func awaitDeath(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for alive(t, pid) {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("process %d lives", pid)
		}
	}
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	marker := filepath.Join(dir, "marker")
	okay := sh("exit 7")
	okay.Exec.OKCodes = []int{7}
	nobody := sh("exit 0")
	nobody.Exec.User = "no-such-user-here"
	occupied := filepath.Join(dir, "occupied")
	if err := os.WriteFile(occupied, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		action  driver.Action
		outcome Outcome
		step    int
		code    int
		message string
		log     string
	}{
		{"nothing", driver.Action{}, OutcomeOK, 0, 0, "", ""},
		{"success", action(time.Minute, sh("echo hello; echo oops >&2")), OutcomeOK, 1, 0, "", "hello\noops\n"},
		{
			"exit code", action(time.Minute, sh("true"), sh("exit 3"), sh("touch $1", marker)), OutcomeExit, 1, 3,
			"step 2: sh ended with exit code 3", "",
		},
		{"accepted code", action(time.Minute, okay), OutcomeOK, 1, 0, "", ""},
		{"signal", action(time.Minute, sh("kill -USR1 $$")), OutcomeExit, 0, -1, "SIGUSR1", ""},
		{
			"no program", action(time.Minute, driver.Step{Exec: &driver.Exec{Argv: []string{"/no/such/program"}}}),
			OutcomeError, 0, 0, "no such file", "",
		},
		{"no user", action(time.Minute, nobody), OutcomeError, 0, 0, "unknown user", ""},
		{
			"link", action(time.Minute, driver.Step{Link: &driver.Link{Path: link, Target: "/target"}}),
			OutcomeOK, 1, 0, "", "",
		},
		{
			"link in the way", action(time.Minute, driver.Step{Link: &driver.Link{Path: occupied, Target: "/target"}}),
			OutcomeError, 0, 0, "no symbolic link", "",
		},
		{"hang", action(200*time.Millisecond, sh("exec sleep 600")), OutcomeHung, 0, 0, "200ms", ""},
		{
			"only the given environment", action(time.Minute, sh("/usr/bin/env | grep -v -e ^PWD= -e ^SHLVL= -e ^_=; pwd")),
			OutcomeOK, 1, 0, "", testPath + "\nEXTRA=1\n/\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			e := executor(t, t.TempDir())
			if st, err := e.Status("a"); err != nil || st.Phase != PhaseAbsent {
				t.Fatalf("before: %v, %v", st, err)
			}
			var extra []string
			if tc.name == "only the given environment" {
				extra = []string{"EXTRA=1", "PATH=/nowhere"}
			}
			if err := e.Start(t.Context(), "a", tc.action, extra); err != nil {
				t.Fatal(err)
			}
			res := waitFor(t, e, "a")
			if res.Outcome != tc.outcome || res.Step != tc.step || res.ExitCode != tc.code ||
				!strings.Contains(res.Message, tc.message) || (tc.message == "") != (res.Message == "") {
				t.Errorf("got %+v", res)
			}
			if res.Started.IsZero() || res.Ended.Before(res.Started) {
				t.Errorf("times: %v to %v", res.Started, res.Ended)
			}
			log, err := os.ReadFile(e.Log("a"))
			if err != nil {
				t.Fatal(err)
			}
			if !sameLines(string(log), tc.log) {
				t.Errorf("log %q, want %q", log, tc.log)
			}
			if err := e.Start(t.Context(), "a", tc.action, nil); !errors.Is(err, ErrExists) {
				t.Errorf("starting it again: %v", err)
			}
			if again := waitFor(t, executor(t, filepath.Dir(filepath.Dir(e.Log("a")))), "a"); again.Outcome != res.Outcome {
				t.Errorf("another executor sees %+v", again)
			}
		})
	}
	t.Cleanup(func() {
		if got, err := os.Readlink(link); err != nil || got != "/target" {
			t.Errorf("link: %q, %v", got, err)
		}
		if _, err := os.Lstat(marker); !errors.Is(err, os.ErrNotExist) {
			t.Error("a step after the failed one was carried out")
		}
	})
}

// sameLines compares without regard to order: a shell need not keep that of its
// environment.
func sameLines(a, b string) bool {
	count := map[string]int{}
	for l := range strings.Lines(a) {
		count[l]++
	}
	for l := range strings.Lines(b) {
		count[l]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	e := executor(t, t.TempDir())
	script := `echo begin; head -c 9000000 /dev/zero | tr '\0' x; sleep 0.3; head -c 9000000 /dev/zero | tr '\0' y`
	if err := e.Start(t.Context(), "a", action(time.Minute, sh(script)), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeOK {
		t.Fatalf("got %+v", res)
	}
	log, err := os.ReadFile(e.Log("a"))
	if err != nil {
		t.Fatal(err)
	}
	if len(log) != MaxLogBytes+len(cutNote) || !strings.HasPrefix(string(log), "begin\nxxx") ||
		!strings.HasSuffix(string(log), cutNote) {
		t.Errorf("%d bytes, ending in %q", len(log), log[max(0, len(log)-60):])
	}
	// A service that kept the output goes on writing.
	if err := os.Truncate(e.Log("a"), 2*MaxLogBytes); err != nil {
		t.Fatal(err)
	}
	if err := e.Prune(keeping("a")); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(e.Log("a")); err != nil || fi.Size() != MaxLogBytes {
		t.Errorf("after pruning: %v, %v", fi, err)
	}
}

func keeping(ids ...string) func([]string) []string {
	return func([]string) []string { return ids }
}

// TestPruneLeavesYoungerRuns: a run that begins once the runs are listed, and
// that keep does not know of, is left alone.
func TestPruneLeavesYoungerRuns(t *testing.T) {
	t.Parallel()
	e := executor(t, t.TempDir())
	young := filepath.Join(e.dir, "young")
	err := e.Prune(func(runs []string) []string {
		if len(runs) > 0 {
			t.Errorf("runs: %v", runs)
		}
		if err := os.Mkdir(young, 0o700); err != nil {
			t.Fatal(err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Error(err)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	e := executor(t, t.TempDir())
	for _, id := range []string{"a", "b", "c"} {
		if err := e.Start(t.Context(), id, action(time.Minute, sh("true")), nil); err != nil {
			t.Fatal(err)
		}
		waitFor(t, e, id)
	}
	if err := e.Prune(keeping("b")); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]Phase{"a": PhaseAbsent, "b": PhaseDone, "c": PhaseAbsent} {
		if st, err := e.Status(id); err != nil || st.Phase != want {
			t.Errorf("%s: %+v, %v", id, st, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	e := executor(t, t.TempDir())
	for _, id := range []string{"", ".", "..", "a/b", "a\x00b", strings.Repeat("a", 200)} {
		if err := e.Start(t.Context(), id, driver.Action{}, nil); !errors.Is(err, ErrID) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := e.Start(t.Context(), "a", action(0, sh("true")), nil); !errors.Is(err, driver.ErrAction) {
		t.Errorf("no deadline: %v", err)
	}
	if _, err := e.Wait(t.Context(), "a"); !errors.Is(err, ErrAbsent) {
		t.Errorf("waiting for nothing: %v", err)
	}
	if _, err := New(t.TempDir(), []string{"relative"}, Options{}); err == nil {
		t.Error("a relative runner is taken")
	}
	if RunAction(filepath.Join(t.TempDir(), "nothing")) == 0 {
		t.Error("a runner without an action ended well")
	}
}

// An agent that dies between writing the action and starting the runner has
// done nothing: the run may be started.
func TestRunThatNeverBegan(t *testing.T) {
	t.Parallel()
	e := executor(t, t.TempDir())
	if err := os.Mkdir(e.path("a"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return nil },
		func() error { return os.WriteFile(e.path("a", fileLock), nil, 0o600) },
		func() error { return writeJSON(e.path("a"), fileAction, request{ID: "a"}) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		if st, err := e.Status("a"); err != nil || st.Phase != PhaseAbsent {
			t.Errorf("got %+v, %v", st, err)
		}
	}
	if err := e.Start(t.Context(), "a", action(time.Minute, sh("true")), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
}

// stillClock never lets time pass, like a machine that sleeps.
type stillClock struct{}

func (stillClock) Now() time.Time { return time.Unix(1, 0) }

func (stillClock) After(time.Duration) (<-chan time.Time, func()) { return nil, func() {} }

func TestDeadlineCountsTimeAwake(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := writeJSON(dir, fileAction, request{ID: "a", Action: action(time.Nanosecond, sh("sleep 0.05"))}); err != nil {
		t.Fatal(err)
	}
	lock, err := lockOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := runAction(dir, lock, stillClock{}, nil); err != nil {
		t.Fatal(err)
	}
	if st, err := status(dir); err != nil || st.Result.Outcome != OutcomeOK {
		t.Errorf("got %+v, %v", st, err)
	}
}

func TestUserSwitch(t *testing.T) {
	t.Parallel()
	own, err := contain.Credential(strconv.Itoa(os.Getuid()))
	if err != nil || own != nil {
		t.Errorf("own user: %+v, %v", own, err)
	}
	if os.Getuid() != 0 {
		// Without root only the refusal can be seen.
		e := executor(t, t.TempDir())
		s := sh("true")
		s.Exec.User = "root"
		if err := e.Start(t.Context(), "a", action(time.Minute, s), nil); err != nil {
			t.Fatal(err)
		}
		if res := waitFor(t, e, "a"); res.Outcome != OutcomeError {
			t.Errorf("got %+v", res)
		}
		return
	}
	e := executor(t, t.TempDir())
	s := sh("id -un")
	s.Exec.User = "nobody"
	if err := e.Start(t.Context(), "a", action(time.Minute, s), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
	if log, err := os.ReadFile(e.Log("a")); err != nil || string(log) != "nobody\n" {
		t.Errorf("log %q, %v", log, err)
	}
}

func FuzzFiles(f *testing.F) {
	good, err := json.Marshal(request{ID: "a", Action: action(time.Minute, sh("true"))})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"outcome":"ok","step":1}`))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		for _, name := range []string{fileResult, fileStarted} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if st, err := status(dir); err == nil && st.Phase != PhaseDone {
			t.Errorf("got %+v", st)
		}
		var req request
		_ = readJSON(dir, fileStarted, &req)
		_ = req.Action.Validate()
	})
}
