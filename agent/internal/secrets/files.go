package secrets

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// dirMode lets every user through to the files that are theirs, and nobody
// look around.
const dirMode = 0o711

// file is a secret whose path, mode and owner were checked.
type file struct {
	entry    fleet.SecretEntry
	place    string // below the set's directory
	also     []string
	mode     fs.FileMode
	uid, gid int // -1 for the agent's own
}

// usersDir is where, in a set, there is what is needed before users are made, activationDir
// what activation scripts need.
const (
	usersDir      = "for-users"
	activationDir = "activation"
)

// Place is where a secret is below its set's directory, and so below the link.
func Place(e fleet.SecretEntry) string { return placeOf(e, e.Path) }

func placeOf(e fleet.SecretEntry, p string) string {
	switch e.NeededFor {
	case fleet.NeededForUsers:
		return path.Join(usersDir, p)
	case fleet.NeededForActivation:
		return path.Join(activationDir, p)
	case fleet.NeededForServices:
	}
	return p
}

// plan checks all entries before anything is decrypted.
func plan(m fleet.SecretsManifest) ([]file, error) {
	if len(m.Entries) > fleet.MaxSecrets {
		return nil, fmt.Errorf("%w: %d secrets, at most %d are allowed", ErrTooLarge, len(m.Entries), fleet.MaxSecrets)
	}
	files := make([]file, 0, len(m.Entries))
	taken := map[string]bool{}
	for _, e := range m.Entries {
		f, err := check(e)
		if err != nil {
			return nil, fmt.Errorf("secret %.80q: %w", e.Name, err)
		}
		for _, p := range f.places() {
			if taken[p] {
				return nil, fmt.Errorf("secret %s: %w: %q is taken by another", e.Name, ErrPath, p)
			}
			taken[p] = true
		}
		files = append(files, f)
	}
	for _, f := range files {
		for _, p := range f.places() {
			for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
				if taken[dir] {
					return nil, fmt.Errorf("secret %s: %w: %q lies below another secret", f.entry.Name, ErrPath, p)
				}
			}
		}
	}
	return files, nil
}

// places are all at which it is.
func (f file) places() []string { return append([]string{f.place}, f.also...) }

func check(e fleet.SecretEntry) (file, error) {
	if _, err := fleet.ParseSecretName(string(e.Name)); err != nil {
		return file{}, err
	}
	if len(e.Also) > fleet.MaxAlso {
		return file{}, fmt.Errorf("%w: it has %d others, at most %d are allowed", ErrPath, len(e.Also), fleet.MaxAlso)
	}
	for _, p := range append([]string{e.Path}, e.Also...) {
		if p == "" || len(p) > 512 || strings.ContainsFunc(p, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\\' }) ||
			p == "." || p == partial || path.Clean(p) != p || !filepath.IsLocal(p) || strings.Count(p, "/") > 16 {
			return file{}, fmt.Errorf("%w: %.80q: want a clean relative path without \".\" or \"..\" in it", ErrPath, p)
		}
	}
	if e.Mode > 0o777 {
		return file{}, fmt.Errorf("%w: %#o: want permission bits only", ErrMode, e.Mode)
	}
	f := file{entry: e, place: Place(e), mode: fs.FileMode(e.Mode), uid: -1, gid: -1}
	if e.Mode == 0 {
		f.mode = defaultMode
	}
	for _, p := range e.Also {
		f.also = append(f.also, placeOf(e, p))
	}
	var err error
	if f.uid, err = ownerID(e.Owner); err != nil {
		return file{}, err
	}
	f.gid, err = groupID(e.Group)
	return f, err
}

// ownerID is -1 where nothing has to be changed.
func ownerID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	if err != nil {
		return 0, fmt.Errorf("%w: user %.80q does not exist on this host", ErrOwner, name)
	}
	id, err := strconv.Atoi(u.Uid)
	if err != nil {
		return 0, fmt.Errorf("%w: user %.80q: %w", ErrOwner, name, err)
	}
	switch euid := os.Geteuid(); {
	case id == euid:
		return -1, nil
	case euid != 0:
		return 0, fmt.Errorf("%w: only an agent that runs as root can give files to user %.80q", ErrOwner, name)
	}
	return id, nil
}

