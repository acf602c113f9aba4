package agent

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// bootable is a host each of whose generations needs a boot. The test plays its boot
// loader and its kernel.
type bootable struct {
	*host
	dir     string
	reboots chan struct{}

	mu     sync.Mutex
	link   driver.Link // what a boot of the newest one would do
	booted string
	boots  int
}

// booting is its driver.
type booting struct {
	*bundledriver.Driver
	b *bootable
}

func (d booting) Boot(ctx context.Context, p fleet.ProfileName, from, to string) (driver.Boot, error) {
	way, err := d.Activation(ctx, p, from, to)
	if err != nil {
		return driver.Boot{}, err //nolint:wrapcheck // A test's.
	}
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	d.b.link = *way.Activate.Steps[0].Link
	boot := driver.Boot{Activation: way, Parts: []string{"kernel"}}
	boot.Activate.Steps = []driver.Step{{Link: &driver.Link{Path: filepath.Join(d.b.dir, "next"), Target: to}}}
	return boot, nil
}

// RebootNeeded says so of what was not booted.
func (d booting) RebootNeeded(ctx context.Context, p fleet.ProfileName) ([]string, error) {
	path, err := d.Current(ctx, p)
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	if err != nil || path == d.b.booted {
		return nil, err //nolint:wrapcheck // A test's.
	}
	return []string{"kernel"}, nil
}

func newBootable(t *testing.T) *bootable {
	t.Helper()
	b := &bootable{host: newHost(t), dir: t.TempDir(), reboots: make(chan struct{}, 10)}
	b.wrap = func(d *bundledriver.Driver) driver.Driver { return booting{d, b} }
	b.config.BootID = "boot-0"
	b.config.Reboot = func(context.Context) error {
		b.reboots <- struct{}{}
		return nil
	}
	b.start()
	b.confirmed(1, "one")
	b.runs(b.current())
	return b
}

// current is the path that the agent's journal has.
func (b *bootable) current() string {
	st := b.agent.journal.State()
	return st.Profile(fleet.System).Current.Path
}

// runs has the host be booted with what is at path.
func (b *bootable) runs(path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.booted = path
}

