package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// What is in the directory of a run.
const (
	inDir      = "in"
	outDir     = "out"
	promptsDir = "prompts"
	tmpDir     = "tmp"
	etcDir     = "etc"
	scriptFile = "script"
)

// maxMade bounds the names that are looked at of what a script made.
const maxMade = 4096

// maxPrinted is how much of what a script prints is kept: its end.
const maxPrinted = 64 << 10

// accounts are files of /etc: programs such as ssh-keygen ask who they are.
var accounts = map[string]string{ //nolint:gosec // Names, and no passwords.
	"passwd": "root:x:0:0::/:/bin/sh\nsandbox:x:1000:1000::/tmp:/bin/sh\n",
	"group":  "root:x:0:\nsandbox:x:1000:\n",
	"hosts":  "127.0.0.1 localhost\n::1 localhost\n",
}

// work is the directory of a run, in memory.
type work struct{ dir string }

func (w work) path(name ...string) string {
	return filepath.Join(append([]string{w.dir}, name...)...)
}

func (w work) remove() error {
	if w.dir == "" {
		return nil
	}
	return os.RemoveAll(w.dir) //nolint:wrapcheck // os errors name the path.
}

// lay writes what a script is given. Names are those of generators and files, which the
// declarations were checked for; none leads out of the directory all the same.
func (s *Sandbox) lay(j Job) (work, error) {
	dir, err := os.MkdirTemp(s.dir, "run-")
	if err != nil {
		return work{}, fmt.Errorf("preparing to run a script: %w", err)
	}
	w := work{dir}
	for _, name := range []string{inDir, outDir, promptsDir, tmpDir, etcDir} {
		err = errors.Join(err, os.Mkdir(w.path(name), 0o700))
	}
	root, rootErr := os.OpenRoot(dir)
	if err = errors.Join(err, rootErr); err != nil {
		return w, fmt.Errorf("preparing to run a script: %w", err)
	}
	defer root.Close() //nolint:errcheck // Nothing was written through it.
	put := func(value []byte, name ...string) {
		if err == nil {
			err = root.WriteFile(filepath.Join(name...), value, 0o600)
		}
	}
	put([]byte(j.Script), scriptFile)
	for name, text := range accounts {
		put([]byte(text), etcDir, name)
	}
	for name, files := range j.Inputs {
		if err == nil {
			err = root.Mkdir(filepath.Join(inDir, name), 0o700)
		}
		for file, v := range files {
			put(v.Bytes(), inDir, name, file)
		}
	}
	for name, v := range j.Prompts {
		put(v.Bytes(), promptsDir, name)
		if slices.Contains(j.Kept, name) {
			put(v.Bytes(), outDir, name)
		}
	}
	if err != nil {
		return w, fmt.Errorf("preparing to run a script: %w", err)
	}
	return w, nil
}

// collect reads the declared files, and nothing unless each is one: a regular file of a
// bounded size, and no link. Others that a script made are left, as clan leaves them.
func (w work) collect(names []string) (generator.Files, error) {
	root, err := os.OpenRoot(w.path(outDir))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFiles, err)
	}
	defer root.Close() //nolint:errcheck // Nothing was written through it.
	d, err := root.Open(".")
	if err == nil {
		var made []fs.DirEntry
		if made, err = d.ReadDir(maxMade + 1); len(made) > maxMade {
			err = fmt.Errorf("more than %d files are in $out", maxMade)
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
		err = errors.Join(err, d.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFiles, err)
	}
	files := generator.Files{}
	var problems []error
	for _, name := range names {
		value, err := readMade(root, name)
		if err != nil {
			problems = append(problems, fmt.Errorf("$out/%s: %w", name, err))
			continue
		}
		files[name] = generator.NewValue(value)
	}
	if len(problems) > 0 {
		files.Clear()
		return nil, ui.WithHint(fmt.Errorf("%w: %w", ErrFiles, errors.Join(problems...)), "nothing was kept")
	}
	return files, nil
}

func readMade(root *os.Root, name string) ([]byte, error) {
	fi, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("it is missing")
	case err != nil:
		return nil, errors.New("it cannot be read") // os says more than it should.
	case fi.Mode()&fs.ModeSymlink != 0:
		return nil, errors.New("it is a link, and must be a file")
	case !fi.Mode().IsRegular():
		return nil, errors.New("it is no regular file")
	case fi.Size() > sops.MaxValue:
		return nil, fmt.Errorf("it has %d bytes: at most %d can be kept", fi.Size(), sops.MaxValue)
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.New("it cannot be read: let the script leave it readable")
	}
	defer f.Close()
	value, err := io.ReadAll(io.LimitReader(f, sops.MaxValue+1))
	if err != nil || len(value) > sops.MaxValue {
		return nil, errors.New("it changed while it was read")
	}
	return value, nil
}

// values are all that are known of a run: given, asked and made.
func (w work) values(j Job) [][]byte {
	var list [][]byte
	for _, files := range j.Inputs {
		for _, v := range files {
			list = append(list, v.Bytes())
		}
	}
	for _, v := range j.Prompts {
		list = append(list, v.Bytes())
	}
	if root, err := os.OpenRoot(w.path(outDir)); err == nil {
		defer root.Close() //nolint:errcheck // Nothing was written through it.
		for _, name := range j.Files {
			if value, err := readMade(root, name); err == nil {
				list = append(list, value)
			}
		}
	}
	return list
}

// tail keeps the end of what is written.
type tail struct {
	kept []byte
	cut  bool
}

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - maxPrinted; over > 0 {
		t.kept, t.cut = append(t.kept[:0], t.kept[over:]...), true
	}
	return len(p), nil
}

// shortest is the length of what is cut out at least: cutting less would cut all.
const shortest = 4

// text is what was written, harmless to show, without these values and lines of them.
func (t *tail) text(values [][]byte) string {
	kept := t.kept
	if t.cut { // The rest of a value may be there.
		_, kept, _ = bytes.Cut(kept, []byte("\n"))
	}
	var secret [][]byte
	for _, v := range values {
		secret = append(secret, append(bytes.Split(v, []byte("\n")), bytes.TrimRight(v, "\n"))...)
	}
	slices.SortFunc(secret, func(a, b []byte) int { return len(b) - len(a) })
	for _, s := range secret {
		if s = bytes.TrimSpace(s); len(s) >= shortest {
			kept = bytes.ReplaceAll(kept, s, []byte("(hidden)"))
		}
	}
	var lines []string
	for line := range strings.SplitSeq(strings.TrimRight(string(kept), "\n"), "\n") {
		lines = append(lines, refusal.Plain(strings.ToValidUTF8(line, "?")))
	}
	return strings.Join(lines, "\n")
}
