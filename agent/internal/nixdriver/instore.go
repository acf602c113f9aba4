package nixdriver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxStoreLinks bounds the links that lead from one place of the store to another.
const maxStoreLinks = 40

var (
	// errOutOfStore says that something of the store leads elsewhere.
	errOutOfStore = errors.New("it leads out of the store")
	errCircle     = errors.New("it leads on and on")
)

// inStore looks at what a place in the store is, over links that stay in there. Whoever
// names a path of the store may have put it there, and a link in it may lead to a file
// system of theirs, which never answers; what is in the store itself nobody can change.
func (b *base) inStore(place string) (fs.FileInfo, error) {
	rest, ok := belowStore(place)
	if !ok {
		return nil, fmt.Errorf("%s: %w", place, errOutOfStore)
	}
	at := storeDir
	for links := 0; ; {
		name, more, _ := strings.Cut(strings.TrimLeft(rest, "/"), "/")
		if name == "" || name == "." || name == ".." {
			return nil, fmt.Errorf("%s: %w", place, errOutOfStore)
		}
		next := filepath.Join(at, name)
		fi, err := os.Lstat(b.at(next))
		if err != nil {
			return nil, err //nolint:wrapcheck // It names the place.
		}
		if fi.Mode().Type() != fs.ModeSymlink {
			if more == "" {
				return fi, nil
			}
			at, rest = next, more
			continue
		}
		to, err := os.Readlink(b.at(next))
		if err != nil {
			return nil, err //nolint:wrapcheck // As above.
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(at, to) // Of directories and no links, so that this is where ".." leads.
		}
		if links++; links > maxStoreLinks {
			return nil, fmt.Errorf("%s: %w", place, errCircle)
		}
		if rest, ok = belowStore(filepath.Join(to, more)); !ok {
			return nil, fmt.Errorf("%s: %w, to %.200q", place, errOutOfStore, to)
		}
		at = storeDir
	}
}

// belowStore is a cleaned path without that of the store.
func belowStore(path string) (string, bool) {
	return strings.CutPrefix(filepath.Clean(path), storeDir+"/")
}

// activates says whether a path has that program, which may be run.
func (b *base) activates(path, program string) bool {
	fi, err := b.inStore(filepath.Join(path, program))
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}
