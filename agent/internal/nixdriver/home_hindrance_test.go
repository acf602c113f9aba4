package nixdriver

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func TestHomeHindrance(t *testing.T) {
	for name, tt := range map[string]struct {
		profile fleet.ProfileName
		make    func(w *world)
		want    fleet.ReasonCode
		says    string
	}{
		"none":                  {want: ""},
		"no user":               {profile: "home/bob", want: fleet.ReasonNoUser, says: "no user bob"},
		"no home":               {make: func(w *world) { w.gone(annHome) }, want: fleet.ReasonHomeUnusable, says: "no such file"},
		"a file as home":        {make: func(w *world) { w.gone(annHome); w.text(annHome, "") }, want: fleet.ReasonHomeUnusable, says: "not a directory"},
		"a NixOS module":        {make: func(w *world) { w.text(currentSystem+"/etc/systemd/system/home-manager-ann.service", "") }, want: fleet.ReasonHomeInSystem, says: "home-manager-ann.service"},
		"a unit of the host's":  {make: func(w *world) { w.text("/etc/systemd/system/home-manager-ann.service", "") }, want: fleet.ReasonHomeInSystem, says: "/etc/systemd"},
		"another user's module": {make: func(w *world) { w.text("/etc/systemd/system/home-manager-anna.service", "") }},
		"a nix-darwin module": {make: func(w *world) {
			w.text(currentSystem+"/activate", "set -e\necho Activating home-manager configuration for ann >&2\n")
		}, want: fleet.ReasonHomeInSystem, says: "/run/current-system/activate"},
		"another user's in nix-darwin": {make: func(w *world) {
			w.text(currentSystem+"/activate", "echo Activating home-manager configuration for ann-b >&2\necho ann\n")
		}},
		"a link to where nothing may lead": {make: func(w *world) { w.raw(annHome+"/"+homeCurrent, "/etc/shadow") }, want: fleet.ReasonHomeUnusable, says: "no store path"},
		"a state out of the home":          {make: func(w *world) { w.raw(annHome+"/.local", "../../etc") }, want: fleet.ReasonHomeUnusable, says: "can't be told"},
		"a state elsewhere in the home":    {make: func(w *world) { w.dir(annHome + "/data"); w.raw(annHome+"/.local", "data") }},
		"links in a circle": {make: func(w *world) {
			w.raw(annHome+"/"+homeProfiles+"/home-manager", "home-manager-1-link")
			w.raw(annHome+"/"+homeProfiles+"/home-manager-1-link", "home-manager")
		}, want: fleet.ReasonHomeUnusable, says: "on and on"},
		"a pipe for a directory": {make: func(w *world) {
			if err := unix.Mkfifo(filepath.Join(w.root, annHome, ".local"), 0o600); err != nil {
				w.t.Fatal(err)
			}
		}, want: fleet.ReasonHomeUnusable, says: "can't be told"},
		"a file for a link": {make: func(w *world) { w.text(annHome+"/"+homeCurrent, homeOld) }, want: fleet.ReasonHomeUnusable, says: "can't be told"},
	} {
		t.Run(name, func(t *testing.T) {
			w, d := newHome(t)
			if tt.make != nil {
				tt.make(w)
			}
			if tt.profile == "" {
				tt.profile = ann
			}
			connected, stop, err := driver.InProcess(d)
			if err != nil {
				t.Fatal(err)
			}
			defer stop() //nolint:errcheck // It is over.
			r, err := driver.HindranceOf(t.Context(), connected, tt.profile)
			if err != nil || r.Code != tt.want || !strings.Contains(r.Message, tt.says) || (r.Hint == "") != (tt.want == "") {
				t.Errorf("got %+v, %v", r, err)
			}
			// It is the host's, so that nothing is remembered against a generation.
			_, err = d.Activation(t.Context(), tt.profile, "", homeNew)
			if (tt.want != "") != errors.Is(err, errHindered) || errors.Is(err, driver.ErrSource) {
				t.Errorf("activation: %v", err)
			}
			if path, err := d.Current(t.Context(), tt.profile); path != "" || err != nil {
				t.Errorf("runs %q, %v", path, err)
			}
		})
	}
}

func (w *world) gone(name string) {
	w.t.Helper()
	if err := os.RemoveAll(filepath.Join(w.root, name)); err != nil {
		w.t.Fatal(err)
	}
}

// TestHomeOfAnother: a home that is another user's is not touched.
func TestHomeOfAnother(t *testing.T) {
	_, d := newHome(t)
	lookup := d.config.Lookup
	d.config.Lookup = func(name string) (*user.User, error) {
		u, err := lookup(name)
		if err == nil {
			u.Uid = strconv.Itoa(os.Getuid() + 1)
		}
		return u, err
	}
	r, err := d.Hindrance(t.Context(), ann)
	if err != nil || r.Code != fleet.ReasonHomeUnusable || !strings.Contains(r.Message, "belongs to") {
		t.Errorf("%+v, %v", r, err)
	}
	for _, home := range []string{"", "/", "home/ann", "/home/../etc"} {
		d.config.Lookup = func(name string) (*user.User, error) {
			return &user.User{Uid: "0", Username: name, HomeDir: home}, nil
		}
		if r, err := d.Hindrance(t.Context(), ann); err != nil || r.Code != fleet.ReasonHomeUnusable {
			t.Errorf("home %q: %+v, %v", home, r, err)
		}
	}
}

// TestHomeThatNeverAnswers: it holds nobody for long, and one look at it is enough.
func TestHomeThatNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d := newHome(t)
		goOn, began := make(chan struct{}), atomic.Int32{}
		d.looks.read = func(a account) (homeState, error) {
			began.Add(1)
			<-goOn
			return d.read(a)
		}
		start := time.Now()
		for range 3 {
			r, err := d.Hindrance(t.Context(), ann)
			if err != nil || r.Code != fleet.ReasonHomeUnusable || !strings.Contains(r.Message, "does not answer") {
				t.Errorf("%+v, %v", r, err)
			}
		}
		if took := time.Since(start); took != 3*homeTimeout || began.Load() != 1 {
			t.Errorf("took %s, with %d looks", took, began.Load())
		}
		close(goOn)
		synctest.Wait()
		if r, err := d.Hindrance(t.Context(), ann); err != nil || r.Code != "" || began.Load() != 2 {
			t.Errorf("%+v, %v, with %d looks", r, err, began.Load())
		}
	})
}
