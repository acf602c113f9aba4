package contain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Program is what Run runs.
type Program struct {
	// Name is of its unit, where it has one: fleet.IsFileName.
	Name string
	// Argv is an absolute path and arguments.
	Argv []string
	// Env is its whole environment, NAME=VALUE.
	Env []string
	// Dir is where it runs; default /.
	Dir string
	// Stdout and Stderr get what it prints, from one goroutine at a time where they are
	// the same; nil for nobody.
	Stdout, Stderr io.Writer
	// As is whom it runs as; nil for this process's own user.
	As *syscall.Credential
	// Told is how long it has to end after SIGTERM, once its context has; 0 kills it at once.
	Told time.Duration
	// Held is how long what it left behind may hold its output open.
	Held time.Duration
}

const (
	// killedWithin is how long a process may take to end after SIGKILL: one that waits in
	// the kernel for a file system of its user's takes as long as that user likes.
	killedWithin = 5 * time.Second
	// maxStuck bounds the programs of one user that don't end.
	maxStuck = 4
	// unitSlack is added to what a context allows, for the end of a unit that nobody ends.
	unitSlack = time.Minute
	// unitRuns bounds a unit whose context has no deadline.
	unitRuns = 12 * time.Hour
)

// ErrStuck says that a program does not end although it was killed. It is collected once
// it does; while too many of a user's are stuck, no more are started.
var ErrStuck = errors.New("a program of the user's does not end although it was killed")

// Run runs a program until it or the context ends. With either ends what a user's program
// started, and what is in the group of one that was ended or still has its output open.
// Errors: *exec.ExitError as exec.Cmd's, also where the context ended it; ErrNoUnit;
// ErrStuck; or that it can't be started. It returns within Told, Held and some seconds
// after the context's end.
func Run(ctx context.Context, p Program) error {
	if err := unstuck.room(p.As); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) //nolint:wrapcheck // The caller's own.
	}
	cmd := &exec.Cmd{Path: p.Argv[0], Args: p.Argv, Env: p.Env, Dir: p.Dir, SysProcAttr: &syscall.SysProcAttr{Credential: p.As}}
	out, err := outputsOf(cmd, p)
	if err != nil {
		return err
	}
	runs := time.Duration(unitRuns)
	if due, ok := ctx.Deadline(); ok {
		runs = max(0, time.Until(due)) //nolint:forbidigo // A context's deadline is of this clock.
	}
	unit, err := Start(ctx, cmd, p.Name, runs+p.Told+unitSlack)
	out.started()
	if err != nil {
		out.end(0)
		return err
	}
	r := &running{cmd: cmd, unit: unit, exited: make(chan struct{})}
	go func() {
		defer close(r.exited)
		_ = untilExited(cmd.Process.Pid) // Collecting it says more.
	}()
	over := r.await(ctx, p.Told)
	all := over && out.wait(p.Held)
	if over && (p.As != nil || !all) {
		// Its leader is not collected yet, so that the number is its group's.
		r.signal(syscall.SIGKILL)
		unit.Kill(killedWithin)
	}
	out.end(0)
	if !over {
		unstuck.add(p.As, r)
		return fmt.Errorf("%w: %s", ErrStuck, p.Argv[0])
	}
	return cmd.Wait() //nolint:wrapcheck // Callers look at it.
}

// running is a program whose process was started and not collected.
type running struct {
	cmd    *exec.Cmd
	unit   *Unit
	exited chan struct{}
}

// await waits for its end, and has it end where the context does; false where it does not.
func (r *running) await(ctx context.Context, told time.Duration) bool {
	select {
	case <-r.exited:
		return true
	case <-ctx.Done():
	}
	if told > 0 {
		r.signal(syscall.SIGTERM)
		if r.within(told) {
			return true
		}
	}
	r.signal(syscall.SIGKILL)
	r.unit.Kill(killedWithin)
	return r.within(killedWithin)
}

func (r *running) within(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-r.exited:
		return true
	case <-t.C:
		return false
	}
}

// signal is for the group, which has this number until its leader is collected, and for
// the leader, which may have left it.
func (r *running) signal(s syscall.Signal) {
	_ = syscall.Kill(-r.cmd.Process.Pid, s)
	_ = syscall.Kill(r.cmd.Process.Pid, s)
}

// stuck counts, for each user, the programs that don't end.
type stuck struct {
	mu sync.Mutex
	of map[uint32]int
}

var unstuck = stuck{of: map[uint32]int{}}

func (s *stuck) room(as *syscall.Credential) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if as != nil && s.of[as.Uid] >= maxStuck {
		return fmt.Errorf("%w; there are %d", ErrStuck, s.of[as.Uid])
	}
	return nil
}

// add collects a program once it ends.
func (s *stuck) add(as *syscall.Credential, r *running) {
	uid := uint32(0)
	if as != nil {
		uid = as.Uid
	}
	s.count(uid, 1)
	go func() {
		<-r.exited
		_ = r.cmd.Wait() // Nobody waits for what it says any more.
		s.count(uid, -1)
	}()
}

func (s *stuck) count(uid uint32, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[uid] += by; s.of[uid] == 0 {
		delete(s.of, uid)
	}
}

// outputs are the pipes of a program, read by this process's own goroutines: what is left
// behind may hold them open, and must not hold anybody up.
type outputs struct {
	read, written []*os.File
	copying       sync.WaitGroup
	copied        chan struct{}
}

func outputsOf(cmd *exec.Cmd, p Program) (*outputs, error) {
	o := &outputs{copied: make(chan struct{})}
	pipe := func(to io.Writer) (*os.File, error) {
		if to == nil {
			return nil, nil //nolint:nilnil // For nobody.
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("making a pipe: %w", err)
		}
		o.read, o.written = append(o.read, r), append(o.written, w)
		o.copying.Go(func() { _, _ = io.Copy(to, r) }) // Until nobody can write any more, or it is closed.
		return w, nil
	}
	out, err := pipe(p.Stdout)
	if err != nil {
		return nil, err
	}
	errs := out
	if p.Stderr != p.Stdout {
		if errs, err = pipe(p.Stderr); err != nil {
			o.started()
			o.end(0)
			return nil, err
		}
	}
	// A nil file is no nil writer.
	if out != nil {
		cmd.Stdout = out
	}
	if errs != nil {
		cmd.Stderr = errs
	}
	return o, nil
}

// started gives up this process's own ends for writing.
func (o *outputs) started() {
	for _, w := range o.written {
		_ = w.Close()
	}
	go func() {
		o.copying.Wait()
		close(o.copied)
	}()
}

// wait says whether all was read within that.
func (o *outputs) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-o.copied:
		return true
	case <-t.C:
		return false
	}
}

// end reads no more, after that at most.
func (o *outputs) end(d time.Duration) {
	o.wait(d)
	for _, r := range o.read {
		_ = r.Close()
	}
	<-o.copied
}