// reboot waits until the agent has the host rebooted, and boots it: with the newest
// generation, whose service answers so, or with what ran before where that is empty.
func (b *bootable) reboot(answers string) {
	b.t.Helper()
	<-b.reboots
	b.crash()
	b.mu.Lock()
	b.boots++
	b.config.BootID = strings.Repeat("x", b.boots)
	link := b.link
	b.mu.Unlock()
	if answers != "" {
		if err := os.Remove(link.Path); err != nil {
			b.t.Fatal(err)
		}
		if err := os.Symlink(link.Target, link.Path); err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(b.serving(), []byte(answers), 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	path, err := os.Readlink(link.Path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.runs(path)
	b.start()
}

func reboot(p fleet.RebootPolicy) func(*fleet.Generation) {
	return func(g *fleet.Generation) { g.Policy.Reboot = p }
}

// never runs: what is booted is not switched to.
const neverRuns = "exit 1"

// TestBooted: the host reboots itself once, and what it comes up with is verified.
func TestBooted(t *testing.T) {
	b := newBootable(t)
	second := b.publish(2, "two", neverRuns, reboot(fleet.RebootAuto))
	b.reboot("two")
	b.coord.WaitState(fleet.StateConfirmed, second)
	if n := count(b.host, fleet.StateActivating, second); n != 1 || len(b.reboots) > 0 {
		t.Errorf("activated %d times, and %d more reboots", n, len(b.reboots))
	}
	waitProfile(t, b.host, "one that is up to date", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonUpToDate })
}

// TestBootFails: a host that comes up with what it had says so, and does not try again.
func TestBootFails(t *testing.T) {
	b := newBootable(t)
	b.publish(2, "two", neverRuns, reboot(fleet.RebootAuto))
	b.reboot("")
	p := waitLocal(t, b.host, fleet.StateRolledBack)
	if p.Reason.Code != fleet.ReasonBootFailed || p.Current.Number.Seq != 1 || len(b.reboots) > 0 {
		t.Errorf("status says %+v, %d more reboots", p, len(b.reboots))
	}
	b.expectServing("one")
}

// TestBootedIsBad: what came up and does not work is taken back, and the host booted once
// more, with what it had.
func TestBootedIsBad(t *testing.T) {
	b := newBootable(t)
	b.publish(2, "two", neverRuns, reboot(fleet.RebootAuto), func(g *fleet.Generation) {
		g.Probes = []fleet.Probe{{Name: "no", Kind: fleet.ProbeExec, Argv: []string{"/bin/sh", "-c", "exit 1"}}}
	})
	b.reboot("two")
	b.reboot("")
	p := waitLocal(t, b.host, fleet.StateRolledBack)
	if p.Reason.Code != fleet.ReasonProbeFailed || p.Current.Number.Seq != 1 || len(b.reboots) > 0 {
		t.Errorf("status says %+v, %d more reboots", p, len(b.reboots))
	}
	b.expectServing("one")
}

// TestBootAsks: a person at the machine decides when; what does not wait for that is said.
func TestBootAsks(t *testing.T) {
	b := newBootable(t)
	if _, err := b.client().Boot(t.Context(), fleet.System); err == nil || !strings.Contains(err.Error(), "nothing waits") {
		t.Errorf("got %v", err)
	}
	second := b.publish(2, "two", neverRuns, reboot(fleet.RebootAsk))
	p := waitLocal(t, b.host, fleet.StateHeld)
	if p.Reason.Code != fleet.ReasonRebootAsk || !strings.Contains(p.Reason.Message, "kernel") {
		t.Errorf("status says %+v", p)
	}
	// Also after a restart: a word from before counts no more.
	b.crash()
	b.start()
	waitLocal(t, b.host, fleet.StateHeld)
	if len(b.reboots) > 0 {
		t.Fatal("it was rebooted")
	}
	got, err := b.client().Boot(t.Context(), fleet.System)
	if err != nil || got != second {
		t.Fatalf("%v, %v", got, err)
	}
	b.reboot("two")
	b.coord.WaitState(fleet.StateConfirmed, second)
}

// TestRebootIsAskedAgain: an agent that is ended when it was about to have the host rebooted
// leaves that to the next one, so often.
func TestRebootIsAskedAgain(t *testing.T) {
	for asks := 1; asks <= maxRebootAsks; asks++ {
		t.Run(strconv.Itoa(asks), func(t *testing.T) {
			b := newBootable(t)
			b.publish(2, "two", neverRuns, reboot(fleet.RebootAuto), func(g *fleet.Generation) {
				g.Probes = []fleet.Probe{{Name: "no", Kind: fleet.ProbeExec, Argv: []string{"/bin/sh", "-c", "exit 1"}}}
			})
			b.reboot("two")
			for range asks - 1 {
				<-b.reboots
				b.crash()
				b.start()
			}
			if asks < maxRebootAsks {
				b.reboot("")
			} else {
				<-b.reboots // Nobody does it.
				b.crash()
				b.start()
			}
			waitProfile(t, b.host, "rolled back", func(p control.Profile) bool { return p.State == fleet.StateRolledBack })
			if len(b.reboots) > 0 {
				t.Error("it asks once more")
			}
		})
	}
}

// TestBootLostBefore: an intent from before a boot is not carried out after it.
func TestBootLostBefore(t *testing.T) {
	b := newBootable(t)
	second := b.publish(2, "two", neverRuns, reboot(fleet.RebootAuto))
	<-b.reboots // It asks, and nobody does it.
	b.crash()
	// As if the run had never begun.
	runs, err := filepath.Glob(filepath.Join(b.config.StateDir, runsDir, "*-1.2-*-activate"))
	if err != nil || len(runs) != 1 {
		t.Fatalf("%v, %v", runs, err)
	}
	if err := os.RemoveAll(runs[0]); err != nil {
		t.Fatal(err)
	}
	b.config.BootID = "another"
	b.start()
	b.reboot("two") // After another intent.
	b.coord.WaitState(fleet.StateConfirmed, second)
	if n := count(b.host, fleet.StateActivating, second); n != 2 {
		t.Errorf("activated %d times", n)
	}
}

// TestBootWithSecrets: what has other secrets is switched to: they change before a boot.
func TestBootWithSecrets(t *testing.T) {
	b := newBootable(t)
	st := b.agent.journal.State()
	ps := st.Profile(fleet.System)
	to := ps.Current
	to.Ref, to.Path, to.Secrets = fleet.Ref{Number: fleet.Number{Epoch: 1, Seq: 2}}, ps.Current.Path+"x", "/other"
	w := b.agent.worker(fleet.System)
	boot, err := w.bootFor(t.Context(), route{from: ps.Current, to: to, back: ps.Current}, fleet.Policy{Reboot: fleet.RebootAuto})
	if boot != nil || err == nil && !strings.Contains(w.whyNotBooted(), "secrets") {
		t.Errorf("%+v, %v, because of %q", boot, err, w.whyNotBooted())
	}
}

// TestBootNever: by default it is switched to, and what is left for a boot is said.
func TestBootNever(t *testing.T) {
	b := newBootable(t)
	b.confirmed(2, "two")
	waitProfile(t, b.host, "one that needs a reboot", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonRebootNeeded })
	if len(b.reboots) > 0 {
		t.Error("it was rebooted")
	}
}
