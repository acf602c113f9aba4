package agent

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// bootedAnew makes the next agent believe that the host booted since, after a
// power loss or in order.
func bootedAnew(t *testing.T, h *host, inOrder bool) {
	t.Helper()
	text := `{"boot_id":"another"}`
	if inOrder {
		text = `{"boot_id":"another","stopped":true}`
	}
	if err := os.WriteFile(filepath.Join(h.config.StateDir, bootFile), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// empty does to a file what a power loss does to one that was never synced.
func empty(t *testing.T, file string) {
	t.Helper()
	if err := os.Chmod(file, 0o700); err != nil { //nolint:gosec // So that it can be changed.
		t.Fatal(err)
	}
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
}

func TestPowerLossIsMended(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	second := h.confirmed(2, "two")
	st := h.agent.journal.State()
	p := st.Profile(fleet.System)
	h.crash()
	for _, path := range []string{p.Current.Path, p.LastGood.Path} {
		empty(t, filepath.Join(path, "version"))
	}
	bootedAnew(t, h, false)
	h.start()
	for _, path := range []string{p.Current.Path, p.LastGood.Path} {
		for limit := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			err := driver.Verify(t.Context(), h.agent.drivers[bundledriver.Name], path)
			if err == nil {
				break
			}
			if time.Now().After(limit) {
				t.Fatalf("not mended: %v", err)
			}
		}
	}
	h.coord.WaitState(fleet.StateConfirmed, second)
	for limit := time.Now().Add(time.Minute); h.agent.suspect.Load(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("still suspect")
		}
	}
	if got := h.says("it was mended"); got.State != fleet.StateConfirmed || !strings.Contains(got.Reason.Message, p.Current.Path) || !strings.Contains(got.Reason.Message, p.LastGood.Path) {
		t.Errorf("status says %+v", got)
	}
	h.crash()
	if data, err := os.ReadFile(filepath.Join(h.config.StateDir, bootFile)); err != nil || string(data) != `{"boot_id":"`+readBootID()+`","stopped":true}`+"\n" {
		t.Errorf("%s, %v", data, err)
	}
	h.start()
	h.confirmed(3, "three")
}

// says waits until status has words about the profile system.
func (h *host) says(words string) control.Profile {
	h.t.Helper()
	return waitProfile(h.t, h, "one that says "+words, func(p control.Profile) bool { return strings.Contains(p.Reason.Message, words) })
}

// lasting is a driver for which what is damaged stays so.
type lasting struct{ *bundledriver.Driver }

func (lasting) Verify(context.Context, string) error { return driver.ErrNotBuilt }

func TestPowerLossThatCannotBeMendedIsSaid(t *testing.T) {
	h := newHost(t)
	h.start()
	first := h.confirmed(1, "one")
	h.crash()
	bootedAnew(t, h, false)
	h.wrap = func(d *bundledriver.Driver) driver.Driver { return lasting{d} }
	h.start()
	got := h.says("can't be mended")
	if got.State != fleet.StateConfirmed || got.Current != first || got.Reason.Code != fleet.ReasonCrashRecovery || got.Reason.Hint == "" {
		t.Errorf("status says %+v", got)
	}
	// It stays no less able to take the next one.
	h.confirmed(2, "two")
}

func TestWhichBootsAreSuspect(t *testing.T) {
	h := newHost(t)
	try := func(want bool) {
		t.Helper()
		a, err := h.open()
		if err != nil {
			t.Fatal(err)
		}
		if got := a.suspect.Load(); got != want {
			t.Errorf("suspect %t, want %t", got, want)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(h.config.StateDir, bootFile)
	try(false) // the first time
	try(false) // the same boot
	bootedAnew(t, h, true)
	try(false)
	bootedAnew(t, h, false)
	try(true)
	try(true) // nobody looked yet
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	try(true) // torn
}

// FuzzBootRecord: whatever is in the file, a boot that did not end in order is
// looked at.
func FuzzBootRecord(f *testing.F) {
	f.Add([]byte(`{"boot_id":"a","stopped":true}`))
	f.Add([]byte(`{"boot_id":"b"}`))
	f.Add([]byte(`{"boot_id":"a","suspect":true`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := parseBoot(data)
		if unclean := r.unclean("a"); !unclean && (r.Suspect || r.BootID != "a" && !r.Stopped) || r.BootID == "" && !r.Stopped && !unclean {
			t.Errorf("%q: %+v", data, r)
		}
		if !json.Valid(data) && !r.unclean("a") {
			t.Errorf("%q passes", data)
		}
	})
}
