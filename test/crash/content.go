//go:build linux

package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

// activate says in a log which version was activated, by which runner, and from
// what, before it does anything.
const activate = `#!/bin/sh
set -eu
previous=none
[ -z "${FLEET_PREVIOUS:-}" ] || read -r previous <"$FLEET_PREVIOUS/version"
read -r version <"$FLEET_BUNDLE/version"
runner=$PPID
read -r stat </proc/$PPID/stat || stat=
# The field after the 21st is when the runner began: numbers come again.
# shellcheck disable=SC2086
set -- $stat
[ "$runner" = 1 ] || runner=$runner-${22:-gone}
echo "$version $previous $runner" >>'LOG'
[ "$version" != bad ] || exit 7
cp "$FLEET_BUNDLE/version" "$FLEET_STATE/version.new"
mv "$FLEET_STATE/version.new" "$FLEET_STATE/version"
`

const check = `#!/bin/sh
[ "$(cat "$FLEET_BUNDLE/version")" != mute ] || exit 75
exec cmp -s "$FLEET_BUNDLE/version" "$FLEET_STATE/version"
`

// bundles makes what is published: larger than what is sent at a time.
func (w *world) bundles() error {
	noise := rand.NewChaCha8([32]byte{1})
	for _, version := range []string{"v1", "v2", "v3", "bad", "mute"} {
		dir := filepath.Join(w.top, "bundles", version)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		filler := make([]byte, 150<<10)
		_, _ = noise.Read(filler)
		for name, text := range map[string][]byte{
			"activate": []byte(strings.Replace(activate, "LOG", w.activationsLog(), 1)), "check": []byte(check), "version": []byte(version + "\n"), "filler": filler,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o700); err != nil {
				return err
			}
		}
	}
	return nil
}

// describe writes the fleet file: which bundle, which secret ("" for none), and
// further machines.
func (w *world) describe(version, secret string, more ...string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "fleet: %s\ncoordinator: {machine: %s, address: %q}\noperators: {%s: {role: admin}}\nmachines:\n", fleetID, machine, w.address, operator)
	for _, m := range append([]string{machine, other}, more...) {
		fmt.Fprintf(&b, "  %s: {class: linux}\n", m)
	}
	verify, activation := "30s", "20s"
	if version == "mute" { // of which nobody can tell whether it works
		verify, activation = "3s", "5s"
	}
	fmt.Fprintf(&b, "settings:\n  all:\n    source: {bundle: ../../bundles/%s}\n    policy: {verifyDeadline: %s, activationDeadline: %s}\n", version, verify, activation)
	if secret != "" {
		if err := w.seal(secret); err != nil {
			return err
		}
		b.WriteString("    secrets: {token: {file: sealed/token.age, path: token, mode: \"0400\"}}\n")
	}
	return w.writeFile(w.path("fleet", "fleet.yaml"), []byte(b.String()))
}

// identities are the operator's.
func (w *world) identities() ([]age.Identity, error) {
	done := w.power.open()
	keys, err := os.ReadFile(w.path("config", "fleet", "keys.txt"))
	done()
	if err != nil {
		return nil, err
	}
	return age.ParseIdentities(bytes.NewReader(keys))
}

// seal writes the secret for the operator to open.
func (w *world) seal(secret string) error {
	ids, err := w.identities()
	if err != nil {
		return err
	}
	id, ok := ids[0].(*age.X25519Identity)
	if !ok {
		return fmt.Errorf("the operator's key is a %T", ids[0])
	}
	var buf bytes.Buffer
	to, err := age.Encrypt(&buf, id.Recipient())
	if err != nil {
		return err
	}
	if _, err := to.Write([]byte(secret)); err != nil {
		return err
	}
	if err := to.Close(); err != nil {
		return err
	}
	done := w.power.open()
	err = os.MkdirAll(w.path("fleet", "sealed"), 0o700)
	done()
	if err != nil {
		return err
	}
	return w.writeFile(w.path("fleet", "sealed", "token.age"), buf.Bytes())
}

// activation is a line of the log that activations write.
type activation struct{ version, previous, runner string }

// activationsLog is not on the world's disk: it is what somebody saw who looked.
func (w *world) activationsLog() string { return filepath.Join(w.top, "activations") }

func (w *world) activations() (list []activation) {
	data, err := os.ReadFile(w.activationsLog())
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 {
			list = append(list, activation{f[0], f[1], f[2]})
		}
	}
	return list
}

// running is the version whose activation ended last.
func (w *world) running() string {
	data, _ := os.ReadFile(w.path("host", "bundles", "state", "system", "version"))
	return strings.TrimSpace(string(data))
}

// linked is the version that the profile's link leads to.
func (w *world) linked() string {
	data, _ := os.ReadFile(w.path("host", "bundles", "profiles", "system", "version"))
	return strings.TrimSpace(string(data))
}

func (w *world) secret() string {
	data, _ := os.ReadFile(w.path("secrets", "token"))
	return string(data)
}
