package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Sentinels that errors of this package wrap.
var (
	// ErrNone is a machine on which there is no sandbox, or none can be made.
	ErrNone = errors.New("there is no sandbox to run scripts in, and without one they are not run")
	// ErrScript is a script that exited with another code than 0, or did not end.
	ErrScript = errors.New("the script failed")
	// ErrFiles is a script that did not make what is declared.
	ErrFiles = errors.New("the script did not make what it is declared to")
)

// limit is how long a script may take.
const limit = 10 * time.Minute

var errSlow = fmt.Errorf("%w: it took longer than %s", ErrScript, limit)

// endGrace is how long the pipes of a script that was killed may stay open.
const endGrace = 5 * time.Second

// Job is one run of a script.
type Job struct {
	// Name says which, in errors.
	Name string
	// Machine that it is for: $machine; empty for what machines share.
	Machine string
	// Script is the text that bash runs, or, where Program is set, nothing.
	Script string
	// Program is a file that bash runs: in the Nix store.
	Program string
	// Inputs are the files of the generators that it reads, by their names: $in/NAME/FILE.
	Inputs map[string]generator.Files
	// Prompts are the answers: $prompts/NAME. Nil where nothing is asked.
	Prompts map[string]generator.Value
	// Kept are the prompts whose answers are files that it makes.
	Kept []string
	// Files that it makes: $out/NAME.
	Files []string
}

// Options are those of a sandbox.
type Options struct {
	// Output is told what a script printed, when it has ended, with the values that are known
	// cut out and harmless to show; one call at a time. Nil for nobody.
	Output func(name, text string)
}

// Sandbox runs scripts, several at once if need be. Who opens it MUST close it.
type Sandbox struct {
	options Options
	system  system
	bash    string
	dir     string // In memory.
	free    func() error
	mu      sync.Mutex // Of Output.
}

// system is how a script is confined.
type system interface {
	// command returns the arguments that run bash with those of its own, confined to the
	// directories of work; the first is the program.
	command(work work, bash []string) []string
	// inside is where a path of work is for who is confined.
	inside(w work, name string) string
	// temporary is where the script may leave what it likes, and begins.
	temporary(w work) string
}

// Open finds a sandbox. Errors wrap ErrNone.
func Open(ctx context.Context, o Options) (*Sandbox, error) {
	s, err := find(o, runtime.GOOS, exec.LookPath)
	if err != nil {
		return nil, err
	}
	if s.dir, s.free, err = memory(ctx); err != nil {
		return nil, ui.WithHint(fmt.Errorf("%w: %w", ErrNone, err), "scripts work with values, which must not be on a disk")
	}
	return s, nil
}

// find chooses what confines on an operating system.
func find(o Options, goos string, look func(string) (string, error)) (*Sandbox, error) {
	s := &Sandbox{options: o}
	var program, hint string
	switch goos {
	case "linux":
		program, hint = "bwrap", "install bubblewrap (apt-get install bubblewrap), or use a built-in generator"
	case "darwin":
		program, hint = "/usr/bin/sandbox-exec", "it belongs to macOS; or use a built-in generator"
	default:
		return nil, ui.WithHint(fmt.Errorf("%w (%s)", ErrNone, goos), "run it on Linux or macOS, or use a built-in generator")
	}
	p, err := look(program)
	if err != nil {
		return nil, ui.WithHint(fmt.Errorf("%w: %w", ErrNone, err), hint)
	}
	if goos == "linux" {
		s.system = bubblewrap{p}
	} else {
		s.system = seatbelt{p}
	}
	bash, err := look("bash")
	if err == nil {
		bash, err = filepath.EvalSymlinks(bash)
	}
	if err != nil {
		return nil, ui.WithHint(fmt.Errorf("scripts are bash's: %w", err), "install bash")
	}
	s.bash = bash
	return s, nil
}

// Close gives back the memory.
func (s *Sandbox) Close() error { return s.free() }

// start is what bash runs first: it says that the sandbox stands, and leaves no core dump
// and no file beyond 64 MiB.
const start = `printf . >&3 && exec 3>&- && ulimit -c 0 && ulimit -f 65536 && exec "$@"`

// Run runs a script and returns all of its files, or none and an error, in which no value
// is. Errors wrap ErrScript, ErrFiles, ErrNone or the cause of ctx, upon which everything
// that the script started is killed. The caller clears the files after use.
func (s *Sandbox) Run(ctx context.Context, j Job) (generator.Files, error) {
	w, err := s.lay(j)
	if err == nil {
		err = s.run(ctx, j, w)
	}
	var files generator.Files
	if err == nil {
		files, err = w.collect(j.Files)
	}
	if err := w.remove(); err != nil {
		files.Clear()
		return nil, err
	}
	return files, err
}

func (s *Sandbox) run(ctx context.Context, j Job, w work) error {
	ctx, stop := context.WithTimeoutCause(ctx, limit, errSlow)
	defer stop()
	bash := []string{s.bash, "--noprofile", "--norc"}
	args := append([]string{}, bash...)
	args = append(args, "-c", start, "bash")
	args = append(args, bash...)
	if j.Program != "" {
		args = append(args, j.Program)
	} else {
		args = append(args, "-e", "-u", "-o", "pipefail", s.system.inside(w, scriptFile))
	}
	args = s.system.command(w, args)
	stands, tell, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("running a script: %w", err)
	}
	defer stands.Close()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = s.environment(j, w)
	cmd.ExtraFiles = []*os.File{tell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = endGrace
	cmd.Dir = "/"
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	// bubblewrap ends with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	_ = tell.Close() // The child has its own.
	if ctx.Err() != nil && err != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNone, err)
	}
	err = cmd.Wait()
	// What it left running: on Linux that ended with its namespace.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	stood, _ := stands.Read(make([]byte, 1))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if stood == 0 && err != nil {
		return ui.WithHint(fmt.Errorf("%w: %s: %w: %s", ErrNone, args[0], err, out.text(nil)),
			"in a container it may need the permission to make namespaces: try "+filepath.Base(args[0])+" by hand")
	}
	if s.options.Output != nil {
		s.mu.Lock()
		s.options.Output(j.Name, out.text(w.values(j)))
		s.mu.Unlock()
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		err = fmt.Errorf("%w: %w", ErrScript, exit)
		if s.options.Output == nil {
			err = ui.WithHint(err, "--show-output shows what it printed, without the values that are known")
		}
	case errors.Is(err, exec.ErrWaitDelay):
		err = nil // Something that it left had its output open.
	}
	return err
}

// environment is all that a script finds in its environment.
func (s *Sandbox) environment(j Job, w work) []string {
	tmp := s.system.temporary(w)
	env := []string{
		"PATH=" + programs(), "HOME=" + tmp, "TMPDIR=" + tmp, "LANG=C.UTF-8",
		"in=" + s.system.inside(w, inDir), "out=" + s.system.inside(w, outDir),
	}
	if j.Machine != "" {
		env = append(env, "machine="+j.Machine)
	}
	if j.Prompts != nil {
		env = append(env, "prompts="+s.system.inside(w, promptsDir))
	}
	return env
}

// nixosPrograms is where NixOS has the programs that everybody uses.
const nixosPrograms = "/run/current-system/sw/bin"

// programs is where scripts find theirs.
func programs() string {
	const usual = "/usr/bin:/bin:/usr/sbin:/sbin"
	if store, err := filepath.EvalSymlinks(nixosPrograms); err == nil {
		return store + ":" + usual
	}
	return usual
}
