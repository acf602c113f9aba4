//go:build linux

package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cameronraysmith/fleet/pkg/pki"
)

// rare are the stages of what operators do seldom: when something was lost, or
// cannot be reached.
func rare() []stage {
	return []stage{
		{
			name: "backup while it runs, restored after a loss", loses: true,
			do:   backUpAndRestore,
			want: &want{"confirmed", newest, "v2", secretTwo}, activates: []move{{"v2", "v3"}},
		},
		{
			name: "carried by hand, the coordinator away", off: true,
			do:   carryAndApply,
			want: &want{"confirmed", newest, "v3", secretOne}, activates: []move{{"v3", "v2"}},
		},
		{
			name: "trust root rotated",
			do:   rotate,
			want: &want{"confirmed", newest, "v2", secretOne}, activates: []move{{"v2", "v3"}},
		},
		{
			name: "an operator comes, stages, and goes",
			do:   comesAndGoes,
			want: &want{"confirmed", newest, "v3", secretTwo}, activates: []move{{"v3", "v2"}},
		},
		{
			name: "inventory imported",
			do:   importInventory,
			want: &want{"confirmed", newest, "v3", secretTwo},
		},
		{
			name: "trust root reset on the host",
			do:   resetTrust,
			want: &want{"confirmed", newest, "v2", secretTwo}, activates: []move{{"v2", "v3"}},
		},
		{
			name: "journal damaged, recovered", off: true, loses: true,
			prepare: (*world).damageJournal,
			do:      recoverJournal,
			want:    &want{"confirmed", newest, "v3", secretOne}, activates: []move{{"v3", "v2"}},
		},
		{
			name: "what is the newest, stated by the host",
			do:   stateFreshness,
			want: &want{"confirmed", newest, "v2", secretTwo}, activates: []move{{"v2", "v3"}},
		},
		{
			name: "judged by a plugin",
			do:   judgedByPlugin,
			want: &want{"confirmed", newest, "v3", secretOne}, activates: []move{{"v3", "v2"}},
		},
		{
			name: "CA replaced",
			do:   replaceCA,
			want: &want{"confirmed", newest, "v2", secretTwo}, activates: []move{{"v2", "v3"}},
		},
		{
			name: "a value revoked by a release that fails",
			do:   revokeBadly,
			want: &want{"rolled-back", good, "v2", secretThree}, activates: []move{{"bad", "v2"}},
		},
		{
			name: "the same by one that works",
			do:   func(ctx context.Context, w *world) error { return w.release(ctx, "v3", secretThree) },
			want: &want{"confirmed", newest, "v3", secretThree}, activates: []move{{"v3", "v2"}},
		},
		{
			name: "the agent stays away, the dead-man switch goes back",
			do:   agentStaysAway,
			want: &want{"rolled-back", good, "v3", secretThree}, activates: []move{{"mute", "v3"}},
		},
	}
}

// revokeBadly publishes a new value with a floor that leaves only that, with a bundle that
// fails: the host goes back, and has the new value there.
func revokeBadly(ctx context.Context, w *world) error {
	if err := w.revoke(); err != nil {
		return err
	}
	w.acked.Good = w.acked.Number
	return w.release(ctx, "bad", secretThree)
}

