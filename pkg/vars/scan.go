package vars

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

// Files beside those of a generator: clan's, and one of ours that clan passes over.
const (
	validationHash = ".validation-hash"
	scriptHash     = ".script-hash"
)

// Open reads the names, keys and links of the tree in dir, the directory that has vars/ and
// sops/; one that has neither is an empty tree.
func Open(dir string) (*Tree, error) {
	fi, err := os.Stat(dir)
	if err == nil && !fi.IsDir() {
		err = errors.New("it is no directory")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the tree in %s: %w; name the directory with sops/ and vars/", dir, err)
	}
	s := scanner{left: maxEntriesInAll, t: &Tree{
		dir: dir, keys: map[Reader][]Key{}, groups: map[string][]Reader{}, entries: map[string]*Entry{},
		hashes: map[string]string{}, badGroups: map[string][]Problem{},
	}}
	for _, step := range []func() error{s.keys, s.groups, s.secrets, s.vars} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("reading the tree in %s: %w", dir, err)
		}
	}
	if _, err := os.Lstat(s.t.abs(manifestPath)); err == nil {
		s.warn(manifestPath, errors.New("an interrupted run left a change half made: the next one that writes ends it"))
	}
	return s.t, nil
}

type scanner struct {
	t    *Tree
	left int
}

func (s *scanner) warn(path string, err error) {
	s.t.warnings = append(s.t.warnings, Problem{path, err})
}

