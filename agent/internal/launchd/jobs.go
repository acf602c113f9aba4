// Package launchd has a Mac's launchd run programs as jobs of their own, as systemd's
// transient services are: whatever becomes of the agent's own job does not meet them. A
// system that changes the agent's property list has launchd end the agent, and all of its
// process group, in the midst of the activation that does so.
//
// It was written from launchctl's manual and from what it prints, and is tested with
// stand-ins that play that.
package launchd

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/pkg/service"
)

//go:embed job.plist
var template string

const (
	suffixList, suffixLog = ".plist", ".log"
	// upWithin bounds the wait for a job that was loaded, look is the pause between two
	// looks: launchctl returns before a job's program runs.
	upWithin = 2 * time.Second
	look     = 20 * time.Millisecond
	// clearWithin bounds taking away what is over.
	clearWithin = 2 * time.Second
)

// again is what has launchd start a job again that failed, some seconds apart.
const again = `	<key>KeepAlive</key>
	<dict>
		<key>SuccessfulExit</key>
		<false/>
	</dict>
	<key>ThrottleInterval</key>
	<integer>5</integer>`

// Errors of this package.
var (
	// ErrNotUp says that launchd took a job and does not run it.
	ErrNotUp = errors.New("launchd runs no program of it")
	// ErrDir says that others than this process's user may write where property lists are
	// to be: launchd would run, as root, what they say.
	ErrDir = errors.New("it is not a directory of this user's alone; remove it")
)

// Jobs are jobs of one kind. A job is there from its property list in Dir until Clear
// finds that it is over, whoever started it: a dead agent's are the next one's to clear.
// Safe for concurrent use.
type Jobs struct {
	Launchctl service.Launchctl
	// Dir has their property lists and what they print, and nothing else. It is made
	// where it is not there, closed to others; its parent is there. One that is another
	// user's, or that others may look into, is ErrDir.
	Dir string
	// Name begins their labels.
	Name string
	// Again has one started again that fails, until it ends well.
	Again bool

	mu sync.Mutex
	// starting are the labels whose property lists may be there before launchd has taken
	// them: not over, although launchd does not know them.
	starting map[string]bool
}

// Start loads a job that runs argv, an absolute path first, and returns when launchd has
// taken it, with no word of whether its program runs: see Up. It is not tried again.
func (j *Jobs) Start(ctx context.Context, id string, argv []string) error {
	return j.StartLogged(ctx, id, argv, filepath.Join(j.Dir, j.label(id)+suffixLog))
}

// StartLogged is Start of a job that prints to a file, which is emptied first.
func (j *Jobs) StartLogged(ctx context.Context, id string, argv []string, log string) error {
	if err := j.start(ctx, id, argv, log); err != nil {
		return fmt.Errorf("starting job %s: %w", j.label(id), err)
	}
	return nil
}

func (j *Jobs) start(ctx context.Context, id string, argv []string, log string) error {
	text, err := j.list(id, argv, log)
	if err != nil {
		return err
	}
	if err := j.closed(); err != nil {
		return err
	}
	j.begin(j.label(id))
	defer j.begun(j.label(id))
	// launchd appends.
	if err := anew(log, nil); err != nil {
		return err
	}
	file := j.file(id)
	if err := anew(file, []byte(text)); err != nil {
		return err
	}
	if err := j.Launchctl.Bootstrap(ctx, file); err != nil {
		// It may be loaded all the same, where launchctl was only too slow to say so.
		j.drop(context.WithoutCancel(ctx), j.label(id))
		return err //nolint:wrapcheck // The caller says what for.
	}
	return nil
}

// closed makes the directory where it is not there, and refuses one that is not closed to
// others.
func (j *Jobs) closed() error {
	if err := os.Mkdir(j.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	fi, err := os.Lstat(j.Dir)
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || !fi.IsDir() || int64(st.Uid) != int64(os.Geteuid()) || fi.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: %w", j.Dir, ErrDir)
	}
	return nil
}

// anew makes a file that was not there, in the place of one that was: no link is followed,
// and nothing that somebody else opened is written to.
func anew(path string, text []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // The caller's own.
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// begin and begun are around the time in which a job is only a property list.
func (j *Jobs) begin(label string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.starting == nil {
		j.starting = map[string]bool{}
	}
	j.starting[label] = true
}

func (j *Jobs) begun(label string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.starting, label)
}

// begins says which jobs are started just now.
func (j *Jobs) begins() map[string]bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return maps.Clone(j.starting)
}

