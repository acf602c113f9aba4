package execute

import (
	"context"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

type exitError = exec.ExitError

// process is a step's program that was started.
type process struct {
	cmd *exec.Cmd
	// unit is what a user's program runs in, where the host has such; nil for none.
	unit *contain.Unit
	// prints is read until what a user's program prints ends; nil for the runner's own user.
	prints *os.File
	copied chan struct{}
}

// heldWithin is how long what a user's program left behind may hold its output open.
const heldWithin = time.Second

// startWithin bounds the start of a program: another user can stop what is theirs already
// and has not begun the program yet.
const startWithin = 30 * time.Second

// start starts a program with a log of its own to write to. A user's program gets a pipe
// to this process: were it the file, which is root's, the user could keep it and make it
// grow for ever. What a user's program leaves behind has an output of its own, or none.
func (r *run) start(x *driver.Exec) (*process, error) {
	out, err := openLog(r.dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	p := &process{}
	if p.cmd, err = command(x, r.req.Env, out); err != nil {
		return nil, err
	}
	if x.Contained {
		if err := adoptOrphans(); err != nil {
			return nil, err
		}
	}
	if p.cmd.SysProcAttr.Credential != nil {
		var w *os.File
		if p.prints, w, err = os.Pipe(); err != nil {
			return nil, err
		}
		defer func() { _ = w.Close() }()
		p.cmd.Stdout, p.cmd.Stderr = w, w
	}
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	// The unit is no longer there than the program: its end, or whoever finds the run lost,
	// ends it.
	if p.unit, err = contain.Start(ctx, p.cmd, r.req.ID, 0); err != nil {
		if p.prints != nil {
			_ = p.prints.Close()
		}
		return nil, err
	}
	if p.prints != nil {
		log, err := openLog(r.dir)
		if err != nil {
			log = nil // A full disk must not fail an activation for its log.
		}
		p.copied = make(chan struct{})
		go p.copy(log, r.log.most)
	}
	return p, nil
}

// copy copies what the program prints into the log, one byte more than it may have, so
// that it is seen to be cut, and reads the rest.
func (p *process) copy(log *os.File, most int64) {
	defer close(p.copied)
	if log != nil {
		_, _ = io.CopyN(log, p.prints, most+1)
		_ = log.Close()
	}
	_, _ = io.Copy(io.Discard, p.prints)
}

// printed returns once all that a user's program printed is in the log, or what it left
// behind goes on holding its output open.
func (p *process) printed() {
	if p.prints == nil {
		return
	}
	t := time.NewTimer(heldWithin)
	defer t.Stop()
	select {
	case <-p.copied:
	case <-t.C:
	}
	_ = p.prints.Close()
	<-p.copied
}

// command makes the command of a step: nothing on its standard input, output to the file
// itself, and only the given environment.
func command(x *driver.Exec, env []string, out *os.File) (*exec.Cmd, error) {
	// The context has no part in it: the runner ends whole groups, not one pid.
	cmd := exec.CommandContext(context.Background(), x.Argv[0], x.Argv[1:]...) //nolint:gosec // Running what the signed generation says is the purpose.
	// Never nil, which would mean the runner's own environment.
	cmd.Env = append(append(make([]string, 0, len(env)+len(x.Env)), env...), x.Env...)
	cmd.Dir = x.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if x.User == "" {
		return cmd, nil
	}
	cred, err := contain.Credential(x.User)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Credential = cred
	return cmd, nil
}
