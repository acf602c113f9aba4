package vars

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// Where changes are staged, below the tree. git ignores it.
const (
	stateDir     = ".fleet-vars"
	manifestPath = stateDir + "/change.json"
	stagedDir    = stateDir + "/staged"
	maxSteps     = 1 << 14
	maxManifest  = maxSteps << 12 // Of two paths each.
)

// What a step does.
const (
	doPut    = "put"
	doLink   = "link"
	doRemove = "remove"
)

// step is one file or link that a change writes or removes. Carrying it out twice is the
// same as once.
type step struct {
	Path string `json:"path"`
	Do   string `json:"do"`
	// Staged is the file below stagedDir that becomes Path.
	Staged string `json:"staged,omitempty"`
	// Target is what a link says.
	Target string `json:"target,omitempty"`
	Mode   uint32 `json:"-"`
	data   []byte
}

type manifest struct {
	Steps []step `json:"steps"`
}

// commit makes the steps, all or none: it stages what is to be written, decides by making
// the list of steps durable, carries them out, and removes the list.
func commit(dir string, steps map[string]step) error {
	t := &Tree{dir: dir}
	var m manifest
	order := []string{doRemove, doPut, doLink}
	for _, do := range order {
		for _, p := range slices.Sorted(maps.Keys(steps)) {
			if steps[p].Do == do {
				m.Steps = append(m.Steps, steps[p])
			}
		}
	}
	for _, s := range m.Steps {
		if err := t.checkStep(s); err != nil {
			return err
		}
	}
	if len(m.Steps) > maxSteps {
		return fmt.Errorf("%w: %d files in one change, at most %d; make it in parts", ErrTooMuch, len(m.Steps), maxSteps)
	}
	if err := t.stage(m.Steps); err != nil {
		return errors.Join(fmt.Errorf("preparing the change, of which nothing was made: %w", err), t.unstage())
	}
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("writing the change: %w", err)
	}
	if err := atomicfile.WriteFile(t.abs(manifestPath), data, 0o600); err != nil {
		return errors.Join(fmt.Errorf("preparing the change, of which nothing was made: %w", err), t.undecide())
	}
	if err := t.carryOut(m.Steps); err != nil {
		return fmt.Errorf("the change is decided, and only a part of it made; when this is mended, the next run that writes ends it: %w", err)
	}
	return nil
}

// undecide takes back a decision that may not be durable.
func (t *Tree) undecide() error {
	if err := removeIfThere(t.abs(manifestPath)); err != nil {
		return err
	}
	crashpoint.HitCaller(crashpoint.FileDone)
	return t.unstage()
}

// removeIfThere is os.Remove for what may have been removed before.
func removeIfThere(p string) error {
	err := os.Remove(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err //nolint:wrapcheck // os errors name the path.
}

// recoverChange ends a change that was decided, and forgets one that was not.
func recoverChange(dir string) error {
	t := &Tree{dir: dir}
	if fi, err := os.Lstat(t.abs(manifestPath)); errors.Is(err, fs.ErrNotExist) {
		return t.unstage()
	} else if err == nil && !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is no file: remove it", manifestPath)
	}
	data, err := atomicfile.ReadAtMost(t.abs(manifestPath), maxManifest)
	var m manifest
	if err == nil {
		err = strictjson.UnmarshalKnown(data, maxManifest, &m)
	}
	for _, s := range m.Steps {
		if err == nil {
			err = t.checkStep(s)
		}
	}
	if err == nil {
		err = t.carryOut(m.Steps)
	}
	if err != nil {
		return fmt.Errorf("ending the change that an interrupted run had decided: %w", err)
	}
	return nil
}

// checkStep refuses what would leave the tree, or what is in the way: nothing is decided
// that cannot be carried out, and a list that was not written here is not trusted.
func (t *Tree) checkStep(s step) error {
	top, _, _ := strings.Cut(s.Path, "/")
	if !fs.ValidPath(s.Path) || top != "sops" && top != "vars" && top != "secrets" || strings.ContainsAny(s.Path, "\n\\") {
		return fmt.Errorf("%w: %.200q is no path of a tree", ErrName, s.Path)
	}
	switch s.Do {
	case doRemove:
	case doPut:
		if _, err := strconv.ParseUint(s.Staged, 10, 32); s.Staged != "" && err != nil {
			return fmt.Errorf("%w: %.200q was not staged", ErrName, s.Staged)
		}
	case doLink:
		kind, name := path.Base(path.Dir(s.Path)), path.Base(s.Path)
		if s.Target != linkTarget(s.Path, Reader{Kind(kind), name}) || !slices.Contains(kinds, Kind(kind)) {
			return fmt.Errorf("%s: %w: it would point at %.200q", s.Path, ErrLink, s.Target)
		}
	default:
		return fmt.Errorf("%w: %.40q is no step", ErrName, s.Do)
	}
	for i := range s.Path {
		if s.Path[i] != '/' {
			continue
		}
		fi, err := os.Lstat(t.abs(s.Path[:i]))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err //nolint:wrapcheck // os errors name the path.
		}
		if !fi.IsDir() {
			return fmt.Errorf("%s is no directory, and %s is to be in it: move it away", s.Path[:i], s.Path)
		}
	}
	fi, err := os.Lstat(t.abs(s.Path))
	if err == nil && (fi.IsDir() || s.Do == doLink && fi.Mode()&fs.ModeSymlink == 0) {
		return fmt.Errorf("something else is at %s: move it away", s.Path)
	}
	return nil
}