// list returns what is in a directory, sorted, temporary files of writers left out; nothing
// where the directory is missing. A link is no directory.
func (s *scanner) list(rel string) ([]fs.DirEntry, error) {
	p := s.t.abs(rel)
	fi, err := os.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // os errors name the path.
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("%s is no directory: move it away", rel)
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, err //nolint:wrapcheck // As above.
	}
	defer f.Close()
	list, err := f.ReadDir(maxEntriesOfDir + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err //nolint:wrapcheck // As above.
	}
	if s.left -= len(list); len(list) > maxEntriesOfDir || s.left < 0 {
		return nil, fmt.Errorf("%s: %w: at most %d files in a directory, and %d in all", rel, ErrTooMuch, maxEntriesOfDir, maxEntriesInAll)
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

// dirs calls f with each directory in one. Links to directories are passed over with a warning.
func (s *scanner) dirs(rel string, f func(name, rel string) error) error {
	list, err := s.list(rel)
	if err != nil {
		return err
	}
	for _, d := range list {
		p := path.Join(rel, d.Name())
		switch {
		case d.IsDir():
			if err := f(d.Name(), p); err != nil {
				return err
			}
		case d.Type()&fs.ModeSymlink != 0:
			s.warn(p, errors.New("a symbolic link where a directory should be: it is left out; remove it"))
		}
	}
	return nil
}

func (s *scanner) keys() error {
	for _, kind := range []Kind{Users, Machines} {
		err := s.dirs(path.Join("sops", string(kind)), func(name, rel string) error {
			file := path.Join(rel, "key.json")
			if !regular(s.t.abs(file)) {
				s.warn(rel, errors.New("there is no key.json: it can read nothing"))
				return nil
			}
			data, err := atomicfile.ReadAtMost(s.t.abs(file), maxKeyFile)
			if err != nil {
				return err //nolint:wrapcheck // It names the file.
			}
			keys, err := ParseKeys(data)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			r := Reader{kind, name}
			if kind == Machines && len(keys) != 1 {
				return fmt.Errorf("%s: %d keys: a machine has just one; remove the others", file, len(keys))
			}
			s.t.keys[r] = keys
			return s.stray(rel)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// stray warns of links beside a key.json.
func (s *scanner) stray(rel string) error {
	list, err := s.list(rel)
	for _, d := range list {
		if d.Type()&fs.ModeSymlink != 0 {
			s.warn(path.Join(rel, d.Name()), errors.New("a link that stands for nothing: it is left out; remove it"))
		}
	}
	return err
}

func (s *scanner) groups() error {
	return s.dirs("sops/groups", func(name, rel string) error {
		members := []Reader{}
		for _, kind := range []Kind{Machines, Users} {
			links, bad, err := s.links(rel, kind)
			if err != nil {
				return err
			}
			members = append(members, links...)
			if len(bad) > 0 {
				s.t.badGroups[name] = append(s.t.badGroups[name], bad...)
			}
		}
		s.t.groups[name] = members
		return nil
	})
}

func (s *scanner) secrets() error {
	return s.dirs("sops/secrets", func(_, rel string) error { return s.entry(rel, ID{}) })
}

func (s *scanner) vars() error {
	if err := s.placement(Shared()); err != nil {
		return err
	}
	for _, area := range []string{perMachine, perExport} {
		err := s.dirs(path.Join("vars", area), func(name, _ string) error { return s.placement(Placement{area, name}) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) placement(p Placement) error {
	return s.dirs(path.Join("vars", p.String()), func(generator, rel string) error {
		for _, name := range []string{validationHash, scriptHash} {
			hash := path.Join(rel, name)
			if !regular(s.t.abs(hash)) {
				continue
			}
			data, err := atomicfile.ReadAtMost(s.t.abs(hash), 4096)
			if err != nil {
				return err //nolint:wrapcheck // It names the file.
			}
			s.t.hashes[hash] = strings.TrimSpace(string(data))
		}
		return s.dirs(rel, func(file, rel string) error { return s.entry(rel, ID{p, generator, file}) })
	})
}

func (s *scanner) entry(rel string, id ID) error {
	e := &Entry{Path: rel, ID: id}
	for name, has := range map[string]*bool{"secret": &e.Secret, "value": &e.Public} {
		fi, err := os.Lstat(s.t.abs(path.Join(rel, name)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err //nolint:wrapcheck // os errors name the path.
		case fi.Mode().IsRegular():
			*has = name == "secret" || id != ID{}
		case fi.Mode()&fs.ModeSymlink != 0:
			e.Bad = append(e.Bad, Problem{path.Join(rel, name), fmt.Errorf("%w: a value is a file, and this is a link to one; remove it", ErrLink)})
		}
	}
	for _, kind := range kinds {
		links, bad, err := s.links(rel, kind)
		if err != nil {
			return err
		}
		e.Links, e.Bad = append(e.Links, links...), append(e.Bad, bad...)
	}
	s.t.entries[rel] = e
	return nil
}

// links reads the links to readers of a kind. Each must be a relative link with its target's
// name, straight to a directory of that kind: who can write a link chooses who reads.
func (s *scanner) links(rel string, kind Kind) (good []Reader, bad []Problem, err error) {
	dir := path.Join(rel, string(kind))
	if fi, err := os.Lstat(s.t.abs(dir)); err == nil && !fi.IsDir() {
		return nil, []Problem{{dir, fmt.Errorf("%w: it is no directory; remove it", ErrLink)}}, nil
	}
	list, err := s.list(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range list {
		link := path.Join(dir, d.Name())
		if d.Type()&fs.ModeSymlink == 0 {
			if d.IsDir() || !strings.HasPrefix(d.Name(), ".") {
				s.warn(link, errors.New("it is no symbolic link, and lets nobody read: it is left out; remove it"))
			}
			continue
		}
		r := Reader{kind, d.Name()}
		switch err := s.follow(link, r); {
		case errors.Is(err, errDangling):
			s.warn(link, err)
		case err != nil:
			bad = append(bad, Problem{link, err})
		default:
			good = append(good, r)
		}
	}
	return good, bad, nil
}

var errDangling = errors.New("it points at nothing, and lets nobody read: it is left out; remove it, or add who it names")

func (s *scanner) follow(link string, r Reader) error {
	target, err := os.Readlink(s.t.abs(link))
	if err != nil {
		return err //nolint:wrapcheck // os errors name the path.
	}
	if filepath.IsAbs(target) {
		return fmt.Errorf("%w: it points at %.200q; want a relative link to %s", ErrLink, target, r.path())
	}
	to := path.Join(path.Dir(link), filepath.ToSlash(target))
	if to != r.path() {
		return fmt.Errorf("%w: it points at %.200q, and its name and place say %s; remove it, and add the reader whom you mean", ErrLink, to, r)
	}
	fi, err := os.Lstat(s.t.abs(to))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errDangling
	case err != nil:
		return err //nolint:wrapcheck // os errors name the path.
	case fi.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("%w: %s is a link itself; links may not lead to links", ErrLink, to)
	case !fi.IsDir():
		return fmt.Errorf("%w: %s is no directory", ErrLink, to)
	}
	return nil
}

// linkTarget is the text of a link to a reader.
func linkTarget(link string, r Reader) string {
	rel, err := filepath.Rel(path.Dir(link), r.path())
	if err != nil {
		return "" // It cannot be: both are relative.
	}
	return filepath.ToSlash(rel)
}
