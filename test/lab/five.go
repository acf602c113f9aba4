//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/test/lab/booted"
)

// The five hosts of a fleet: the coordinator's, with an agent too, and four others.
const (
	cinnabar, electrum, galena, scheelite, magnetite = "cinnabar", "electrum", "galena", "scheelite", "magnetite"

	// witnessPort is where the agents answer each other.
	witnessPort = "7444"
	// fivePolicy has the deadlines that the figures of the table are measured against.
	fivePolicy = "{verifyDeadline: 20s, activationDeadline: 60s}"
)

// five is the world of five hosts.
type five struct {
	*world
	hosts map[string]*booted.Host
	// seq numbers the bundles of all hosts.
	seq int
	// good is the bundle that each host runs.
	good map[string]string
}

// names are those of all five hosts, the coordinator's first.
func (f *five) names() []string {
	return []string{cinnabar, electrum, galena, scheelite, magnetite}
}

// setUpFive boots five hosts, enrols all of them, and brings each its first generation.
func setUpFive(ctx context.Context, w *world) error {
	f := &five{world: w, hosts: map[string]*booted.Host{}, good: map[string]string{}}
	w.five = f
	programs := booted.Share{From: filepath.Join(w.lab.Dir(), "bin"), At: booted.Programs, ReadOnly: true}
	if err := w.copyPrograms(); err != nil {
		return err
	}
	for _, name := range f.names() {
		kept := []string{"/var/lib/fleet"}
		if name == cinnabar {
			kept = append(kept, "/var/lib/private", repo)
		}
		h, err := w.lab.AddHost(ctx, booted.Spec{Name: name, Kept: kept, PowerLoss: name == magnetite, Shared: []booted.Share{programs}})
		if err != nil {
			return err
		}
		if err := h.Write("/etc/hostname", name+"\n", 0o644); err != nil {
			return err
		}
		f.hosts[name] = h
	}
	w.ops, w.web = f.hosts[cinnabar], f.hosts[electrum]
	eg, ectx := errgroup.WithContext(ctx)
	for _, h := range f.hosts {
		eg.Go(func() error { return h.Boot(ectx) })
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	if err := w.foundAt(ctx, cinnabar, f.file); err != nil {
		return err
	}
	for _, name := range f.names() {
		if err := f.enrol(ctx, name); err != nil {
			return fmt.Errorf("enrolling %s: %w", name, err)
		}
	}
	return f.becomeGood(ctx, f.names()...)
}

// file writes the fleet's file: a bundle for each host, and each a witness for the others.
func (f *five) file(ctx context.Context) error {
	var machines, settings strings.Builder
	for _, name := range f.names() {
		fmt.Fprintf(&machines, "  %s: {class: linux}\n", name)
		fmt.Fprintf(&settings, "    %s: {source: {bundle: ./bundles/%s}, witness: \"[%s]:%s\"}\n", name, name, f.hosts[name].Address, witnessPort)
	}
	text := fmt.Sprintf(`fleet: lab
coordinator: {machine: %s, address: "%s"}
operators: {me: {role: admin}}
machines:
%ssettings:
  all: {policy: %s}
  machine:
%s`, cinnabar, f.address(), machines.String(), fivePolicy, settings.String())
	_, err := f.ops.Input(ctx, text, "sh", "-euc", "cat >"+repo+"/fleet.yaml")
	return err
}

func (f *five) enrol(ctx context.Context, name string) error {
	join, err := f.fleetctl(ctx, "token", name)
	if err != nil {
		return err
	}
	_, err = f.hosts[name].Input(ctx, join, "fleet-agent", "install", "--force", "--join-file", "-")
	return err
}

// activations is where each bundle notes that it was activated.
const activations = "/var/lib/lab-activations"

// mend takes away what the bundle before did to the network of its host: going back to a
// bundle is activating it.
const mend = "for pref in " + prefMute + " " + prefPort + "; do ip -6 rule del pref $pref 2>/dev/null || :; done"

// mends is mend, with what takes away what is in front of the coordinator, and brings its
// name back.
func (f *five) mends() string {
	return mend + `
systemctl stop ` + frontUnit + ` 2>/dev/null || :
if [ -e ` + insideDropIn + ` ]; then rm ` + insideDropIn + `; systemctl daemon-reload; systemctl restart fleet-coordinator; fi
ip -6 addr del ` + f.ops.Address + `/128 dev lo 2>/dev/null || :
grep -qs ` + coordinatorName + ` /etc/hosts || echo ` + f.ops.Address + " " + coordinatorName + ` >>/etc/hosts`
}

// bundle writes the next bundle of a host, which does something to it.
func (f *five) bundle(ctx context.Context, name, does string) (version string, err error) {
	f.seq++
	version = fmt.Sprintf("%s-%d", name, f.seq)
	files := map[string]string{
		"activate": "#!/bin/sh\nset -eu\necho " + version + " >>" + activations + "\n" + f.mends() + "\n" + does + "\necho " + version + " >/var/lib/lab-runs\n",
		"check":    "#!/bin/sh\n[ \"$(cat /var/lib/lab-runs)\" = " + version + " ]\n",
	}
	for file, text := range files {
		at := repo + "/bundles/" + name
		if _, err := f.ops.Input(ctx, text, "sh", "-euc", "mkdir -p "+at+"; cat >"+at+"/"+file+"; chmod 0755 "+at+"/"+file); err != nil {
			return "", err
		}
	}
	return version, nil
}

// release publishes to hosts, and returns the number that each was given.
func (f *five) release(ctx context.Context, names ...string) (map[string]string, error) {
	out, err := f.fleetctl(ctx, append([]string{"publish", "-o", "json"}, names...)...)
	if err != nil {
		return nil, err
	}
	var r struct {
		Generations []struct {
			Machine string `json:"machine"`
			Number  string `json:"number"`
		} `json:"generations"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Generations) != len(names) {
		return nil, fmt.Errorf("reading what was published: %w: %s", err, out)
	}
	numbers := map[string]string{}
	for _, g := range r.Generations {
		numbers[g.Machine] = g.Number
	}
	return numbers, nil
}

// profileOf is the state of a host's profile system, as the coordinator knows it.
func (f *five) profileOf(ctx context.Context, name string) (profileStatus, error) {
	m, err := f.statusOf(ctx, name)
	switch {
	case err != nil:
		return profileStatus{}, err
	case !m.Connected || len(m.Profiles) == 0:
		return profileStatus{}, errors.New(name + " is not connected")
	}
	return m.Profiles[0], nil
}

// comesTo waits until a generation is desired of a host and in a state, and the host
// connected.
func (f *five) comesTo(ctx context.Context, name, number, state string) (p profileStatus, err error) {
	err = wait(ctx, settleTimeout, func() error {
		if p, err = f.profileOf(ctx, name); err != nil {
			return err
		}
		if !p.of(number, state) {
			return fmt.Errorf("%s is %s", name, p)
		}
		return nil
	})
	return p, err
}

// runs checks what a host runs, and that no bundle was activated there more than so often.
func (f *five) runs(ctx context.Context, name, version string, times int) error {
	_, err := f.hosts[name].Shell(ctx, fmt.Sprintf(`[ "$(cat /var/lib/lab-runs)" = %[1]s ] || { cat /var/lib/lab-runs >&2; exit 1; }
[ "$(grep -cx %[1]s %[2]s)" -le %[3]d ] || { cat %[2]s >&2; exit 1; }`, version, activations, times))
	if err != nil {
		err = fmt.Errorf("%s does not run %s, or it was activated more than %d times: %w", name, version, times, err)
	}
	return err
}

// isGood waits until a host has confirmed a release that it activated once.
func (f *five) isGood(ctx context.Context, name, number, version string) error {
	p, err := f.comesTo(ctx, name, number, "confirmed")
	if err != nil {
		return err
	}
	if p.Reason.Code != "up-to-date" {
		return fmt.Errorf("%s is %s", name, p)
	}
	f.good[name] = version
	return f.runs(ctx, name, version, 1)
}

// becomeGood brings hosts a release that works.
func (f *five) becomeGood(ctx context.Context, names ...string) error {
	versions := map[string]string{}
	for _, name := range names {
		version, err := f.bundle(ctx, name, "")
		if err != nil {
			return err
		}
		versions[name] = version
	}
	numbers, err := f.release(ctx, names...)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := f.isGood(ctx, name, numbers[name], versions[name]); err != nil {
			return err
		}
	}
	return nil
}

// isBack waits until a host is back at what was good, and the release was activated once
// and is refused for that reason.
func (f *five) isBack(ctx context.Context, name, number, version, code string, words ...string) error {
	return f.isBackAfter(ctx, name, number, version, 2, code, words...)
}

// isBackAfter is isBack where what was good may have been activated more often than there
// and back.
func (f *five) isBackAfter(ctx context.Context, name, number, version string, times int, code string, words ...string) error {
	p, err := f.comesTo(ctx, name, number, "rolled-back")
	if err != nil {
		return err
	}
	// Where the way back did not prove to work at first, that comes before it.
	if err := wait(ctx, settleTimeout, func() error {
		if p, err = f.profileOf(ctx, name); err == nil && (p.Reason.Code != code || !slices.Contains(p.Refused, ref{number})) {
			err = fmt.Errorf("want %s, and that %s is refused: %s", code, number, p)
		}
		return err
	}); err != nil {
		return err
	}
	if err := says(p.Reason.Message, words...); err != nil {
		return err
	}
	if err := f.runs(ctx, name, f.good[name], times); err != nil {
		return err
	}
	if _, err := f.hosts[name].Shell(ctx, fmt.Sprintf("[ \"$(grep -cx %s %s)\" = 1 ]", version, activations)); err != nil {
		return fmt.Errorf("%s was not activated once: %w", version, err)
	}
	return nil
}

// othersRest checks that all but one are connected, and as they were.
func (f *five) othersRest(ctx context.Context, but string) error {
	return wait(ctx, settleTimeout, func() error {
		for _, name := range f.names() {
			if name == but {
				continue
			}
			p, err := f.profileOf(ctx, name)
			if err != nil {
				return err
			}
			if p.State != "confirmed" || p.Reason.Code != "up-to-date" {
				return fmt.Errorf("%s is %s", name, p)
			}
			if err := f.runs(ctx, name, f.good[name], 2); err != nil {
				return err
			}
		}
		return nil
	})
}

// midway publishes a bundle that waits in the midst of its activation, has something
// happen, and lets it go on.
func (f *five) midway(ctx context.Context, name string, happens func() error) (number, version string, err error) {
	if version, err = f.bundle(ctx, name, "touch /run/lab-midway; while [ -e /run/lab-midway ]; do sleep 0.1; done"); err != nil {
		return "", "", err
	}
	numbers, err := f.release(ctx, name)
	if err != nil {
		return "", "", err
	}
	h := f.hosts[name]
	if err := wait(ctx, settleTimeout, func() error {
		_, err := h.Run(ctx, "test", "-e", "/run/lab-midway")
		return err
	}); err != nil {
		return "", "", err
	}
	if err := happens(); err != nil {
		return "", "", err
	}
	_, err = h.Run(ctx, "rm", "/run/lab-midway")
	return numbers[name], version, err
}

// healthyWithin notes how long a host took to be well, for the table, and bounds it.
func (w *world) healthyWithin(began time.Time, bound time.Duration) error {
	if w.healthy = time.Since(began); w.healthy > bound {
		return fmt.Errorf("healthy after %.1f s, want %s at most", w.healthy.Seconds(), bound)
	}
	return nil
}
