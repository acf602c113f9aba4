//go:build linux

package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/test/lab/booted"
)

// Names in the lab's fleet.
const (
	opsName = "ops"
	webName = "web1"
	repo    = "/srv/fleet"
)

// nixConf is for a Nix without build users, without a sandbox, and without
// anything to ask on the network.
const nixConf = `experimental-features = nix-command flakes
build-users-group =
sandbox = false
substituters =
`

// activateUnit is the part of booting that NixOS's first stages do: it makes
// the default boot entry's system run. In a machine a real loader and the system's init
// do.
const activateUnit = `[Unit]
Description=system of the default boot entry
ConditionPathExists=/boot/loader/default
ConditionVirtualization=container
Before=fleet-agent.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-boot

[Install]
WantedBy=multi-user.target
`

// bootLoader is the part of booting that a boot loader does: what is to be booted once,
// or by default.
const bootLoader = `#!/bin/sh
set -eu
system=$(cat /boot/loader/default)
if [ -e /boot/loader/oneshot ]; then
	entry=/boot/loader/entries/$(cat /boot/loader/oneshot)
	rm /boot/loader/oneshot
	sync -f /boot/loader
	system=$(sed -n 's,^options init=\([^ ]*\)/init .*,\1,p' "$entry")
fi
exec "$system/bin/switch-to-configuration" at-boot
`

// world is a fleet on booted hosts: an operator's with the coordinator, and one
// with an agent.
type world struct {
	lab      *booted.Lab
	bin      string
	kept     string // directory of logs that are kept
	cached   string // directory of what other runs have too
	log      func(format string, args ...any)
	ops, web *booted.Host
	// good is what the agent's host runs, once it runs a system.
	good system
	// versions counts releases, so that each is another one.
	versions int
	// booted is the name of the kernel that runs, where kernels have names.
	booted string
	// agentUnit is the agent's unit where systems bring it.
	agentUnit string
	// healthy is how long a host took to be well again after what a scenario did to it,
	// where that measures it.
	healthy time.Duration
	// five is the world of five hosts, where that is set up.
	five *five
	// machine is the directory of what the agent's host is booted with where it is to
	// become a machine, of booted.Parts.
	machine string
	// given says that the hosts have units that others brought, so that the programs
	// install none.
	given bool
}

// hosts of a world.
type hosts struct {
	// powerLoss puts what must survive on disks that can lose power.
	powerLoss bool
	// crashPoints has an agent that kills itself where it is told to.
	crashPoints bool
}

func (w *world) boot(ctx context.Context, o hosts) error {
	bin, flake := filepath.Join(w.lab.Dir(), "bin"), filepath.Join(w.lab.Dir(), "flake")
	if err := os.MkdirAll(flake, 0o755); err != nil {
		return err
	}
	if err := w.copyPrograms(); err != nil {
		return err
	}
	if o.crashPoints {
		if err := w.compile(ctx, "fleet-agent", "./cmd/fleet-agent", "build", "-tags", "grpcnotrace,nethttpomithttp2,crashpoints", "-trimpath"); err != nil {
			return err
		}
	}
	programs := booted.Share{From: bin, At: booted.Programs, ReadOnly: true}
	var err error
	if w.ops, err = w.lab.AddHost(ctx, booted.Spec{
		Name: opsName, Kept: []string{"/var/lib/private", repo}, PowerLoss: o.powerLoss,
		Shared: []booted.Share{programs, {From: flake, At: flakeDir}},
	}); err != nil {
		return err
	}
	shared := []booted.Share{programs, {From: flake, At: flakeDir, ReadOnly: true}}
	if w.machine != "" {
		shared = append(shared, booted.Share{From: w.machine, At: machineParts, ReadOnly: true})
	}
	if w.web, err = w.lab.AddHost(ctx, booted.Spec{
		Name: webName, Kept: []string{"/var/lib/fleet", "/nix", "/boot"}, PowerLoss: o.powerLoss, Shared: shared,
	}); err != nil {
		return err
	}
	if err := w.configure(); err != nil {
		return err
	}
	eg, ectx := errgroup.WithContext(ctx)
	eg.Go(func() error { return w.ops.Boot(ectx) })
	eg.Go(func() error { return w.web.Boot(ectx) })
	return eg.Wait()
}

