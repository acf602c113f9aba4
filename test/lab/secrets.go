//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func secretScenarios() []scenario {
	row := func(name, shows string, run func(context.Context, *five) error) scenario {
		return scenario{name, shows, func(ctx context.Context, w *world) error { return run(ctx, w.five) }}
	}
	return []scenario{
		row("another value for each of five", "it reaches all of them without an activation; the unit that it names is restarted once, and nothing else", rotatedOnFive),
		row("nobody else reads them", "none of the values, as they are, in base64 or in hex, is in what passes between the hosts while others replace them, in the coordinator's memory, its files or its journal; what is looked for as a proof of looking is there", readByNobody),
		row("a boot without a network", "kept in memory, and made anew before services start, those that are needed for users among them; the unit reads the value", secretsBooted),
		row("a revoked value", "the coordinator sends the host back, the host is powered off and boots without a network: it has the new value, and the old one is nowhere", revokedValue),
		row("a revoked system", "neither the coordinator nor a person sends the host back to a generation of before; an activation that fails goes back all the same", revokedSystem),
		row("a value that somebody else can read", "publish stops and names the file; hosts keep what they have", smuggledReader),
	}
}

const (
	// secretsAt is where agents have secrets.
	secretsAt = "/var/lib/fleet/secrets"
	// readerUnit reads the host's token as it starts; bystanderUnit reads nothing.
	readerUnit, bystanderUnit = "lab-reader.service", "lab-bystander.service"
)

// tokenAt is a host's own value, below secretsAt.
func tokenAt(name string) string { return secretsAt + "/vars/per-machine/" + name + "/token/token" }

// hashAt is what is needed before users are made.
const hashAt = secretsAt + "/for-users/vars/shared/login/password-hash"

// setUpSecrets boots five hosts that keep secrets in memory, and have some.
func setUpSecrets(ctx context.Context, w *world) error {
	if err := setUpFive(ctx, w); err != nil {
		return err
	}
	f := w.five
	for _, name := range f.names() {
		h := f.hosts[name]
		for unit, does := range map[string]string{
			readerUnit:    "echo >>/run/" + readerUnit + "; cat " + tokenAt(name) + " >/run/lab-token",
			bystanderUnit: "echo >>/run/" + bystanderUnit,
		} {
			text := "[Unit]\nAfter=fleet-secrets.service\n[Service]\nExecStart=/bin/sh -c '" + does + "; exec sleep infinity'\n[Install]\nWantedBy=multi-user.target\n"
			if _, err := h.Input(ctx, text, "sh", "-euc", "cat >/etc/systemd/system/"+unit+"; systemctl enable -q "+unit); err != nil {
				return err
			}
		}
		if _, err := h.Run(ctx, "fleet-agent", "install", "--force", "--secrets-in", "memory"); err != nil {
			return err
		}
	}
	const declared = `vars:
  generators:
    token: {kind: token, files: {token: {restartUnits: [` + readerUnit + `]}}}
    login: {kind: password, share: true, settings: {hash: yescrypt}, files: {password: {deploy: false}, password-hash: {neededFor: users}}}
`
	if _, err := f.ops.Input(ctx, declared, "sh", "-euc", "cat >>"+repo+"/fleet.yaml"); err != nil {
		return err
	}
	if _, err := f.fleetctl(ctx, "vars", "keygen", "--user", "me"); err != nil {
		return err
	}
	if _, err := f.fleetctl(ctx, "vars", "generate"); err != nil {
		return err
	}
	if err := f.deliver(ctx); err != nil {
		return err
	}
	for _, name := range f.names() {
		// The units count their starts, and are up before they did.
		if _, err := f.hosts[name].Shell(ctx, "systemctl restart "+readerUnit+" "+bystanderUnit+"; until [ -s /run/"+bystanderUnit+" ]; do sleep 0.1; done"); err != nil {
			return err
		}
	}
	return f.haveTokens(ctx)
}

// deliver publishes to all hosts, and waits until they have confirmed it.
func (f *five) deliver(ctx context.Context) error {
	numbers, err := f.release(ctx, f.names()...)
	if err != nil {
		return err
	}
	for _, name := range f.names() {
		if _, err := f.comesTo(ctx, name, numbers[name], "confirmed"); err != nil {
			return err
		}
	}
	return nil
}

