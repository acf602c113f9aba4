// Package bundle packs a directory into one canonical tar, and unpacks such a
// tar so that nothing in it can reach outside of its directory.
//
// A bundle is a directory with an executable "activate", and where wanted
// "check" and "deactivate". Its tar is uncompressed and byte-canonical: one
// directory has exactly one tar, so that its SHA-256 names the content. The
// entries are regular files (mode 0644 or 0755), directories (0755) and
// relative symbolic links that stay inside, sorted element by element, each
// directory before what is in it, with no time, owner or attribute.
package bundle

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode/utf8"
)

// Names of a bundle's programs, in its top directory.
const (
	Activate   = "activate"
	Check      = "check"
	Deactivate = "deactivate"
)

// Sentinels: why a directory or tar is no bundle. None of them goes away by
// trying again, except for ErrTruncated and ErrDigest of a broken copy.
var (
	ErrNoActivate   = errors.New("bundle has no executable named activate")
	ErrName         = errors.New("bundle entry has a refused name")
	ErrType         = errors.New("bundle entry is of a refused type")
	ErrMode         = errors.New("bundle entry has refused permissions")
	ErrLink         = errors.New("bundle link leaves the bundle")
	ErrDuplicate    = errors.New("bundle entry occurs twice")
	ErrParent       = errors.New("bundle entry is not below a directory of the bundle")
	ErrNotCanonical = errors.New("bundle tar is not canonical")
	ErrTooLarge     = errors.New("bundle is too large")
	ErrTruncated    = errors.New("bundle tar is truncated")
	ErrDigest       = errors.New("bundle tar has another digest than was signed")
	ErrChanged      = errors.New("bundle changed while it was packed")
	ErrDamaged      = errors.New("unpacked bundle differs from what was signed")
)

// Limits bound a bundle; zero fields take the value of DefaultLimits.
type Limits struct {
	Bytes       uint64 // of the tar
	Entries     int
	PathBytes   int // of one path or link target
	Depth       int // elements of one path
	elementSize int
	// Plain is for the files of a plugin's source: no program must be in them,
	// and the names of a bundle's programs mean nothing.
	Plain bool
}

// DefaultLimits are what publishers and agents use.
func DefaultLimits() Limits {
	return Limits{Bytes: 4 << 30, Entries: 1 << 16, PathBytes: 512, Depth: 32, elementSize: 255}
}

func (l Limits) filled() Limits {
	d := DefaultLimits()
	if l.Bytes != 0 {
		d.Bytes = l.Bytes
	}
	if l.Entries != 0 {
		d.Entries = l.Entries
	}
	if l.PathBytes != 0 {
		d.PathBytes = l.PathBytes
	}
	if l.Depth != 0 {
		d.Depth = l.Depth
	}
	d.Plain = l.Plain
	return d
}

// kind of an entry.
type kind uint8

const (
	kindDir kind = iota + 1
	kindFile
	kindLink
)

// entry is one member of a bundle.
type entry struct {
	path       string // slash-separated, relative, without trailing slash
	kind       kind
	executable bool
	size       int64
	target     string
}

// header is the one tar header that an entry may have.
func (e entry) header() *tar.Header {
	h := &tar.Header{Name: e.path, ModTime: time.Unix(0, 0), Format: tar.FormatUnknown}
	switch e.kind {
	case kindDir:
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, e.path+"/", 0o755
	case kindFile:
		h.Typeflag, h.Mode, h.Size = tar.TypeReg, 0o644, e.size
		if e.executable {
			h.Mode = 0o755
		}
	case kindLink:
		h.Typeflag, h.Mode, h.Linkname = tar.TypeSymlink, 0o777, e.target
	}
	return h
}

// tree checks entries as they come, in canonical order, and knows all so far.
type tree struct {
	limits Limits
	kinds  map[string]kind
	links  map[string]string
	last   string
	active bool // an executable "activate" was seen
}

func newTree(l Limits) *tree {
	return &tree{limits: l.filled(), kinds: map[string]kind{}, links: map[string]string{}}
}