// copyPrograms puts the programs where the hosts have them.
func (w *world) copyPrograms() error {
	for _, program := range []string{"fleet-agent", "fleet-coordinator", "fleetctl"} {
		if err := copyFile(filepath.Join(w.bin, program), filepath.Join(w.lab.Dir(), "bin", program), 0o755); err != nil {
			return fmt.Errorf("%w; run make build first", err)
		}
	}
	return nil
}

// configure writes what an installation of the hosts would have written.
func (w *world) configure() error {
	var errs []error
	for _, h := range []*booted.Host{w.ops, w.web} {
		errs = append(errs,
			h.Write("/etc/nix/nix.conf", nixConf, 0o644), h.Write("/etc/hostname", h.Name+"\n", 0o644), h.Write("/etc/NIXOS", "", 0o644))
	}
	wants := w.web.Path("/etc/systemd/system/multi-user.target.wants")
	return errors.Join(append(errs,
		w.web.Write("/etc/systemd/system/lab-activate.service", activateUnit, 0o644),
		w.web.Write("/usr/local/sbin/lab-boot", bootLoader, 0o755),
		os.MkdirAll(wants, 0o755), os.Symlink("../lab-activate.service", filepath.Join(wants, "lab-activate.service")),
		w.web.Write("/etc/systemd/system/lab.target", "[Unit]\nDescription=what a switch starts again\n", 0o644))...)
}

func copyFile(from, to string, perm os.FileMode) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, b, perm)
}

// address of the coordinator.
func (w *world) address() string { return "[" + w.ops.Address + "]:7443" }

// fleetctl runs fleetctl where the operator is.
func (w *world) fleetctl(ctx context.Context, args ...string) (string, error) {
	return w.ops.Run(ctx, append([]string{"env", "FLEET_DIR=" + repo, "fleetctl"}, args...)...)
}

// found makes the fleet and starts its coordinator.
func (w *world) found(ctx context.Context) error {
	return w.foundAt(ctx, opsName, func(ctx context.Context) error { return w.fleetFile(ctx, bundleSource, patient) })
}

// foundAt is found for a coordinator on that machine, and a fleet's file of one's own.
func (w *world) foundAt(ctx context.Context, machine string, file func(context.Context) error) error {
	if _, err := w.ops.Run(ctx, "fleetctl", "init", repo, "--fleet", "lab", "--operator", "me",
		"--coordinator-machine", machine, "--address", w.address()); err != nil {
		return err
	}
	if err := file(ctx); err != nil {
		return err
	}
	_, err := w.ops.Shell(ctx, `
install -D -m 0600 `+repo+`/trust/coordinator-kit.age /etc/fleet/coordinator-kit.age
install -D -m 0600 `+repo+`/trust/coordinator.agekey /etc/fleet/coordinator-kit.key
`+w.begin("fleet-coordinator", ""))
	if err != nil {
		return err
	}
	return wait(ctx, settleTimeout, func() error {
		_, err := w.fleetctl(ctx, "status")
		return err
	})
}

// begin has a program be a service. The hosts pass for NixOS and are none: --force.
func (w *world) begin(program, flags string) string {
	if !w.given {
		return program + " install --force " + flags
	}
	script := "systemctl enable -q --now " + program
	if program == "fleet-agent" {
		script = "umask 077; mkdir -p /etc/fleet; cat >/etc/fleet/join; " + script
	}
	return script
}

// enrol makes the agent a service, which enrols with a join string.
func (w *world) enrol(ctx context.Context) error {
	join, err := w.fleetctl(ctx, "token", webName)
	if err != nil {
		return err
	}
	if _, err := w.web.Input(ctx, join, "sh", "-euc", w.begin("fleet-agent", "--join-file -")); err != nil {
		return err
	}
	return wait(ctx, settleTimeout, func() error {
		m, err := w.status(ctx)
		if err == nil && !m.Connected {
			return errors.New("the agent is not connected")
		}
		return err
	})
}

