//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// stage is a part of the life of a fleet. Each begins with all programs at
// rest, so that it can be tried again and again from a copy.
type stage struct {
	name string
	// prepare changes what is on disk before the programs start; optional.
	prepare func(w *world) error
	// off keeps coordinator and agent from being started before do.
	off bool
	do  func(ctx context.Context, w *world) error
	// want is how the host must end; nil where there is none yet.
	want *want
	// activates is what the log of activations may have of this stage, and the
	// same the other way round.
	activates []move
	// back says that the way is a way back.
	back bool
	// loses says that the coordinator's store is lost, or goes back, or that the
	// host's journal is lost: an alarm tells of that, and it has to.
	loses bool
}

// want is where a host must be, and stay.
type want struct {
	state string
	// number is the one that must run: of the newest publish, or of the good one
	// before.
	number  func(acked) string
	version string
	secret  string
}

// move is an activation that was asked for: of a version, where another ran.
type move struct{ version, from string }

func newest(a acked) string { return a.Number }
func good(a acked) string   { return a.Good }

// Secrets, in the order of their rotation.
const (
	secretOne = "correct horse"
	secretTwo = "battery staple"
	// secretThree comes with the revocation of all before.
	secretThree = "tr0ub4dor"
)

func stages() []stage { return append(common(), rare()...) }

// common are the stages of a fleet's life as it should be, with its mishaps.
func common() []stage {
	return []stage{
		{name: "init", off: true, do: initialise},
		{name: "first start and enrolment", off: true, do: enrol},
		{
			name: "first publish",
			do:   func(ctx context.Context, w *world) error { return w.release(ctx, "v1", secretOne) },
			want: &want{"confirmed", newest, "v1", secretOne}, activates: []move{{"v1", "none"}},
		},
		{
			name:    "next publish, secret rotated",
			prepare: (*world).litter,
			do:      func(ctx context.Context, w *world) error { return w.release(ctx, "v2", secretTwo) },
			want:    &want{"confirmed", newest, "v2", secretTwo}, activates: []move{{"v2", "v1"}},
		},
		{
			name: "rollback by an operator",
			do: func(ctx context.Context, w *world) error {
				_, err := w.do(ctx, saysOnly("already", "no earlier", "no generation"), "fleetctl", "--timeout", "5s", "rollback", machine)
				return err
			},
			want: &want{"confirmed", good, "v1", secretOne}, activates: []move{{"v1", "v2"}},
		},
		{
			name:    "retry by an operator, its bundle damaged",
			prepare: (*world).damage,
			do: func(ctx context.Context, w *world) error {
				_, err := w.do(ctx, saysOnly("nothing is refused"), "fleetctl", "--timeout", "5s", "retry", machine)
				return err
			},
			want: &want{"confirmed", newest, "v2", secretTwo}, activates: []move{{"v2", "v1"}},
		},
		{
			name: "pause, resume and rollback on the host",
			do:   rollBackHere,
			want: &want{"rolled-back", good, "v1", secretOne}, activates: []move{{"v1", "v2"}}, back: true,
		},
		{
			name: "retry on the host",
			do: func(ctx context.Context, w *world) error {
				return w.local(ctx, saysOnly("nothing is refused", "nothing was refused"), "retry")
			},
			want: &want{"confirmed", newest, "v2", secretTwo}, activates: []move{{"v2", "v1"}},
		},
		{
			name: "bad publish",
			do: func(ctx context.Context, w *world) error {
				w.acked.Good = w.acked.Number
				return w.release(ctx, "bad", secretTwo)
			},
			want: &want{"rolled-back", good, "v2", secretTwo}, activates: []move{{"bad", "v2"}},
		},
		{
			name: "rotation of a secret alone, and a look",
			do: func(ctx context.Context, w *world) error {
				if err := w.release(ctx, "v2", secretOne); err != nil {
					return err
				}
				// It is an alarm where the log lacks what was seen before the kill.
				_, err := w.fleetctl(ctx, "status")
				return err
			},
			want: &want{"confirmed", newest, "v2", secretOne},
		},
		{
			name: "ban, its end, and a new kit",
			do:   banAndKit,
			want: &want{"confirmed", newest, "v2", secretOne},
		},
		{
			name: "publish after the loss of the coordinator's store", loses: true,
			prepare: func(w *world) error {
				w.acked.Tokens = 0 // The events that told of them are gone.
				return os.RemoveAll(w.path("coordinator"))
			},
			do:   func(ctx context.Context, w *world) error { return w.release(ctx, "v3", secretOne) },
			want: &want{"confirmed", newest, "v3", secretOne}, activates: []move{{"v3", "v2"}},
		},
	}
}