// groupID is -1 where nothing has to be changed.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		g, err = user.LookupGroupId(name)
	}
	if err != nil {
		return 0, fmt.Errorf("%w: group %.80q does not exist on this host", ErrOwner, name)
	}
	id, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0, fmt.Errorf("%w: group %.80q: %w", ErrOwner, name, err)
	}
	if id == os.Getegid() {
		return -1, nil
	}
	own, err := os.Getgroups()
	if os.Geteuid() != 0 && (err != nil || !slices.Contains(own, id)) {
		return 0, fmt.Errorf("%w: the agent is neither root nor in group %.80q", ErrOwner, name)
	}
	return id, nil
}

// write makes the file, readable by nobody else before it is whole.
func (f file) write(top *os.Root, plain []byte) (err error) {
	if dir := path.Dir(f.place); dir != "." {
		if err := makeDirs(top, dir); err != nil {
			return err
		}
	}
	out, err := top.OpenFile(f.place, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := out.Write(plain); err != nil {
		return err
	}
	if f.uid >= 0 || f.gid >= 0 {
		if err := out.Chown(f.uid, f.gid); err != nil {
			return fmt.Errorf("%w: %w", ErrOwner, err)
		}
	}
	return out.Chmod(f.mode)
}

// link makes the other places lead to the file.
func (f file) link(top *os.Root) error {
	for _, at := range f.also {
		dir := path.Dir(at)
		if dir != "." {
			if err := makeDirs(top, dir); err != nil {
				return err
			}
		}
		to, err := filepath.Rel(dir, f.place)
		if err == nil {
			err = top.Symlink(to, at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func makeDirs(top *os.Root, dir string) error {
	if parent := path.Dir(dir); parent != "." {
		if err := makeDirs(top, parent); err != nil {
			return err
		}
	}
	if err := top.Mkdir(dir, dirMode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return top.Chmod(dir, dirMode) // whatever the umask
}

func makeDir(dir string) error {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	return os.Chmod(dir, dirMode) //nolint:gosec // Passing through is what services need.
}

// same says whether two directories hold the same files with the same owners
// and modes; whatever cannot be read is not the same.
func same(a, b string) bool {
	listA, errA := list(a)
	listB, errB := list(b)
	if errA != nil || errB != nil || len(listA) != len(listB) {
		return false
	}
	for name, fa := range listA {
		fb, ok := listB[name]
		if !ok || fa.Mode() != fb.Mode() || !sameOwner(fa, fb) {
			return false
		}
		if fa.IsDir() {
			continue
		}
		if fa.Mode().Type() == fs.ModeSymlink {
			la, errA := os.Readlink(filepath.Join(a, name))
			lb, errB := os.Readlink(filepath.Join(b, name))
			if errA != nil || errB != nil || la != lb {
				return false
			}
			continue
		}
		if !fa.Mode().IsRegular() || fa.Size() != fb.Size() || !sameContent(filepath.Join(a, name), filepath.Join(b, name)) {
			return false
		}
	}
	return true
}

func list(dir string) (map[string]fs.FileInfo, error) {
	all := map[string]fs.FileInfo{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		all[name], err = e.Info()
		return err
	})
	return all, err
}

func sameOwner(a, b fs.FileInfo) bool {
	sa, okA := a.Sys().(*syscall.Stat_t)
	sb, okB := b.Sys().(*syscall.Stat_t)
	return okA && okB && sa.Uid == sb.Uid && sa.Gid == sb.Gid
}

func sameContent(a, b string) bool {
	ba, errA := os.ReadFile(a) //nolint:gosec // The agent's own directory.
	bb, errB := os.ReadFile(b) //nolint:gosec // The agent's own directory.
	defer clear(ba)
	defer clear(bb)
	return errA == nil && errB == nil && bytes.Equal(ba, bb)
}