// list is the property list of a job.
func (j *Jobs) list(id string, argv []string, log string) (string, error) {
	if len(argv) == 0 || !filepath.IsAbs(argv[0]) {
		return "", fmt.Errorf("program %q: want an absolute path", strings.Join(argv, " "))
	}
	var lines []string
	for _, a := range append([]string{j.label(id), log}, argv...) {
		if err := service.Plain("argument", a); err != nil {
			return "", err //nolint:wrapcheck // It says what failed.
		}
	}
	for _, a := range argv {
		lines = append(lines, "\t\t<string>"+service.XML(a)+"</string>")
	}
	values := map[string]string{
		"LABEL": service.XML(j.label(id)), "ARGS": strings.Join(lines, "\n"), "LOG": service.XML(log), "AGAIN": "",
	}
	if j.Again {
		values["AGAIN"] = again
	}
	return service.Fill(template, values) //nolint:wrapcheck // It says what failed.
}

func (j *Jobs) label(id string) string { return service.Label(j.Name + "." + id) }
func (j *Jobs) file(id string) string  { return filepath.Join(j.Dir, j.label(id)+suffixList) }

// Up waits until the program of a job that was started runs, or has ended well, for two
// seconds at most. Otherwise the job is taken away, and the error wraps ErrNotUp or says
// what launchctl does.
func (j *Jobs) Up(ctx context.Context, id string) error {
	limited, cancel := context.WithTimeoutCause(ctx, upWithin, ErrNotUp)
	defer cancel()
	for {
		v, err := j.Launchctl.Print(limited, j.label(id))
		switch {
		case err == nil && (runs(v) || endedWell(v)):
			return nil
		case err == nil && v != nil && v["last exit code"] != "" && !never(v):
			err = fmt.Errorf("%w: it ended with exit code %s", ErrNotUp, v["last exit code"])
		case err == nil && v == nil:
			err = fmt.Errorf("%w: it is not loaded", ErrNotUp)
		}
		if err == nil {
			err = pause(limited, look)
		} else if limited.Err() != nil {
			err = context.Cause(limited)
		}
		if err != nil {
			j.drop(context.WithoutCancel(ctx), j.label(id))
			return fmt.Errorf("starting job %s: %w", j.label(id), err)
		}
	}
}

// Clear takes away the jobs that are over, and leaves those alone that go on or are to be
// started again, and those that somebody starts meanwhile. What fails is left for the next
// time.
func (j *Jobs) Clear(ctx context.Context) {
	lists, _ := filepath.Glob(filepath.Join(j.Dir, "*"+suffixList)) // Fails for a bad pattern only.
	// In this order: what has a list by now, and is not being started any more, launchd
	// has taken. So nobody waits here for a launchd that another start waits for.
	begins := j.begins()
	ctx, cancel := context.WithTimeout(ctx, clearWithin)
	defer cancel()
	for _, file := range lists {
		label := strings.TrimSuffix(filepath.Base(file), suffixList)
		if begins[label] {
			continue
		}
		v, err := j.Launchctl.Print(ctx, label)
		switch {
		case err != nil || v != nil && runs(v):
		case v == nil, endedWell(v), !j.Again && !never(v):
			j.drop(ctx, label)
		}
	}
}

// Stopping says whether launchd starts nothing because the Mac is shut down: nothing tells.
func (*Jobs) Stopping(context.Context) bool { return false }

// Drop takes a job away, and ends it where it goes on.
func (j *Jobs) Drop(ctx context.Context, id string) { j.drop(context.WithoutCancel(ctx), j.label(id)) }

// drop unloads a job and removes its files.
func (j *Jobs) drop(ctx context.Context, label string) {
	ctx, cancel := context.WithTimeout(ctx, clearWithin)
	defer cancel()
	if j.Launchctl.Bootout(ctx, label) != nil {
		return // Its property list says that it is there, the next time.
	}
	for _, suffix := range []string{suffixLog, suffixList} {
		_ = os.Remove(filepath.Join(j.Dir, label+suffix)) // In /var/run: only rubbish is left behind.
	}
}

// runs says whether a job's program does, by what launchctl prints.
func runs(v map[string]string) bool { return v["state"] == "running" || v["pid"] != "" }

// never says whether a job's program has not ended yet, by an exit or a signal.
func never(v map[string]string) bool {
	code := v["last exit code"]
	return (code == "" || code == "(never exited)") && v["last terminating signal"] == ""
}

// endedWell says whether it ended, and without a failure.
func endedWell(v map[string]string) bool {
	return v != nil && !runs(v) && v["last exit code"] == "0" && v["last terminating signal"] == ""
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