// revoke writes down what secrets revoke does of a value that is about to be replaced; once,
// however often the stage is begun.
func (w *world) revoke() error {
	file := w.path("fleet", "secrets", machine, "revoked.json")
	done := w.power.open()
	_, there := os.Stat(file)
	data, err := os.ReadFile(w.path("fleet", "secrets", machine, "index.json"))
	done()
	if there == nil || err != nil {
		return err
	}
	var index map[string]struct {
		Version uint64 `json:"version"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return err
	}
	return w.writeFile(file, fmt.Appendf(nil, `{"floors": {"token": %d}}`, index["token"].Version+1))
}

// agentStaysAway stops the agent while it verifies, and starts it again when the
// host is back, or is not for a while: a switch that is killed is not started anew.
func agentStaysAway(ctx context.Context, w *world) error {
	if err := w.agent.stop(); err != nil {
		return err
	}
	w.agentArgs = []string{"--dead-man-margin", "1s"}
	if err := w.agent.start(); err != nil {
		return err
	}
	w.acked.Good = w.acked.Number
	if err := w.release(ctx, "mute", secretTwo); err != nil {
		return err
	}
	wait := func(within time.Duration, until func() bool) error {
		limit := time.After(within)
		for {
			done := w.power.open()
			now := until()
			done()
			if now {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-limit:
				return nil
			case <-time.After(pollPause):
			}
		}
	}
	// Before the agent has it on record that it is activated, going back is an
	// activation that was cut short, which is tried again.
	verifies := func() bool { return w.running() == "mute" && w.lastStep() == "activated" }
	back := func() bool { return w.running() == "v3" }
	return errors.Join(wait(10*time.Second, verifies), w.agent.stop(), wait(15*time.Second, back), w.agent.start())
}

// stateFreshness gives the agent the key of the freshness role: it states what is
// the newest, for itself too, and keeps such a statement.
func stateFreshness(ctx context.Context, w *world) error {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := ssh.NewPublicKey(pub)
	if err != nil {
		return err
	}
	err = errors.Join(w.writeFile(w.path("freshness.pem"), pki.EncodeKey(der)), w.writeFile(w.path("freshness.pub"), ssh.MarshalAuthorizedKey(public)))
	if err != nil {
		return err
	}
	if _, err := w.do(ctx, saysOnly("already"), "fleetctl", "--timeout", "5s", "trust", "add-key", "freshness", "freshness.pub"); err != nil {
		return err
	}
	if _, err := w.do(ctx, saysOnly("no draft"), "fleetctl", "--timeout", "5s", "trust", "sign", "--yes"); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "trust", "publish"); err != nil {
		return err
	}
	if err := w.release(ctx, "v2", secretTwo); err != nil {
		return err
	}
	if err := w.agent.stop(); err != nil {
		return err
	}
	w.agentArgs = []string{"--freshness-key", w.path("freshness.pem"), "--freshness-repository", w.path("fleet")}
	if err := w.agent.start(); err != nil {
		return err
	}
	for {
		done := w.power.open()
		_, err := os.Stat(w.path("host", "desired", "freshness.json"))
		done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the host keeps no statement of what is the newest: %w", err)
		case <-time.After(pollPause):
		}
	}
}

// rotate replaces the release key.
func rotate(ctx context.Context, w *world) error {
	if _, err := w.fleetctl(ctx, "trust", "rotate", "release"); err != nil {
		return err
	}
	// As somebody elsewhere signs it, who was sent the draft.
	draft, err := os.ReadFile(w.path("fleet", "trust", "draft.json"))
	if err != nil {
		return err
	}
	if err := w.writeFile(w.path("sent.json"), draft); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "trust", "sign", "--yes", "sent.json"); err != nil {
		return err
	}
	if err := w.newRoot(ctx); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "trust", "publish"); err != nil {
		return err
	}
	w.acked.Told = append(w.acked.Told, "trust-root-added")
	return w.release(ctx, "v2", secretOne)
}

// replaceCA has another CA issue, and forgets the one before as soon as the host has
// a certificate of the new one.
func replaceCA(ctx context.Context, w *world) error {
	signed := func(verb string) error {
		if _, err := w.fleetctl(ctx, "trust", "ca", verb); err != nil {
			return err
		}
		_, err := w.do(ctx, saysOnly("no draft"), "fleetctl", "--timeout", "5s", "trust", "sign", "--yes")
		return err
	}
	newKit := func() error {
		if _, err := w.fleetctl(ctx, "kit"); err != nil {
			return err
		}
		return errors.Join(w.coordinator.stop(), w.coordinator.start())
	}
	if err := signed("add"); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "trust", "publish"); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "trust", "ca", "use"); err != nil {
		return err
	}
	if err := newKit(); err != nil {
		return err
	}
	// The host has to know both before the old one goes.
	if err := w.release(ctx, "v2", secretTwo); err != nil {
		return err
	}
	for w.running() != "v2" {
		select {
		case <-ctx.Done():
			return fmt.Errorf("what was published between two CAs does not run: %w", ctx.Err())
		case <-time.After(pollPause):
		}
	}
	if err := errors.Join(signed("drop"), newKit()); err != nil {
		return err
	}
	// Refused as long as the host's certificate is of the CA before.
	if _, err := w.do(ctx, saysOnly("no CA from before"), "fleetctl", "--timeout", "5s", "trust", "ca", "forget"); err != nil {
		return err
	}
	return newKit()
}

// newRoot makes a trust root with another release key, which only the repository
// has.
func (w *world) newRoot(ctx context.Context) error {
	if _, err := w.fleetctl(ctx, "trust", "rotate", "release"); err != nil {
		return err
	}
	_, err := w.do(ctx, saysOnly("no draft"), "fleetctl", "--timeout", "5s", "trust", "sign", "--yes")
	return err
}

// comesAndGoes has another operator stage a release, and signs it. The publish
// after it says what its number is at least.
func comesAndGoes(ctx context.Context, w *world) error {
	const name, home = "dana", "dana"
	as := func(home string, args ...string) ([]byte, error) {
		w.home = home
		defer func() { w.home = "config" }()
		return w.fleetctl(ctx, args...)
	}
	request, err := as(home, "operator", "request")
	if err != nil {
		return err
	}
	if err := w.writeFile(w.path("request"), request); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "operator", "add", name, "--role", "deployer", "--request", "request"); err != nil {
		return err
	}
	w.acked.Told = append(w.acked.Told, "operator-added")
	if err := w.describe("v3", secretTwo); err != nil {
		return err
	}
	out, err := as(home, "publish", "--stage", machine, "-o", "json")
	if err != nil {
		return err
	}
	var staged struct{ Release string }
	if err := json.Unmarshal(out, &staged); err != nil || staged.Release == "" {
		return fmt.Errorf("publish --stage printed %q: %w", out, err)
	}
	if _, err := w.fleetctl(ctx, "sign", "--yes", staged.Release); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "operator", "remove", name, "--reason", "left"); err != nil {
		return err
	}
	w.acked.Told = append(w.acked.Told, "operator-removed")
	return w.publish(ctx)
}

// importInventory writes the inventory's file, and goes on without it.
func importInventory(ctx context.Context, w *world) error {
	const evaluated = `{"machines": {"box9": {"name": "box9", "machineClass": "nixos", "tags": ["all"]}}}`
	before, err := os.ReadFile(w.path("fleet", "fleet.yaml"))
	if err != nil {
		return err
	}
	err = errors.Join(w.writeFile(w.path("evaluated.json"), []byte(evaluated)),
		w.writeFile(w.path("fleet", "fleet.yaml"), append([]byte("inventory: {file: inventory.json}\n"), before...)))
	if err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "inventory", "import", "--from-file", "evaluated.json"); err != nil {
		return err
	}
	return errors.Join(w.writeFile(w.path("fleet", "fleet.yaml"), before), w.publish(ctx))
}

// resetTrust gives the host the fleet's newest trust root by hand, before the
// coordinator has it.
func resetTrust(ctx context.Context, w *world) error {
	if err := w.newRoot(ctx); err != nil {
		return err
	}
	roots, err := filepath.Glob(w.path("fleet", "trust", "root", "*.json"))
	if err != nil || len(roots) == 0 {
		return fmt.Errorf("finding trust roots: %w", err)
	}
	file := slices.MaxFunc(roots, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	out, err := w.fleetctl(ctx, "trust", "show", "-o", "json")
	if err != nil {
		return err
	}
	var shown struct{ Digest string }
	if err := json.Unmarshal(out, &shown); err != nil || shown.Digest == "" {
		return fmt.Errorf("trust show printed %q: %w", out, err)
	}
	if err := w.local(ctx, saysOnly("trusts that root already"), "trust", "reset", file, "--pin", shown.Digest); err != nil {
		return err
	}
	return w.release(ctx, "v2", secretTwo)
}

// damageJournal changes a byte in the middle of the agent's journal.
func (w *world) damageJournal() error {
	files, err := filepath.Glob(w.path("host", "journal*"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("journals are %q: %w", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return os.WriteFile(files[0], data, 0o600)
}

func recoverJournal(ctx context.Context, w *world) error {
	if err := w.coordinator.start(); err != nil {
		return err
	}
	if err := w.local(ctx, saysOnly("is whole", "not damaged", "nothing to recover"), "recover"); err != nil {
		return err
	}
	if err := w.agent.start(); err != nil {
		return err
	}
	return w.release(ctx, "v3", secretOne)
}

// backUpAndRestore loses everything of the coordinator once its backup was
// acknowledged: what operators were told before is in it.
func backUpAndRestore(ctx context.Context, w *world) error {
	if _, err := w.do(ctx, nil, "fleet-coordinator", "backup", "--state-dir", "coordinator", "backup"); err != nil {
		return err
	}
	if err := w.coordinator.stop(); err != nil {
		return err
	}
	if err := os.RemoveAll(w.path("coordinator")); err != nil {
		return err
	}
	// A restore that was killed after the store was there has nothing left to do.
	if _, err := w.do(ctx, saysOnly("fleet.db is there"), "fleet-coordinator", "restore", "--state-dir", "coordinator", "backup"); err != nil {
		return err
	}
	if err := w.coordinator.start(); err != nil {
		return err
	}
	return w.release(ctx, "v2", secretTwo)
}

// carryAndApply brings a generation to the host in a file. The coordinator
// starts again only when it runs, so that nothing else can have brought it.
func carryAndApply(ctx context.Context, w *world) error {
	if err := w.coordinator.start(); err != nil {
		return err
	}
	if err := w.release(ctx, "v3", secretOne); err != nil {
		return err
	}
	if err := w.coordinator.stop(); err != nil {
		return err
	}
	if err := w.agent.start(); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "carry", machine, "--file", "carried"); err != nil {
		return err
	}
	if err := w.local(ctx, nil, "apply", "carried"); err != nil {
		return err
	}
	for w.running() != "v3" {
		select {
		case <-ctx.Done():
			return fmt.Errorf("what was applied by hand does not run: %w", ctx.Err())
		case <-time.After(pollPause):
		}
	}
	return w.coordinator.start()
}

// judgedByPlugin publishes a release that a plugin has to find good, which the
// host does not have.
func judgedByPlugin(ctx context.Context, w *world) error {
	if err := w.describe("v3", secretOne); err != nil {
		return err
	}
	file := w.path("fleet", "fleet.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text = fmt.Appendf(text, "    plugins: {certificate: {kind: probe, file: {%s/%s: %s}}}\n"+
		"    probes: {tls: {kind: plugin, plugin: certificate, config: {file: %q, days: 1}}}\n",
		runtime.GOOS, runtime.GOARCH, filepath.Join(w.programs, examplePlugin), w.path("fleet", "trust", "ca.crt"))
	if err := w.writeFile(file, text); err != nil {
		return err
	}
	return w.publish(ctx)
}