// stage writes the files of the steps where nobody looks for them.
func (t *Tree) stage(steps []step) error {
	if err := os.Mkdir(t.abs(stagedDir), 0o700); err != nil {
		return err //nolint:wrapcheck // os errors name the path.
	}
	for i := range steps {
		s := &steps[i]
		if s.Do != doPut {
			continue
		}
		s.Staged = strconv.Itoa(i)
		p := t.abs(path.Join(stagedDir, s.Staged))
		crashpoint.HitCaller(crashpoint.FileBegin)
		if err := os.WriteFile(p, s.data, fs.FileMode(s.Mode)); err != nil {
			return err //nolint:wrapcheck // os errors name the path.
		}
		if err := os.Chmod(p, fs.FileMode(s.Mode)); err != nil { // Whatever the umask is.
			return err //nolint:wrapcheck // As above.
		}
	}
	crashpoint.HitCaller(crashpoint.FileWritten)
	if err := atomicfile.SyncFS(t.abs(stagedDir)); err != nil {
		return err //nolint:wrapcheck // As above.
	}
	crashpoint.HitCaller(crashpoint.FileSynced)
	return nil
}

// unstage removes what was staged and not decided, or is in its place.
func (t *Tree) unstage() error {
	list, err := os.ReadDir(t.abs(stateDir))
	for _, d := range list {
		if d.Name() == path.Base(stagedDir) || strings.HasPrefix(d.Name(), "."+path.Base(manifestPath)+".tmp-") {
			err = errors.Join(err, os.RemoveAll(t.abs(path.Join(stateDir, d.Name()))))
		}
	}
	if err != nil {
		return fmt.Errorf("removing what a run staged: %w", err)
	}
	crashpoint.HitCaller(crashpoint.FileDone)
	return nil
}

// carryOut does the steps of a change that is decided.
func (t *Tree) carryOut(steps []step) error {
	for _, s := range steps {
		var err error
		switch s.Do {
		case doRemove:
			err = t.carryRemove(s)
		case doPut:
			err = t.carryPut(s)
		case doLink:
			if err = os.MkdirAll(t.abs(path.Dir(s.Path)), 0o755); err == nil {
				err = atomicfile.SymlinkLater(s.Target, t.abs(s.Path))
			}
		}
		if err != nil {
			return err
		}
	}
	if err := atomicfile.SyncFS(t.dir); err != nil {
		return err //nolint:wrapcheck // It names the directory.
	}
	crashpoint.HitCaller(crashpoint.FileSynced)
	if err := os.Remove(t.abs(manifestPath)); err != nil {
		return err //nolint:wrapcheck // os errors name the path.
	}
	crashpoint.HitCaller(crashpoint.FileDone)
	return t.unstage()
}

func (t *Tree) carryPut(s step) error {
	staged := t.abs(path.Join(stagedDir, s.Staged))
	if !regular(staged) {
		if regular(t.abs(s.Path)) {
			return nil // It was moved before.
		}
		return fmt.Errorf("%s is missing, and was to become %s: restore sops/ and vars/ from git, remove %s, and run it again", staged, s.Path, stateDir)
	}
	if err := os.MkdirAll(t.abs(path.Dir(s.Path)), 0o755); err != nil {
		return err //nolint:wrapcheck // os errors name the path.
	}
	crashpoint.HitCaller(crashpoint.FileBegin)
	if err := os.Rename(staged, t.abs(s.Path)); err != nil {
		return err //nolint:wrapcheck // As above.
	}
	crashpoint.HitCaller(crashpoint.FileRenamed)
	return nil
}

// carryRemove removes a file or link, and the directories that it leaves empty, but for the
// first two levels.
func (t *Tree) carryRemove(s step) error {
	crashpoint.HitCaller(crashpoint.LinkBegin)
	if err := removeIfThere(t.abs(s.Path)); err != nil {
		return err
	}
	for p := path.Dir(s.Path); strings.Count(p, "/") > 1; p = path.Dir(p) {
		if os.Remove(t.abs(p)) != nil {
			break // Something else is in it.
		}
	}
	crashpoint.HitCaller(crashpoint.LinkRenamed)
	return nil //nolint:nilerr // A directory that is not empty stays.
}
