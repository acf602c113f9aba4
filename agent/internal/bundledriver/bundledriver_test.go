package bundledriver_test

import (
	"context"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/driver/drivertest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const activate = `#!/bin/sh
set -eu
echo "$FLEET_PROFILE $FLEET_BUNDLE ${FLEET_PREVIOUS:-none} $EXTRA" >>"$FLEET_STATE/log"
[ "$(pwd)" = "$FLEET_BUNDLE" ]
printf %s "$FLEET_BUNDLE" >"$FLEET_STATE/running"
`

const deactivate = `#!/bin/sh
rm -f "$FLEET_STATE/running"
`

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// request packs a bundle of files; names of programs are executable.
func request(t *testing.T, files map[string]string) driver.BuildRequest {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700)) //nolint:gosec // Programs.
	}
	blob := filepath.Join(t.TempDir(), "blob")
	f, err := os.Create(blob) //nolint:gosec // A test's own file.
	must(t, err)
	src, err := bundle.Pack(dir, f)
	must(t, errors.Join(err, f.Close()))
	return driver.BuildRequest{
		Profile: fleet.System,
		Source:  fleet.Source{Driver: bundledriver.Name, Bundle: &src},
		Blobs:   map[fleet.Digest]string{src.Digest: blob},
	}
}

func newDriver(t *testing.T) (*bundledriver.Driver, string) {
	t.Helper()
	root := t.TempDir()
	d, err := bundledriver.New(bundledriver.Config{Root: root, Env: []string{"EXTRA=more"}, Deadline: time.Minute})
	must(t, err)
	return d, root
}

func first(t *testing.T) driver.BuildRequest {
	return request(t, map[string]string{"activate": activate, "deactivate": deactivate, "web/index": "one", "web/same": "same", "gone": ""})
}

func second(t *testing.T) driver.BuildRequest {
	return request(t, map[string]string{"activate": activate, "deactivate": deactivate, "web/index": "two", "web/same": "same", "new": ""})
}

func TestConformance(t *testing.T) {
	drivertest.Conformance(t, func(t *testing.T) drivertest.Harness {
		d, _ := newDriver(t)
		bad := first(t)
		bad.Source = fleet.Source{Driver: "other"}
		return drivertest.Harness{
			Driver: d, First: first(t), Second: second(t), Bad: bad,
			Running: func(t *testing.T) string {
				b, err := os.ReadFile(filepath.Join(d.StateDir(fleet.System), "running"))
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
				return string(b)
			},
		}
	})
}

func TestEnvironmentOfActivate(t *testing.T) {
	d, _ := newDriver(t)
	one, err := d.Build(t.Context(), first(t), nil)
	must(t, err)
	two, err := d.Build(t.Context(), second(t), nil)
	must(t, err)
	for _, move := range [][2]string{{"", one}, {one, two}} {
		a, err := d.Activation(t.Context(), fleet.System, move[0], move[1])
		must(t, err)
		must(t, drivertest.Do(t, a.Activate))
		if move[0] != "" {
			must(t, drivertest.Do(t, a.Rollback))
		}
	}
	got, err := os.ReadFile(filepath.Join(d.StateDir(fleet.System), "log"))
	must(t, err)
	want := strings.Join([]string{
		"system " + one + " none more",
		"system " + two + " " + one + " more",
		"system " + one + " " + two + " more",
		"",
	}, "\n")
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("log of activate (-want +got):\n%s", diff)
	}
}

func TestHomeProfileRunsAsItsUser(t *testing.T) {
	d, root := newDriver(t)
	req := first(t)
	path, err := d.Build(t.Context(), req, nil)
	must(t, err)
	a, err := d.Activation(t.Context(), "home/somebody", "", path)
	must(t, err)
	if got := a.Activate.Steps[0].Link.Path; got != filepath.Join(root, "profiles", "home-somebody") {
		t.Errorf("link is %s", got)
	}
	if got := a.Activate.Steps[1].Exec.User; got != "somebody" {
		t.Errorf("runs as %q", got)
	}
}