// saysOnly accepts the refusals that mean that a command was carried out before
// it could say so.
func saysOnly(texts ...string) func(string) bool {
	return func(stderr string) bool {
		return slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(stderr, t) })
	}
}

func initialise(ctx context.Context, w *world) error {
	// Whoever is told that there is a fleet already made it just before.
	_, err := w.do(ctx, saysOnly("exists already", "there is already", "never overwritten"), "fleetctl", "init", "fleet", "--fleet", fleetID,
		"--operator", operator, "--coordinator-machine", machine, "--address", w.address)
	if err != nil {
		return err
	}
	if err := w.describe("v1", ""); err != nil {
		return err
	}
	// The kit can be made again only from a whole fleet.
	_, err = w.fleetctl(ctx, "kit")
	return err
}

func enrol(ctx context.Context, w *world) error {
	if err := w.coordinator.start(); err != nil {
		return err
	}
	join, err := w.fleetctl(ctx, "token", machine)
	if err != nil {
		return err
	}
	w.acked.Tokens++
	if err := w.writeFile(w.path("join"), join); err != nil {
		return err
	}
	if err := w.agent.start(); err != nil {
		return err
	}
	return w.until(ctx, func(h *fleetv1.Host) error {
		if !h.GetEnrolled() || !h.GetConnected() || len(h.GetProfiles()) != 1 {
			return fmt.Errorf("the host is not enrolled: %v", h)
		}
		return nil
	})
}

func (w *world) release(ctx context.Context, version, secret string) error {
	if err := w.describe(version, secret); err != nil {
		return err
	}
	if version == "v1" || version == "v2" && w.acked.Good == "" {
		w.acked.Good = w.acked.Number
	}
	return w.publish(ctx)
}

// litter is what a crash in the middle of unpacking leaves.
func (w *world) litter() error {
	return os.MkdirAll(w.path("host", "bundles", "store", ".tmp-left", "deep"), 0o700)
}

// damage changes a file of each bundle that does not run.
func (w *world) damage() error {
	dirs, err := os.ReadDir(w.path("host", "bundles", "store"))
	if err != nil {
		return err
	}
	running, err := os.Readlink(w.path("host", "bundles", "profiles", "system"))
	if err != nil {
		return err
	}
	damaged := 0
	for _, d := range dirs {
		path := w.path("host", "bundles", "store", d.Name())
		if path == running {
			continue
		}
		if err := os.WriteFile(path+"/version", []byte("rot\n"), 0o700); err != nil {
			return err
		}
		damaged++
	}
	if damaged == 0 {
		return errors.New("there is no bundle to damage")
	}
	return nil
}

func rollBackHere(ctx context.Context, w *world) error {
	if err := w.local(ctx, nil, "pause", "a test"); err != nil {
		return err
	}
	if err := w.local(ctx, nil, "resume"); err != nil {
		return err
	}
	// Without an answer it is asked for again: that must not go back twice.
	return w.local(ctx, saysOnly("no last-good", "wait until that has ended"), "rollback", "--leaving", w.acked.Number)
}

func banAndKit(ctx context.Context, w *world) error {
	for _, c := range []struct {
		kind string
		args []string
	}{
		{"host-banned", []string{"ban", other, "--reason", "lost"}},
		{"host-unbanned", []string{"ban", other, "--reason", "found", "--lift"}},
	} {
		if _, err := w.fleetctl(ctx, c.args...); err != nil {
			return err
		}
		w.acked.Told = append(w.acked.Told, c.kind)
	}
	if err := w.describe("v2", secretOne, "box3"); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "kit", "--renew-operator", operator); err != nil {
		return err
	}
	if err := w.coordinator.stop(); err != nil {
		return err
	}
	if w.watch != nil { // with the certificate from before
		w.watch.close()
		w.watch = nil
	}
	return w.coordinator.start()
}
