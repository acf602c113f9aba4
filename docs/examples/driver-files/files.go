package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/plugin"
)

// files is the driver. Below its directory:
//
//	built/<digest>       a published directory, never changed
//	built/<digest>.json  the config that came with it
//	profiles/<profile>   link to the one that runs
//
// It keeps nothing in memory: the agent may end it at any moment.
type files struct{ dir string }

var (
	_ driver.Driver = (*files)(nil)
	_ driver.Pruner = (*files)(nil)
)

// config is that of a source.
type config struct {
	// Link is where the files are to be found.
	Link string `json:"link"`
	// Reload is a program with arguments that is run after the link has moved;
	// empty for none.
	Reload []string `json:"reload,omitempty"`
}

func (d *files) built() string { return filepath.Join(d.dir, "built") }
func (d *files) profile(p fleet.ProfileName) string {
	return filepath.Join(d.dir, "profiles", p.FileName())
}

// Current implements driver.Driver.
func (d *files) Current(_ context.Context, p fleet.ProfileName) (string, error) {
	path, err := os.Readlink(d.profile(p))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return path, err
}

// Build implements driver.Driver. The name says what is in it, so that a second
// build of the same source finds the first one's.
func (d *files) Build(ctx context.Context, req driver.BuildRequest, _ func(driver.Progress)) (string, error) {
	src := plugin.Files(req)
	if src == nil {
		return "", fmt.Errorf("%w: add files: DIRECTORY to the source", driver.ErrSource)
	}
	var c config
	if err := plugin.Config(req.Source.External.Config, &c); err != nil {
		return "", err
	}
	if !filepath.IsAbs(c.Link) || filepath.Clean(c.Link) != c.Link || c.Link == "/" {
		return "", fmt.Errorf("%w: config.link is %q: want the absolute path of a link", driver.ErrSource, c.Link)
	}
	if len(c.Reload) > 0 && !filepath.IsAbs(c.Reload[0]) {
		return "", fmt.Errorf("%w: config.reload begins with %q: want the absolute path of a program", driver.ErrSource, c.Reload[0])
	}
	text, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	path := filepath.Join(d.built(), fleet.DigestOf(append([]byte(src.Digest), text...)).Hex())
	for _, dir := range []string{d.built(), filepath.Join(d.dir, "profiles")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	if plugin.Verify(ctx, req, path) != nil {
		if err := plugin.Unpack(ctx, req, path); err != nil {
			return "", err
		}
	}
	return path, atomicfile.WriteFile(path+".json", text, 0o644)
}

// Activation implements driver.Driver: data only, which the agent carries out,
// in a process that outlives this one.
func (d *files) Activation(_ context.Context, p fleet.ProfileName, from, to string) (driver.Activation, error) {
	if from == "" && to == "" {
		return driver.Activation{}, errors.New("from nothing to nothing")
	}
	old, err := d.config(from)
	if err != nil {
		return driver.Activation{}, err
	}
	next, err := d.config(to)
	if err != nil {
		return driver.Activation{}, err
	}
	return driver.Activation{
		Activate: d.move(p, old, next, to),
		Rollback: d.move(p, next, old, from),
	}, nil
}

// config reads what a built path was built with; of no path it is empty.
func (d *files) config(path string) (c config, err error) {
	if path == "" {
		return c, nil
	}
	text, err := os.ReadFile(path + ".json")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil || filepath.Dir(path) != d.built() || filepath.Clean(path) != path {
		return c, fmt.Errorf("%w: %s: %w", driver.ErrNotBuilt, path, errors.Join(err, errors.New("it is not one of this driver's")))
	}
	return c, nil
}

// move has the links lead to a built path, or to none, whatever an interrupted
// move the other way left.
func (d *files) move(p fleet.ProfileName, from, to config, path string) driver.Action {
	a := driver.Action{Deadline: driver.DefaultDeadline}
	link := func(at, target string) {
		a.Steps = append(a.Steps, driver.Step{Link: &driver.Link{Path: at, Target: target}})
	}
	if to.Link != "" {
		link(to.Link, path)
	}
	if from.Link != "" && from.Link != to.Link {
		link(from.Link, "")
	}
	link(d.profile(p), path)
	if len(to.Reload) > 0 {
		a.Steps = append(a.Steps, driver.Step{Exec: &driver.Exec{Argv: to.Reload, Env: []string{"PATH=" + os.Getenv("PATH")}}})
	}
	return a
}

// Diff implements driver.Driver: files that come, go or change.
func (d *files) Diff(_ context.Context, _ fleet.ProfileName, from, to string) ([]string, error) {
	before, err := contents(from)
	if err != nil {
		return nil, err
	}
	after, err := contents(to)
	if err != nil {
		return nil, err
	}
	var lines []string
	for name, digest := range after {
		switch old, was := before[name]; {
		case !was:
			lines = append(lines, "+ "+name)
		case old != digest:
			lines = append(lines, "~ "+name)
		}
	}
	for name := range before {
		if _, is := after[name]; !is {
			lines = append(lines, "- "+name)
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
	return lines, nil
}

// contents digests all files and links below dir, by relative name.
func contents(dir string) (map[string]fleet.Digest, error) {
	all := map[string]fleet.Digest{}
	if dir == "" {
		return all, nil
	}
	return all, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		var content []byte
		if e.Type() == fs.ModeSymlink {
			target, lerr := os.Readlink(path)
			content, err = []byte("link "+target), lerr
		} else {
			content, err = os.ReadFile(path)
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		all[name] = fleet.DigestOf(content)
		return err
	})
}

// Prune implements driver.Pruner.
func (d *files) Prune(ctx context.Context, keep []string) (removed []string, err error) {
	keep = slices.Clone(keep)
	links, err := filepath.Glob(filepath.Join(d.dir, "profiles", "*"))
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		path, err := os.Readlink(link)
		if err != nil {
			return nil, err
		}
		keep = append(keep, path)
	}
	entries, err := os.ReadDir(d.built())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(d.built(), e.Name())
		if !e.IsDir() || slices.Contains(keep, path) {
			continue
		}
		if ctx.Err() != nil {
			return removed, context.Cause(ctx)
		}
		// The config goes first: without it the rest counts for nothing.
		if err := errors.Join(os.RemoveAll(path+".json"), os.RemoveAll(path)); err != nil {
			return removed, err
		}
		removed = append(removed, path)
	}
	return removed, nil
}