// TestHindrance: a home whose user is not there waits for that, and leaves nothing that
// keeps the user out of what is theirs afterwards.
func TestHindrance(t *testing.T) {
	d, _ := newDriver(t)
	me, err := user.Current()
	must(t, err)
	for profile, want := range map[fleet.ProfileName]fleet.ReasonCode{
		fleet.System: "", fleet.ProfileName("home/" + me.Username): "", "home/no-such-user-here": fleet.ReasonNoUser,
	} {
		r, err := driver.HindranceOf(t.Context(), d, profile)
		if err != nil || r.Code != want || (want != "") != (r.Hint != "") {
			t.Errorf("%s: %+v, %v", profile, r, err)
		}
	}
	if os.Geteuid() != 0 {
		return // What follows gives directories away.
	}
	req := first(t)
	req.Profile = "home/no-such-user-here"
	if _, err := d.Build(t.Context(), req, nil); err == nil {
		t.Error("built for nobody")
	}
	if _, err := os.Lstat(d.StateDir(req.Profile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody's state directory: %v", err)
	}
	// As a crash leaves it: made, and not given.
	nobody, err := user.Lookup("nobody")
	must(t, err)
	req.Profile = "home/nobody"
	must(t, os.Mkdir(d.StateDir(req.Profile), 0o755)) //nolint:gosec // As the driver makes it.
	_, err = d.Build(t.Context(), req, nil)
	must(t, err)
	fi, err := os.Stat(d.StateDir(req.Profile))
	must(t, err)
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || strconv.FormatUint(uint64(st.Uid), 10) != nobody.Uid {
		t.Errorf("the state directory belongs to %+v, want %s", fi.Sys(), nobody.Uid)
	}
}

func TestDiff(t *testing.T) {
	d, _ := newDriver(t)
	one, err := d.Build(t.Context(), first(t), nil)
	must(t, err)
	two, err := d.Build(t.Context(), second(t), nil)
	must(t, err)
	got, err := d.Diff(t.Context(), fleet.System, one, two)
	must(t, err)
	if diff := cmp.Diff([]string{"- gone", "+ new", "~ web/index"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBuildRepairs(t *testing.T) {
	d, root := newDriver(t)
	req := first(t)
	path, err := d.Build(t.Context(), req, nil)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(path, "web/index"), []byte("altered"), 0o600))
	if err := d.Verify(t.Context(), path); !errors.Is(err, driver.ErrNotBuilt) {
		t.Errorf("damaged: got %v, want %v", err, driver.ErrNotBuilt)
	}
	// Without the tar there is nothing to repair from, and nothing is lost.
	if _, err := d.Build(t.Context(), driver.BuildRequest{Profile: req.Profile, Source: req.Source}, nil); err == nil {
		t.Error("built without its tar")
	}
	var messages []string
	again, err := d.Build(t.Context(), req, func(p driver.Progress) { messages = append(messages, p.Message) })
	must(t, err)
	if again != path || len(messages) < 2 {
		t.Errorf("got %s with progress %q", again, messages)
	}
	must(t, d.Verify(t.Context(), path))
	entries, err := os.ReadDir(filepath.Join(root, "store"))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("store holds %v", entries)
	}
}

func TestBuildOfABrokenCopyMayBeTriedAgain(t *testing.T) {
	d, _ := newDriver(t)
	req := first(t)
	blob := req.Blobs[req.Source.Bundle.Digest]
	good, err := os.ReadFile(blob) //nolint:gosec // A test's own file.
	must(t, err)
	must(t, os.WriteFile(blob, good[:len(good)-1], 0o600)) //nolint:gosec // A test's own file.
	if _, err := d.Build(t.Context(), req, nil); !errors.Is(err, bundle.ErrTruncated) || errors.Is(err, driver.ErrSource) {
		t.Errorf("got %v, want %v", err, bundle.ErrTruncated)
	}
	must(t, os.WriteFile(blob, good, 0o600)) //nolint:gosec // A test's own file.
	_, err = d.Build(t.Context(), req, nil)
	must(t, err)
}

func TestBuildsOfOneSourceAtOnce(t *testing.T) {
	d, _ := newDriver(t)
	req := first(t)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { _, errs[i] = d.Build(t.Context(), req, nil) })
	}
	wg.Wait()
	must(t, errors.Join(errs...))
}

func TestCrashLeavesNothing(t *testing.T) {
	_, root := newDriver(t)
	half := filepath.Join(root, "store", bundle.TempPrefix+"123", "deep")
	must(t, os.MkdirAll(half, 0o700))
	_, err := bundledriver.New(bundledriver.Config{Root: root})
	must(t, err)
	if _, err := os.Lstat(filepath.Dir(half)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a bundle is still there: %v", err)
	}
}

func TestPrune(t *testing.T) {
	d, _ := newDriver(t)
	one, err := d.Build(t.Context(), first(t), nil)
	must(t, err)
	two, err := d.Build(t.Context(), second(t), nil)
	must(t, err)
	three, err := d.Build(t.Context(), request(t, map[string]string{"activate": activate}), nil)
	must(t, err)
	a, err := d.Activation(t.Context(), fleet.System, "", one)
	must(t, err)
	must(t, drivertest.Do(t, a.Activate))

	removed, err := d.Prune(t.Context(), []string{two})
	must(t, err)
	if diff := cmp.Diff([]string{three}, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	must(t, d.Verify(t.Context(), one))
	must(t, d.Verify(t.Context(), two))
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []bundledriver.Config{
		{Root: "relative"},
		{Root: t.TempDir(), Env: []string{"FLEET_STATE=/"}},
		{Root: t.TempDir(), Env: []string{"PATH=/"}},
		{Root: t.TempDir(), Env: []string{"nonsense"}},
	} {
		if _, err := bundledriver.New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

func TestForeignLinkIsAnError(t *testing.T) {
	d, root := newDriver(t)
	must(t, os.Symlink("/etc", filepath.Join(root, "profiles", "system")))
	if path, err := d.Current(context.Background(), fleet.System); err == nil {
		t.Errorf("got %q", path)
	}
}
