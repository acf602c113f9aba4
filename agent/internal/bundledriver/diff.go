package bundledriver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Diff implements driver.Driver: names of files and links, with "+" for added,
// "-" for removed and "~" for changed ones.
func (d *Driver) Diff(ctx context.Context, _ fleet.ProfileName, from, to string) ([]string, error) {
	old, err := d.contents(from)
	if err != nil {
		return nil, fmt.Errorf("comparing bundles: %w", err)
	}
	now, err := d.contents(to)
	if err != nil {
		return nil, fmt.Errorf("comparing bundles: %w", err)
	}
	var lines []string
	for name, was := range old {
		is, ok := now[name]
		if !ok {
			lines = append(lines, "- "+name)
			continue
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		same, err := equal(from, to, name, was, is)
		if err != nil {
			return nil, fmt.Errorf("comparing bundles: %w", err)
		}
		if !same {
			lines = append(lines, "~ "+name)
		}
	}
	for name := range now {
		if _, ok := old[name]; !ok {
			lines = append(lines, "+ "+name)
		}
	}
	// By name, whatever happened to it.
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
	if n := len(lines); n > driver.MaxDiffLines {
		lines = append(lines[:driver.MaxDiffLines], fmt.Sprintf("… and %d more", n-driver.MaxDiffLines))
	}
	return lines, nil
}

// contents lists everything but directories; nothing for the empty path.
func (d *Driver) contents(path string) (map[string]fs.FileInfo, error) {
	if path == "" {
		return nil, nil
	}
	if err := d.usable(path); err != nil {
		return nil, err
	}
	all := map[string]fs.FileInfo{}
	err := fs.WalkDir(os.DirFS(path), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		all[name], err = e.Info()
		return err
	})
	return all, err
}

func equal(from, to, name string, a, b fs.FileInfo) (_ bool, err error) {
	if a.Mode() != b.Mode() || a.Size() != b.Size() {
		return false, nil
	}
	if a.Mode()&fs.ModeSymlink != 0 {
		ta, err1 := os.Readlink(from + "/" + name)
		tb, err2 := os.Readlink(to + "/" + name)
		return ta == tb, errors.Join(err1, err2)
	}
	fa, err := os.Open(from + "/" + name)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, fa.Close()) }()
	fb, err := os.Open(to + "/" + name)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, fb.Close()) }()
	return sameBytes(bufio.NewReader(fa), bufio.NewReader(fb))
}

func sameBytes(a, b *bufio.Reader) (bool, error) {
	bufA, bufB := make([]byte, 32<<10), make([]byte, 32<<10)
	for {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		end := errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF)
		if end && (errors.Is(errB, io.EOF) || errors.Is(errB, io.ErrUnexpectedEOF)) {
			return true, nil
		}
		if errA != nil || errB != nil {
			return false, errors.Join(errA, errB)
		}
	}
}