// haveTokens checks that each host has its value, and that its unit has read it.
func (f *five) haveTokens(ctx context.Context) error {
	for _, name := range f.names() {
		want, err := f.fleetctl(ctx, "vars", "get", name, "token/token")
		if err != nil {
			return err
		}
		for _, file := range []string{tokenAt(name), "/run/lab-token"} {
			if err := wait(ctx, settleTimeout, func() error {
				got, err := f.hosts[name].Run(ctx, "cat", file)
				if err == nil && strings.TrimSpace(got) != strings.TrimSpace(want) {
					err = fmt.Errorf("%s of %s is not the value", file, name)
				}
				return err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// count is how many lines a file of a host has.
func (f *five) count(ctx context.Context, name, file string) (int, error) {
	out, err := f.hosts[name].Shell(ctx, "wc -l <"+file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// rotate gives each host another value, and checks what that does to it.
func (f *five) rotate(ctx context.Context) error {
	kept := map[string]int{} // What is to grow by so much.
	files := map[string]int{"/run/" + readerUnit: 1, "/run/" + bystanderUnit: 0, activations: 0}
	for _, name := range f.names() {
		for file := range files {
			n, err := f.count(ctx, name, file)
			if err != nil {
				return err
			}
			kept[name+file] = n
		}
	}
	if _, err := f.fleetctl(ctx, "vars", "generate", "--regenerate", "-g", "token"); err != nil {
		return err
	}
	if err := f.deliver(ctx); err != nil {
		return err
	}
	if err := f.haveTokens(ctx); err != nil {
		return err
	}
	for _, name := range f.names() {
		for file, more := range files {
			n, err := f.count(ctx, name, file)
			if err != nil {
				return err
			}
			if n != kept[name+file]+more {
				return fmt.Errorf("%s of %s grew by %d, want %d", file, name, n-kept[name+file], more)
			}
		}
	}
	return nil
}

func rotatedOnFive(ctx context.Context, f *five) error { return f.rotate(ctx) }

// values are all that there are, for whoever must not be found to have them.
func (f *five) values(ctx context.Context) (values []string, err error) {
	for _, name := range f.names() {
		for _, value := range []string{"token/token", "login/password", "login/password-hash"} {
			v, err := f.fleetctl(ctx, "vars", "get", name, value)
			if err != nil {
				return nil, err
			}
			values = append(values, strings.TrimSpace(v))
		}
	}
	return values, nil
}

func readByNobody(ctx context.Context, f *five) (err error) {
	ears, err := f.lab.Listen(f.ops)
	if err != nil {
		return err
	}
	values, err := f.values(ctx)
	if err == nil {
		err = f.rotate(ctx)
	}
	if err == nil {
		// What must be found: else nobody listened.
		_, err = f.hosts[galena].Run(ctx, "bash", "-c", "echo "+heardMark+" >/dev/udp/"+f.ops.Address+"/9")
	}
	streams, cerr := ears.Close()
	if err = errors.Join(err, cerr); err != nil {
		return err
	}
	after, err := f.values(ctx)
	if err != nil {
		return err
	}
	want := newSearch(append(values, after...), heardMark)
	for _, s := range streams {
		want.in("what passed between the hosts", s)
	}
	if err := want.result(); err != nil {
		return err
	}
	return f.coordinatorKnows(ctx, newSearch(append(values, after...), scheelite))
}

// heardMark is sent in clear.
const heardMark = "whoever listens hears this"

// coordinatorKnows searches all that the coordinator has.
func (f *five) coordinatorKnows(ctx context.Context, want *search) error {
	out, err := f.ops.Run(ctx, "systemctl", "show", "-P", "MainPID", "fleet-coordinator")
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return err
	}
	memory, files, journal := want.again(), want.again(), want.again()
	if err := f.ops.Memory(pid, func(piece []byte) { memory.in("the coordinator's memory", piece) }); err != nil {
		return err
	}
	top := f.ops.KeptPath("/var/lib/private/fleet-coordinator")
	err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		files.in(strings.TrimPrefix(path, top), b)
		return err
	})
	if err != nil {
		return err
	}
	log, err := f.ops.Run(ctx, "journalctl", "--no-pager", "-u", "fleet-coordinator")
	if err != nil {
		return err
	}
	journal.in("the coordinator's journal", []byte(log+scheelite))
	return errors.Join(memory.result(), files.result(), journal.result())
}

func secretsBooted(ctx context.Context, f *five) (err error) {
	h := f.hosts[scheelite]
	if err := h.PowerOff(ctx); err != nil {
		return err
	}
	if err := h.Unplug(ctx, true); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Unplug(ctx, false)) }()
	if err := h.Boot(ctx); err != nil {
		return err
	}
	if err := f.haveTokens(ctx); err != nil {
		return err
	}
	out, err := h.Shell(ctx, `findmnt -no FSTYPE `+secretsAt+`.d
stat -c '%U %a' `+hashAt+`
systemctl show -P ActiveState fleet-secrets
[ "$(systemctl show -P ActiveEnterTimestampMonotonic fleet-secrets)" -le "$(systemctl show -P ActiveEnterTimestampMonotonic sysinit.target)" ] && echo early`)
	if err != nil {
		return err
	}
	if got := strings.Fields(out); len(got) != 5 || got[0] != "tmpfs" && got[0] != "ramfs" || strings.Join(got[1:], " ") != "root 400 active early" {
		return fmt.Errorf("after a boot without a network: %q", out)
	}
	if err := h.Unplug(ctx, false); err != nil {
		return err
	}
	return f.othersRest(ctx, "")
}

func smuggledReader(ctx context.Context, f *five) error {
	link := repo + "/vars/per-machine/" + galena + "/token/token/machines/" + electrum
	if _, err := f.ops.Run(ctx, "ln", "-s", "../../../../../../sops/machines/"+electrum, link); err != nil {
		return err
	}
	_, err := f.release(ctx, galena)
	if err == nil || !strings.Contains(err.Error(), "vars/per-machine/"+galena+"/token/token") {
		return fmt.Errorf("publishing with a reader that nobody declared: %w", err)
	}
	if _, err := f.ops.Run(ctx, "rm", link); err != nil {
		return err
	}
	if err := f.deliver(ctx); err != nil {
		return err
	}
	return f.haveTokens(ctx)
}