// Sources of the fleet's file.
const (
	bundleSource = "{bundle: ./bundle}"
	nixosSource  = `{flake: "git+file://` + flakeDir + `"}`
	// pinnedSource is built where it is published, and its closure is pinned.
	pinnedSource = `{flake: "git+file://` + flakeDir + `", build: true}`
)

// patient is a policy for a machine that may be busy with other things: its
// deadlines are no part of what a scenario shows. hasty is for what hangs.
const (
	patient = "{verifyDeadline: 60s, activationDeadline: 60s}"
	hasty   = "{verifyDeadline: 10s, activationDeadline: 10s}"
)

// fleetFile writes fleet.yaml with this source and policy for the agent's host.
func (w *world) fleetFile(ctx context.Context, source, policy string) error {
	text := fmt.Sprintf(`fleet: lab
coordinator: {machine: %s, address: "%s"}
operators: {me: {role: admin}}
machines:
  %s: {class: linux}
  %s: {class: nixos}
settings:
  machine:
    %s:
      source: %s
      policy: %s
`, opsName, w.address(), opsName, webName, webName, source, policy)
	_, err := w.ops.Input(ctx, text, "sh", "-euc", "cat >"+repo+"/fleet.yaml; sync "+repo+"/fleet.yaml "+repo)
	return err
}

// machineStatus is what "fleetctl status" says of the agent's host, as far as
// the lab looks.
type machineStatus struct {
	Machine      string          `json:"machine"`
	Connected    bool            `json:"connected"`
	AgentVersion string          `json:"agent_version"`
	Profiles     []profileStatus `json:"profiles"`
}

type profileStatus struct {
	Profile string `json:"profile"`
	State   string `json:"state"`
	Reason  struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"reason"`
	Desired   ref   `json:"desired"`
	Current   ref   `json:"current"`
	Confirmed ref   `json:"confirmed"`
	LastGood  ref   `json:"last_good"`
	Highest   ref   `json:"highest"`
	Refused   []ref `json:"refused"`
}

type ref struct {
	Number string `json:"number"`
}

func (p profileStatus) String() string {
	return fmt.Sprintf("%s, desired %s, current %s, confirmed %s, refused %v: %s (%s)",
		p.State, p.Desired.Number, p.Current.Number, p.Confirmed.Number, p.Refused, p.Reason.Message, p.Reason.Code)
}

// of says that a profile is in a state about a generation. One that has just heard of
// it is confirmed still, of what it runs.
func (p profileStatus) of(number, state string) bool {
	return p.Desired.Number == number && p.State == state && (state != "confirmed" || p.Current.Number == number)
}

func (w *world) status(ctx context.Context) (machineStatus, error) { return w.statusOf(ctx, webName) }

// statusOf is what "fleetctl status" says of a host.
func (w *world) statusOf(ctx context.Context, name string) (machineStatus, error) {
	out, err := w.fleetctl(ctx, "status", name, "-o", "json")
	if err != nil {
		return machineStatus{}, err
	}
	var s struct {
		Machines []machineStatus `json:"machines"`
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil || len(s.Machines) != 1 {
		return machineStatus{}, fmt.Errorf("reading status: %w: %s", err, out)
	}
	return s.Machines[0], nil
}

// profile is the state of a profile.
func (w *world) profile(ctx context.Context, name string) (profileStatus, error) {
	m, err := w.status(ctx)
	if err != nil {
		return profileStatus{}, err
	}
	for _, p := range m.Profiles {
		if p.Profile == name {
			return p, nil
		}
	}
	return profileStatus{}, fmt.Errorf("the host has reported no profile %s", name)
}

// publish publishes and returns the number of the system's generation, which is the
// only one.
func (w *world) publish(ctx context.Context) (string, error) {
	numbers, err := w.publishAll(ctx)
	if err == nil && (len(numbers) != 1 || numbers[systemProfile] == "") {
		err = fmt.Errorf("published %v", numbers)
	}
	return numbers[systemProfile], err
}

// publishAll publishes and returns the generations' numbers by profile.
func (w *world) publishAll(ctx context.Context) (map[string]string, error) {
	out, err := w.fleetctl(ctx, "publish", webName, "-o", "json")
	if err != nil {
		return nil, err
	}
	var r struct {
		Generations []struct {
			Profile string `json:"profile"`
			Number  string `json:"number"`
		} `json:"generations"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return nil, fmt.Errorf("reading what was published: %w: %s", err, out)
	}
	numbers := map[string]string{}
	for _, g := range r.Generations {
		numbers[g.Profile] = g.Number
	}
	return numbers, nil
}

