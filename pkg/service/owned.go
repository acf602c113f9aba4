package service

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const (
	// programs is where an administrator's programs are.
	programs = "/usr/local/bin"
	// MacPrograms is where those that launchd runs as root are: Homebrew gives the
	// directories of /usr/local that it knows to a user, who could put another program
	// where root's is. It knows no libexec.
	MacPrograms = "/usr/local/libexec/fleet"
	// shellPaths tells the shells of a Mac of MacPrograms (path_helper(8)).
	shellPaths = "/etc/paths.d/fleet"
	// mostLinks is how many symbolic links a path may lead over, as the kernel has it.
	mostLinks = 40
)

// ErrReplaceable is wrapped where others than root could put another program where
// root's is.
var ErrReplaceable = errors.New("others than root could replace it")

// Launchd says whether the services of a host are launchd's.
func (h Host) Launchd() bool { return strings.HasSuffix(h.Manager.File("x"), ".plist") }

// DefaultProgram is where a service runs its program from, unless it is told otherwise.
func (h Host) DefaultProgram(service string) string {
	if h.Launchd() {
		return MacPrograms + "/" + service
	}
	return programs + "/" + service
}

// Replaceable says who could put another program where a program of root's is: those who
// own it, or a directory or link on its way, and those who may write there. "" for nobody.
// What is not there yet is nobody's. root is the host's root directory, whose owner counts
// as root. Errors: of the file system.
func Replaceable(root, program string) (who string, err error) {
	top, err := os.Stat(root)
	if err != nil {
		return "", fmt.Errorf("looking who owns %s: %w", program, err)
	}
	w := way{root: root, owner: owner(top)}
	who, err = w.walk(program)
	if err != nil {
		return "", fmt.Errorf("looking who owns %s: %w", program, err)
	}
	return who, nil
}

// way is the way to a file of a host.
type way struct {
	root  string
	owner uint32
	links int
}

func (w *way) walk(path string) (who string, err error) {
	at := "/"
	for part := range strings.SplitSeq(strings.Trim(filepath.Clean(path), "/"), "/") {
		if who, err := w.others(at); who != "" || err != nil {
			return who, err
		}
		next := filepath.Join(at, part)
		to, err := os.Readlink(filepath.Join(w.root, next))
		if err != nil {
			at = next // no link: a file, a directory, or nothing
			continue
		}
		if w.links++; w.links > mostLinks {
			return "", &fs.PathError{Op: "follow", Path: path, Err: syscall.ELOOP}
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(at, to)
		}
		if who, err := w.walk(to); who != "" || err != nil {
			return who, err
		}
		at = to
	}
	return w.others(at)
}

// others says who but root may change a file, or what is in a directory.
func (w *way) others(at string) (string, error) {
	info, err := os.Stat(filepath.Join(w.root, at))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err //nolint:wrapcheck // The caller says what for.
	}
	mode := info.Mode()
	switch uid := owner(info); {
	case uid != 0 && uid != w.owner:
		return fmt.Sprintf("the user %d, who owns %s", uid, at), nil
	case mode.Perm()&0o002 != 0:
		return "everybody, by the permissions of " + at, nil
	case mode.Perm()&0o020 != 0 && group(info) != 0:
		return fmt.Sprintf("the group %d, by the permissions of %s", group(info), at), nil
	}
	return "", nil
}

// checkOwned refuses a program of launchd's that others than root could replace. Elsewhere
// doctor only says so: some distributions give /usr/local to a group.
func (h Host) checkOwned(program string) error {
	if !h.Launchd() {
		return nil
	}
	who, err := Replaceable(h.Root, program)
	if err != nil || who == "" {
		return err
	}
	return ui.WithHint(fmt.Errorf("--program %s: it would run as root, and %w: %s", program, ErrReplaceable, who),
		"have its directories be root's alone (sudo chown root:wheel, sudo chmod go-w), or name a --program where they are, such as /Library/Fleet/fleet-agent")
}

// tellShells has the shells of a Mac find a program.
func (h Host) tellShells(program string) error {
	dir := filepath.Dir(program)
	if !h.Launchd() || dir == programs {
		return nil
	}
	if err := h.write(shellPaths, dir+"\n"); err != nil {
		return fmt.Errorf("telling shells of %s: %w", dir, err)
	}
	return nil
}

// forgetShells takes that back, once there is nothing in a program's directory.
func (h Host) forgetShells(program string) error {
	dir := filepath.Dir(program)
	text, err := os.ReadFile(h.path(shellPaths))
	if err != nil || !bytes.Equal(text, []byte(dir+"\n")) {
		return nil //nolint:nilerr // It is not there, or says other things.
	}
	if left, err := os.ReadDir(h.path(dir)); err == nil && len(left) != 0 {
		return nil
	}
	if err := remove(h.path(shellPaths)); err != nil {
		return err
	}
	if dir != MacPrograms {
		return nil
	}
	if err := os.Remove(h.path(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err //nolint:wrapcheck // It names the directory.
	}
	return atomicfile.SyncDir(filepath.Dir(h.path(dir))) //nolint:wrapcheck // As above.
}

func owner(info fs.FileInfo) uint32 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return 0
}

func group(info fs.FileInfo) uint32 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Gid
	}
	return 0
}
