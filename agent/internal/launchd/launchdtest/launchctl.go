// Package launchdtest plays launchctl, for tests: what it is called with, what it prints
// and how it ends are as on a Mac, in its form; what it loads it really runs.
package launchdtest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/service"
	"github.com/cameronraysmith/fleet/pkg/service/servicetest"
)

// Launchd is a Mac's. What it does is changed, and looked at, within Do.
type Launchd struct {
	// Refuse has it load nothing, and say so.
	Refuse bool
	// Idle has it run nothing of what it loads, and say nothing of that.
	Idle bool
	// Hangs has launchctl not come back before it is given up.
	Hangs bool
	// Before is called with the arguments of launchctl, before it does anything and while
	// others may call it; nil for nothing. It is set before the first call.
	Before func(args string)
	// Calls are the arguments of launchctl.
	Calls []string
	// Lists are the property lists that were loaded, by label.
	Lists map[string]map[string]any

	t    *testing.T
	mu   sync.Mutex
	jobs map[string]*job
}

// job is one that is loaded.
type job struct {
	cmd  *exec.Cmd // nil where nothing was run
	done chan struct{}
	list map[string]any
}

// Start starts one that goes with the test, and all that it runs.
func Start(t *testing.T) *Launchd {
	t.Helper()
	l := &Launchd{t: t, Lists: map[string]map[string]any{}, jobs: map[string]*job{}}
	t.Cleanup(func() {
		for _, label := range l.Loaded() {
			l.mu.Lock()
			l.unload(label)
			l.mu.Unlock()
		}
	})
	return l
}

// Do looks at it, or changes it, while nobody else does.
func (l *Launchd) Do(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
}

// Launchctl is launchctl of this launchd.
func (l *Launchd) Launchctl() service.Launchctl { return service.Launchctl{Run: l.run} }

// Loaded are the labels of what is loaded.
func (l *Launchd) Loaded() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.jobs))
}

// PID is that of a loaded job; 0 where it does not run.
func (l *Launchd) PID(label string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if j := l.jobs[label]; j != nil && j.runs() {
		return j.cmd.Process.Pid
	}
	return 0
}

func (j *job) runs() bool {
	if j.cmd == nil {
		return false
	}
	select {
	case <-j.done:
		return false
	default:
		return true
	}
}

func (l *Launchd) run(ctx context.Context, argv ...string) (string, error) {
	args := argv[1:]
	if l.Before != nil {
		l.Before(strings.Join(args, " "))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Calls = append(l.Calls, strings.Join(args, " "))
	fail := func(code int, said string) (string, error) {
		return "", &service.ProgramError{Argv: argv, Code: code, Said: said}
	}
	if l.Hangs {
		l.mu.Unlock()
		<-ctx.Done()
		l.mu.Lock()
		return "", context.Cause(ctx)
	}
	if argv[0] != "/bin/launchctl" || len(args) < 2 {
		return fail(64, "Unrecognized subcommand")
	}
	label := strings.TrimPrefix(args[len(args)-1], "system/")
	j := l.jobs[label]
	switch args[0] {
	case "bootstrap":
		if l.Refuse {
			return fail(5, "Bootstrap failed: 5: Input/output error")
		}
		return "", l.load(args[2])
	case "print":
		if j == nil {
			return fail(113, "Bad request.\nCould not find service \""+label+"\" in domain for system")
		}
		return j.print(label), nil
	case "bootout":
		if j == nil {
			return fail(113, "Boot-out failed: 113: Could not find service")
		}
		l.unload(label)
		return "", nil
	case "kickstart":
		if j == nil {
			return fail(113, "Could not find service \""+label+"\" in domain for system")
		}
		return "", nil
	}
	return fail(64, "Unrecognized subcommand: "+args[0])
}

// load does what bootstrap has it do.
func (l *Launchd) load(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err //nolint:wrapcheck // Of a test.
	}
	list := servicetest.PropertyList(l.t, string(text))
	label, _ := list["Label"].(string)
	j := &job{list: list, done: make(chan struct{})}
	l.Lists[label], l.jobs[label] = list, j
	if l.Idle || list["RunAtLoad"] != true {
		return nil
	}
	var argv []string
	for _, a := range list["ProgramArguments"].([]any) {
		argv = append(argv, a.(string))
	}
	log, err := os.OpenFile(list["StandardErrorPath"].(string), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600) //nolint:gosec // The test's own.
	if err != nil {
		return err //nolint:wrapcheck // As above.
	}
	defer func() { _ = log.Close() }()
	// It outlives who asked for it.
	cmd := exec.CommandContext(context.Background(), argv[0], argv[1:]...) //nolint:gosec // The test's own.
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = append(os.Environ(), "XPC_SERVICE_NAME="+label), "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if cmd.Start() != nil {
		return nil // launchd says so when it is asked.
	}
	j.cmd = cmd
	go func() {
		defer close(j.done)
		_ = cmd.Wait()
	}()
	return nil
}

// unload ends a job, and waits for that.
func (l *Launchd) unload(label string) {
	j := l.jobs[label]
	delete(l.jobs, label)
	if !j.runs() {
		return
	}
	_ = j.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-j.done:
	case <-time.After(time.Second):
		_ = j.cmd.Process.Kill()
		<-j.done
	}
}

// print is what "launchctl print" prints, as much as anybody reads.
func (j *job) print(label string) string {
	state, last := "not running", "(never exited)"
	var pid, signal string
	switch {
	case j.runs():
		state, pid = "running", fmt.Sprintf("\tpid = %d\n", j.cmd.Process.Pid)
	case j.cmd != nil:
		ws, _ := j.cmd.ProcessState.Sys().(syscall.WaitStatus)
		if ws.Signaled() {
			signal = fmt.Sprintf("\tlast terminating signal = %s: %d\n", ws.Signal(), int(ws.Signal()))
		} else {
			last = fmt.Sprint(ws.ExitStatus())
		}
	}
	return "system/" + label + " = {\n\tactive count = 1\n\ttype = Submitted\n\tstate = " + state + "\n\n\targuments = {\n\t\tstate = a lie of an argument\n\t}\n\n" +
		"\tdomain = system\n\truns = 1\n" + pid + "\tlast exit code = " + last + "\n" + signal + "}\n"
}