// systemProfile is what every machine has.
const systemProfile = "system"

// until waits until the profile system is as check wants it.
func (w *world) until(ctx context.Context, bound time.Duration, check func(profileStatus) bool) (profileStatus, error) {
	return w.untilOf(ctx, systemProfile, bound, check)
}

func (w *world) untilOf(ctx context.Context, profile string, bound time.Duration, check func(profileStatus) bool) (profileStatus, error) {
	return w.untilAfter(ctx, profile, bound, func() error { return nil }, check)
}

// untilAsked is untilOf with somebody at the host who asks how it is, each time: it looks
// then, and not only once a minute, at what a person did, and at what keeps it waiting.
func (w *world) untilAsked(ctx context.Context, profile string, bound time.Duration, check func(profileStatus) bool) (profileStatus, error) {
	return w.untilAfter(ctx, profile, bound, func() error {
		_, err := w.web.Run(ctx, "fleet-agent", "status")
		return err
	}, check)
}

// untilAfter does something and looks at a profile, until check says so of it.
func (w *world) untilAfter(ctx context.Context, profile string, bound time.Duration, do func() error, check func(profileStatus) bool) (profileStatus, error) {
	var p profileStatus
	err := wait(ctx, bound, func() (err error) {
		if err := do(); err != nil {
			return err
		}
		if p, err = w.profile(ctx, profile); err == nil && !check(p) {
			err = errors.New(p.String())
		}
		return err
	})
	return p, err
}

// settleTimeout bounds what a host takes to get where it should be. It is long,
// because the machine may have other things to do; nothing is shown by it.
const settleTimeout = 100 * time.Second

// settled waits until a generation is desired and in a state.
func (w *world) settled(ctx context.Context, number, state string) (profileStatus, error) {
	p, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.of(number, state) })
	if err != nil {
		err = fmt.Errorf("waiting for %s to be %s: %w", number, state, err)
	}
	return p, err
}

// wait asks check until it says nil, ctx ends, or the bound is reached; then it
// returns check's last answer.
func wait(ctx context.Context, bound time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not in %s: %w", bound, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// keepLogs copies the hosts' journals to where logs are kept, in a directory of
// what they are of, and returns their ends.
func (w *world) keepLogs(of string) (ends string) {
	dir := filepath.Join(w.kept, strings.ReplaceAll(of, "/", ": "))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.log("keeping logs: %v", err)
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, h := range w.lab.Hosts() {
		out, err := h.Shell(ctx, `
journalctl --no-pager -o short-precise || true
for log in /var/lib/fleet/agent/runs/*/log; do [ -e "$log" ] && echo "── $log" && cat "$log"; done
ls -l /nix/var/nix/profiles /run/current-system 2>/dev/null || true
cat /var/log/lab-switches 2>/dev/null || true`)
		if err != nil {
			out += "\n" + err.Error()
		}
		ends += fmt.Sprintf("── the end of %s's log\n%s\n", h.Name, lastLines(out, 40))
		err = os.WriteFile(filepath.Join(dir, h.Name+".log"), []byte(out), 0o600)
		if err = errors.Join(err, copyFile(filepath.Join(w.lab.Logs(), h.Name+".console"), filepath.Join(dir, h.Name+".console"), 0o600)); err != nil {
			w.log("keeping logs: %v", err)
		}
	}
	return ends
}

// lastLines are at most the last n lines of a text.
func lastLines(s string, n int) string {
	l := lines(s)
	return strings.Join(l[max(0, len(l)-n):], "\n")
}

// lines of a text without the last line's end.
func lines(s string) []string {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}
