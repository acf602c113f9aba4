//go:build crashpoints

package crashpoint

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Enabled says whether this program has crash points.
const Enabled = true

// Hit says that the program is at p.
func Hit(p Point) { hit(p, "") }

// HitFor says that the program is at p, and with what: a word without spaces,
// such as the kind of a record.
func HitFor(p Point, what string) { hit(p, what) }

// HitCaller says that the program is at p, on behalf of the function that called
// into the packages that write files and directories.
func HitCaller(p Point) { hit(p, caller()) }

// writers are the packages that others write files and directories with.
var writers = []string{"/pkg/atomicfile.", "/pkg/atomicdir.", "/pkg/crashpoint."}

func caller() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
next:
	for {
		frame, more := frames.Next()
		for _, w := range writers {
			if strings.Contains(frame.Function, w) && more {
				continue next
			}
		}
		return filepath.Base(frame.Function)
	}
}

// trigger is one element of FLEET_CRASHPOINT.
type trigger struct {
	process, point, what string
	n                    int
	stop                 string // file; empty: kill
}

func (t *trigger) matches(process, point, what string) bool {
	return (t.process == "" || t.process == process) && (t.point == "*" || t.point == point) && (t.what == "" || t.what == what)
}

// parse reads FLEET_CRASHPOINT.
func parse(s string) (list []trigger, err error) {
	for _, text := range strings.Split(s, ",") {
		if text == "" {
			continue
		}
		where, action, ok := strings.Cut(text, "=")
		t := trigger{n: 1}
		file, stop := strings.CutPrefix(action, "stop:")
		if !ok || !stop && action != "kill" || stop && file == "" {
			return nil, fmt.Errorf("%s: want …=kill or …=stop:FILE", text)
		}
		t.stop = ""
		if stop {
			t.stop = file
		}
		where, n, ok := strings.Cut(where, "#")
		if ok {
			if t.n, err = strconv.Atoi(n); err != nil || t.n < 1 {
				return nil, fmt.Errorf("%s: want a number from 1 on after #", text)
			}
		}
		where, t.what, _ = strings.Cut(where, "@")
		if process, point, ok := strings.Cut(where, "/"); ok {
			t.process, where = process, point
		}
		t.point = where
		if !known(t.point) {
			return nil, fmt.Errorf("%s: there is no point %q", text, t.point)
		}
		list = append(list, t)
	}
	return list, nil
}

func known(name string) bool {
	for _, info := range registry[1:] {
		if info.Name == name {
			return true
		}
	}
	return name == "*"
}

// process is what the program calls itself in triggers and logs.
func process() string {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "run-action":
			return "runner"
		case "dead-man-switch", "dead-man-switches":
			return "switch"
		}
	}
	return strings.TrimPrefix(filepath.Base(os.Args[0]), "fleet-")
}

// state of this process.
var state struct {
	once     sync.Once
	mu       sync.Mutex
	process  string
	triggers []trigger
	log      *os.File
	at, seen int // of the triggers, where no log keeps count
}

func setUp() {
	state.process = process()
	var err error
	if state.triggers, err = parse(os.Getenv("FLEET_CRASHPOINT")); err != nil {
		fail(err)
	}
	if path := os.Getenv("FLEET_CRASHPOINT_LOG"); path != "" {
		if state.log, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			fail(err)
		}
	}
}

// fail ends a program that was told what it can't do: going on would look like
// a test that was passed.
func fail(err error) {
	_, _ = fmt.Fprintf(os.Stderr, "FLEET_CRASHPOINT: %v\n", err)
	os.Exit(70) //nolint:forbidigo // Only in programs built for tests.
}

func hit(p Point, what string) {
	state.once.Do(setUp)
	if state.log == nil && len(state.triggers) == 0 {
		return
	}
	state.mu.Lock()
	defer state.mu.Unlock()
	name := registry[p].Name
	if state.log != nil {
		logged(name, what)
		return
	}
	if state.at < len(state.triggers) {
		t := &state.triggers[state.at]
		if t.matches(state.process, name, what) {
			if state.seen++; state.seen == t.n {
				state.at, state.seen = state.at+1, 0
				t.fire()
			}
		}
	}
}

// fired begins the lines that remember what fired.
const fired = "fired"

// logged appends the hit to the log, and counts there.
func logged(name, what string) {
	fd := int(state.log.Fd())
	if err := syscall.Flock(fd, syscall.LOCK_EX); err != nil {
		fail(err)
	}
	unlock := func() {
		if err := syscall.Flock(fd, syscall.LOCK_UN); err != nil {
			fail(err)
		}
	}
	if what == "" {
		what = "-"
	}
	write("%s %s %s %d", state.process, name, what, os.Getpid())
	at, seen := count()
	if at >= len(state.triggers) || seen != state.triggers[at].n || !state.triggers[at].matches(state.process, name, what) {
		unlock()
		return
	}
	write("%s %s %s %d", fired, name, what, os.Getpid())
	unlock()
	state.triggers[at].fire()
}

func write(format string, args ...any) {
	if _, err := fmt.Fprintf(state.log, format+"\n", args...); err != nil {
		fail(err)
	}
}

// count reads which trigger's turn it is, and how often it was hit.
func count() (at, seen int) {
	if len(state.triggers) == 0 {
		return 0, 0
	}
	data, err := os.ReadFile(state.log.Name())
	if err != nil {
		fail(err)
	}
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		switch {
		case len(f) != 4:
		case f[0] == fired:
			at, seen = at+1, 0
		case at < len(state.triggers) && state.triggers[at].matches(f[0], f[1], f[2]):
			seen++
		}
	}
	return at, seen
}

// fire does not return from a kill.
func (t *trigger) fire() {
	if t.stop == "" {
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			fail(err)
		}
		select {}
	}
	// Nothing of the program's goes on while the machine dies: the lock is held.
	if err := os.WriteFile(t.stop, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		fail(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		fail(err)
	}
}
