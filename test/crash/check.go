//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// play runs a stage from its copy, with the world's trigger, and returns what
// was violated.
func (w *world) play(ctx context.Context, number int, s stage) (err error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	w.agentArgs = nil
	if s.prepare != nil {
		if err := s.prepare(w); err != nil {
			return err
		}
	}
	if err := errors.Join(w.remember(), w.power.sync()); err != nil {
		return err
	}
	if cuts := strings.Count(w.trigger, "=kill"); w.power != nil && cuts > 0 {
		w.power.watch(cuts)
		// The last of all: a program that waits for a cut ends by nothing else.
		defer func() { err = errors.Join(err, w.power.unwatch()) }()
	}
	// What the deferred call above waits for is that all programs are at rest.
	defer func() { err = errors.Join(err, w.stop()) }()
	if !s.off {
		if err := errors.Join(w.coordinator.start(), w.agent.start()); err != nil {
			return err
		}
	}
	if err := s.do(ctx, w); err != nil {
		return err
	}
	if s.want != nil {
		if err := w.until(ctx, func(h *fleetv1.Host) error {
			err := w.arrived(h, s.want)
			if err == nil {
				w.good = h.GetProfiles()[0].GetLastGood().GetNumber()
			}
			return err
		}); err != nil {
			return err
		}
	}
	if err := w.stop(); err != nil {
		return err
	}
	defer w.power.open()() // The last program may have ended by a power cut.
	return w.invariants(number, s)
}

// remember notes what happened before the stage.
func (w *world) remember() error {
	w.before, w.intendedBefore, w.eventsBefore, w.acked.Told = len(w.activations()), 0, 0, nil
	if _, err := os.Stat(w.path("coordinator", "fleet.db")); err != nil {
		return nil //nolint:nilerr // Nothing happened yet, or nothing is remembered of it.
	}
	events, err := w.events()
	w.intendedBefore, w.eventsBefore = intended(events), len(events)
	return err
}

// arrived says what is missing for the host to be where it should.
func (w *world) arrived(h *fleetv1.Host, want *want) error {
	if len(h.GetProfiles()) != 1 || !h.GetConnected() {
		return fmt.Errorf("the coordinator knows of the host only: %v", h)
	}
	p := h.GetProfiles()[0]
	number := want.number(w.acked)
	switch {
	case p.GetReason().GetCode() == string(fleet.ReasonActivationUnknown):
		return fmt.Errorf("it is %s after an activation that was cut short, and will be tried again", p.GetState())
	case p.GetState() == "rolled-back" && p.GetReason().GetCode() == string(fleet.ReasonNewGeneration):
		return errors.New("it went back from an activation that was cut short, and tries it again just now")
	case p.GetState() != want.state:
		return fmt.Errorf("it is %s (%s: %s), want %s", p.GetState(), p.GetReason().GetCode(), p.GetReason().GetMessage(), want.state)
	case p.GetCurrent().GetNumber() != number:
		return fmt.Errorf("generation %s runs, want %s", p.GetCurrent().GetNumber(), number)
	case w.running() != want.version || w.linked() != want.version:
		return fmt.Errorf("%s was activated, the link leads to %s, want %s", w.running(), w.linked(), want.version)
	case w.secret() != want.secret:
		return fmt.Errorf("the secret is %q, want %q", w.secret(), want.secret)
	}
	return nil
}

// invariants checks, with all programs at rest, what must hold after any crash.
func (w *world) invariants(number int, s stage) error {
	errs := []error{w.numbers()}
	if number > 0 {
		events, err := w.events()
		errs = append(errs, err, w.acknowledged(events), w.told(s, events))
		if s.want != nil {
			errs = append(errs, w.once(s, events), w.lastGood())
			if !s.loses {
				errs = append(errs, w.transitions())
			}
		}
	}
	return errors.Join(errs...)
}

// numbers checks that the repository never used a number for two documents.
func (w *world) numbers() error {
	files, err := filepath.Glob(w.path("fleet", "releases", "*.json"))
	if err != nil {
		return err
	}
	seen := map[string]string{}
	for _, f := range files {
		var rel struct {
			Generations []struct {
				Machine, Profile, Digest string
				Number                   any
			}
		}
		data, err := os.ReadFile(f)
		if err == nil {
			err = json.Unmarshal(data, &rel)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		for _, g := range rel.Generations {
			key := fmt.Sprint(g.Machine, g.Profile, g.Number)
			if d, ok := seen[key]; ok && d != g.Digest {
				return fmt.Errorf("number %v stands for two generations", g.Number)
			}
			seen[key] = g.Digest
		}
	}
	return nil
}

// event is a record of the coordinator's log, as it is stored.
type event struct {
	Seq     uint64
	Time    time.Time
	Prev    string
	Kind    string
	Message string
	Alarm   bool
}

// events reads the event log from the store's file, and checks its chain.
func (w *world) events() (list []event, err error) {
	prev := strings.Repeat("0", 2*sha256.Size)
	err = w.inStore(func(data *bbolt.Bucket) error {
		prefix := []byte("audit/record/")
		c := data.Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			var e event
			if err := json.Unmarshal(v[storedHead:], &e); err != nil {
				return err
			}
			if e.Prev != prev || e.Seq != uint64(len(list)+1) {
				return fmt.Errorf("event %d does not chain to the one before", e.Seq)
			}
			sum := sha256.Sum256(v[storedHead:])
			prev = hex.EncodeToString(sum[:])
			list = append(list, e)
		}
		var newest struct{ Hash string }
		if err := json.Unmarshal(data.Get([]byte("audit/head"))[storedHead:], &newest); err != nil {
			return err
		}
		if newest.Hash != prev {
			return errors.New("the head of the event log is not its last event")
		}
		return nil
	})
	return list, err
}

// acknowledged checks that what operators were told is still so.
func (w *world) acknowledged(events []event) error {
	committed, tokens := false, 0
	for _, e := range events {
		switch e.Kind {
		case "release-committed":
			committed = committed || strings.Contains(e.Message, w.acked.Release)
		case "token-created":
			tokens++
		case "number-reused", "token-reused", "duplicate-instance", "report-refused":
			return fmt.Errorf("alarm: %s: %s", e.Kind, e.Message)
		}
	}
	if w.acked.Release != "" && !committed {
		return fmt.Errorf("release %s was acknowledged, and no event tells of it", w.acked.Release)
	}
	if tokens < w.acked.Tokens {
		return fmt.Errorf("%d tokens were acknowledged, %d are recorded", w.acked.Tokens, tokens)
	}
	return nil
}

// told checks that each change that a command of the stage vouched for is on
// record, and that no transition is missing, where nothing was lost on purpose.
func (w *world) told(s stage, events []event) error {
	if s.loses {
		return nil
	}
	if len(events) < w.eventsBefore {
		return fmt.Errorf("there were %d events, and there are %d", w.eventsBefore, len(events))
	}
	missing := map[string]bool{}
	for _, kind := range w.acked.Told {
		missing[kind] = true
	}
	for _, e := range events[w.eventsBefore:] {
		delete(missing, e.Kind)
		switch e.Kind {
		case "transitions-lost", "coordinator-restored-older":
			return fmt.Errorf("alarm: %s: %s", e.Kind, e.Message)
		}
	}
	for kind := range missing {
		return fmt.Errorf("%s was acknowledged, and no event tells of it", kind)
	}
	return nil
}

var activating = regexp.MustCompile(`^system: activating generation `)

// orphaned is the number of the parent of a program whose runner was gone before it could look:
// which one that was, only the record of activations tells.
const orphaned = "1"

// once checks that each activation that was intended ran at most once, and none
// that was not. A way back may be gone again: it has to bear that.
func (w *world) once(s stage, events []event) error {
	ran := map[activation]int{}
	forth := 0
	for i, a := range w.activations() {
		ran[a]++
		if ran[a] > 1 && a.runner != orphaned {
			return fmt.Errorf("runner %s activated %s twice", a.runner, a.version)
		}
		if i < w.before {
			continue
		}
		switch {
		case wanted(s.activates, a.version, a.previous):
			forth++
		case !wanted(s.activates, a.previous, a.version):
			return fmt.Errorf("%s was activated from %s, which nobody wanted", a.version, a.previous)
		}
	}
	// A way back may be gone several times; of the way there each step is on
	// record, and while no runner was killed and nobody asked again, there is one.
	if most := intended(events) - w.intendedBefore; forth > most && !s.back {
		return fmt.Errorf("%d activations ran, %d were on record", forth, most)
	}
	if forth > 1 && w.power == nil && strings.HasPrefix(w.trigger, "agent/") && !strings.Contains(w.trigger, "runner/") {
		return fmt.Errorf("%d activations ran", forth)
	}
	if len(s.activates) > 0 && forth == 0 {
		return errors.New("nothing was activated")
	}
	return nil
}

func intended(events []event) (n int) {
	for _, e := range events {
		if e.Kind == "transition" && activating.MatchString(e.Message) {
			n++
		}
	}
	return n
}

func wanted(moves []move, version, from string) bool {
	for _, m := range moves {
		if m.version == version && m.from == from {
			return true
		}
	}
	return false
}
