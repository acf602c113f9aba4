package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/driver/drivertest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// request is a build of one file with a config.
func request(t *testing.T, text string, c any) driver.BuildRequest {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var tar bytes.Buffer
	src, err := bundle.PackFiles(dir, &tar)
	if err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(t.TempDir(), "tar")
	if err := os.WriteFile(blob, tar.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	conf, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return driver.BuildRequest{
		Profile: fleet.System, Blobs: map[fleet.Digest]string{src.Digest: blob},
		Source: fleet.Source{Driver: "files", External: &fleet.ExternalSource{Config: conf, Files: &src}},
	}
}

func TestConformance(t *testing.T) {
	drivertest.Conformance(t, func(t *testing.T) drivertest.Harness {
		link := filepath.Join(t.TempDir(), "site")
		c := config{Link: link, Reload: []string{"/bin/sh", "-c", "exit 0"}}
		return drivertest.Harness{
			Driver: &files{dir: t.TempDir()},
			First:  request(t, "one", c),
			Second: request(t, "two", c),
			Bad:    request(t, "bad", config{Link: "relative"}),
			Running: func(t *testing.T) string {
				path, err := os.Readlink(link)
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
				return path
			},
		}
	})
}

func TestRefused(t *testing.T) {
	d := &files{dir: t.TempDir()}
	for name, c := range map[string]any{
		"no link":         config{},
		"root":            config{Link: "/"},
		"dots":            config{Link: "/srv/../etc"},
		"relative reload": config{Link: "/srv/site", Reload: []string{"systemctl"}},
		"unknown key":     map[string]string{"link": "/srv/site", "lnk": "/x"},
		"no object":       7,
	} {
		if _, err := d.Build(t.Context(), request(t, "x", c), nil); !errors.Is(err, driver.ErrSource) {
			t.Errorf("%s: got %v, want %v", name, err, driver.ErrSource)
		}
	}
	req := request(t, "x", config{Link: "/srv/site"})
	req.Source.External.Files = nil
	if _, err := d.Build(t.Context(), req, nil); !errors.Is(err, driver.ErrSource) {
		t.Errorf("no files: got %v", err)
	}
}

func TestDamageIsRepaired(t *testing.T) {
	d := &files{dir: t.TempDir()}
	req := request(t, "one", config{Link: "/srv/site"})
	path, err := d.Build(t.Context(), req, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(path, "index.html")
	if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, []byte("eno"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if again, err := d.Build(t.Context(), req, nil); err != nil || again != path {
		t.Errorf("got %q, %v", again, err)
	}
	if b, err := os.ReadFile(file); string(b) != "one" {
		t.Errorf("got %q, %v", b, err)
	}
}

// A link that moves leaves nothing behind, and comes back with a rollback.
func TestMovedLink(t *testing.T) {
	dir := t.TempDir()
	d := &files{dir: t.TempDir()}
	from, err := d.Build(t.Context(), request(t, "one", config{Link: filepath.Join(dir, "a")}), nil)
	if err != nil {
		t.Fatal(err)
	}
	to, err := d.Build(t.Context(), request(t, "one", config{Link: filepath.Join(dir, "b")}), nil)
	if err != nil {
		t.Fatal(err)
	}
	do := func(a driver.Action) {
		t.Helper()
		if err := drivertest.Do(t, a); err != nil {
			t.Fatal(err)
		}
	}
	leads := func() (links []string) {
		all, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, l := range all {
			target, _ := os.Readlink(l)
			links = append(links, filepath.Base(l)+" "+target)
		}
		return links
	}
	first, err := d.Activation(t.Context(), fleet.System, "", from)
	if err != nil {
		t.Fatal(err)
	}
	do(first.Activate)
	second, err := d.Activation(t.Context(), fleet.System, from, to)
	if err != nil {
		t.Fatal(err)
	}
	do(second.Activate)
	if got := leads(); !slices.Equal(got, []string{"b " + to}) {
		t.Errorf("after the move: %q", got)
	}
	do(second.Rollback)
	if got := leads(); !slices.Equal(got, []string{"a " + from}) {
		t.Errorf("after the rollback: %q", got)
	}
}

func TestPrune(t *testing.T) {
	d := &files{dir: t.TempDir()}
	if removed, err := d.Prune(t.Context(), nil); err != nil || removed != nil {
		t.Errorf("of nothing: %q, %v", removed, err)
	}
	paths := map[string]string{}
	for _, text := range []string{"kept", "runs", "old"} {
		path, err := d.Build(t.Context(), request(t, text, config{Link: filepath.Join(t.TempDir(), "site")}), nil)
		if err != nil {
			t.Fatal(err)
		}
		paths[text] = path
	}
	a, err := d.Activation(t.Context(), fleet.System, "", paths["runs"])
	if err != nil {
		t.Fatal(err)
	}
	if err := drivertest.Do(t, a.Activate); err != nil {
		t.Fatal(err)
	}
	removed, err := d.Prune(t.Context(), []string{paths["kept"], "/nix/store/x"})
	if err != nil || !slices.Equal(removed, []string{paths["old"]}) {
		t.Errorf("removed %q, %v; want %q", removed, err, paths["old"])
	}
	left, _ := filepath.Glob(filepath.Join(d.built(), "*"))
	if len(left) != 4 {
		t.Errorf("left: %q", left)
	}
}