func (t *tree) add(e entry) error {
	if err := t.checkName(e.path); err != nil {
		return err
	}
	if _, twice := t.kinds[e.path]; twice {
		return fmt.Errorf("%w: %q", ErrDuplicate, e.path)
	}
	if len(t.kinds) >= t.limits.Entries {
		return fmt.Errorf("%w: more than %d entries", ErrTooLarge, t.limits.Entries)
	}
	if dir := path.Dir(e.path); dir != "." && t.kinds[dir] != kindDir {
		return fmt.Errorf("%w: %q", ErrParent, e.path)
	}
	if !before(t.last, e.path) {
		return fmt.Errorf("%w: %q comes after %q", ErrNotCanonical, e.path, t.last)
	}
	if e.kind == kindLink {
		if err := t.checkTarget(e); err != nil {
			return err
		}
		t.links[e.path] = e.target
	}
	if !t.limits.Plain && (e.path == Check || e.path == Deactivate) && (e.kind != kindFile || !e.executable) {
		return fmt.Errorf("%w: %q is not an executable file: chmod +x %s", ErrMode, e.path, e.path)
	}
	t.kinds[e.path] = e.kind
	t.last = e.path
	t.active = t.active || e.path == Activate && e.kind == kindFile && e.executable
	return nil
}

// finish checks what only the whole tells.
func (t *tree) finish() error {
	for link := range t.links {
		if err := t.resolve(link); err != nil {
			return err
		}
	}
	if !t.active && !t.limits.Plain {
		return fmt.Errorf("%w: add a program (mode 0755) of that name at the top of the directory", ErrNoActivate)
	}
	return nil
}

func (t *tree) checkName(p string) error {
	l := t.limits
	switch {
	case len(p) > l.PathBytes:
		return fmt.Errorf("%w: %.80q… is longer than %d bytes", ErrName, p, l.PathBytes)
	case p == "" || strings.HasPrefix(p, "/"):
		return fmt.Errorf("%w: %q is not relative", ErrName, p)
	case !utf8.ValidString(p) || strings.ContainsFunc(p, isControl):
		return fmt.Errorf("%w: %q holds NUL, control characters or no UTF-8", ErrName, p)
	case strings.Count(p, "/") >= l.Depth:
		return fmt.Errorf("%w: %q is deeper than %d", ErrName, p, l.Depth)
	}
	for el := range strings.SplitSeq(p, "/") {
		switch {
		case el == "" || el == "." || el == "..":
			return fmt.Errorf("%w: %q has an element %q", ErrName, p, el)
		case len(el) > l.elementSize:
			return fmt.Errorf("%w: %.80q… has an element longer than %d bytes", ErrName, p, l.elementSize)
		}
	}
	return nil
}

func (t *tree) checkTarget(e entry) error {
	switch {
	case e.target == "" || strings.HasPrefix(e.target, "/"):
		return fmt.Errorf("%w: %q points to %q; links must be relative", ErrLink, e.path, e.target)
	case len(e.target) > t.limits.PathBytes:
		return fmt.Errorf("%w: target of %q is longer than %d bytes", ErrName, e.path, t.limits.PathBytes)
	case !utf8.ValidString(e.target) || strings.ContainsFunc(e.target, isControl):
		return fmt.Errorf("%w: target %q holds NUL, control characters or no UTF-8", ErrName, e.target)
	}
	return nil
}

// resolve follows a link through all links that it meets, as the kernel would.
func (t *tree) resolve(link string) error {
	const mostHops = 40
	at := []string{} // elements from the top of the bundle
	rest := strings.Split(link, "/")
	for hops := 0; len(rest) > 0; {
		el := rest[0]
		rest = rest[1:]
		switch el {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return fmt.Errorf("%w: %q", ErrLink, link)
			}
			at = at[:len(at)-1]
			continue
		}
		if at = append(at, el); len(at) > t.limits.Depth {
			return fmt.Errorf("%w: %q leads deeper than %d", ErrLink, link, t.limits.Depth)
		}
		target, isLink := t.links[strings.Join(at, "/")]
		if !isLink {
			continue
		}
		if hops++; hops > mostHops {
			return fmt.Errorf("%w: %q goes round in a circle", ErrLink, link)
		}
		at = at[:len(at)-1]
		rest = append(strings.Split(target, "/"), rest...)
	}
	return nil
}

// before orders paths element by element.
func before(a, b string) bool {
	for {
		ea, ra, ma := strings.Cut(a, "/")
		eb, rb, mb := strings.Cut(b, "/")
		if ea != eb {
			return ea < eb
		}
		if !ma || !mb {
			return !ma && mb
		}
		a, b = ra, rb
	}
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }
