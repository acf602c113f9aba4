//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// byHand deploys a release, and goes back to the system before as a person would.
func byHand(ctx context.Context, w *world) error {
	_, err := leftByHand(ctx, w, release{})
	return err
}

// leftByHand is byHand for a release of one's own; it returns what was left.
func leftByHand(ctx context.Context, w *world, r release) (left system, err error) {
	older := w.good
	if err := w.becomesGood(ctx, r); err != nil {
		return left, err
	}
	if _, err := w.web.Shell(ctx, `nix-env --profile /nix/var/nix/profiles/system --rollback
$(readlink -f /nix/var/nix/profiles/system)/bin/switch-to-configuration switch`); err != nil {
		return left, err
	}
	if err := w.runs(ctx, older); err != nil {
		return left, fmt.Errorf("rolling back by hand: %w", err)
	}
	left, w.good = w.good, older
	return left, nil
}

const (
	// lookTimeout is how long the agent may take to see what a person did: it looks each
	// minute, and when it is asked. What it sees twice may be corrected.
	lookTimeout    = 90 * time.Second
	correctTimeout = 3 * time.Minute
)

func switchedByHand(ctx context.Context, w *world) error {
	if err := byHand(ctx, w); err != nil {
		return err
	}
	p, err := w.untilAsked(ctx, systemProfile, lookTimeout, func(p profileStatus) bool { return p.Reason.Code == "overridden" })
	if err == nil && p.State != "held" {
		err = fmt.Errorf("it is %s", p)
	}
	if err == nil {
		err = says(p.Reason.Message, w.good.toplevel, "runs and boots")
	}
	if err == nil {
		err = w.runs(ctx, w.good)
	}
	if err != nil {
		return err
	}
	return w.becomesGood(ctx, release{})
}

// correcting has releases be published with the policy to correct, until the end of a
// scenario.
func correcting(ctx context.Context, w *world) (until func(error) error, err error) {
	err = w.fleetFile(ctx, nixosSource, strings.Replace(patient, "{", "{drift: correct, ", 1))
	return func(err error) error { return errors.Join(err, w.fleetFile(ctx, nixosSource, patient)) }, err
}

func switchedAndCorrected(ctx context.Context, w *world) (err error) {
	until, err := correcting(ctx, w)
	if err != nil {
		return err
	}
	defer func() { err = until(err) }()
	left, err := leftByHand(ctx, w, release{})
	if err != nil {
		return err
	}
	if _, err := w.untilAsked(ctx, systemProfile, lookTimeout, func(p profileStatus) bool { return p.Reason.Code == "overridden" }); err != nil {
		return err
	}
	if _, err := w.untilAsked(ctx, systemProfile, correctTimeout, func(p profileStatus) bool {
		return p.State == "confirmed" && p.Reason.Code == "up-to-date"
	}); err != nil {
		return err
	}
	w.good = left
	if err := w.runs(ctx, left); err != nil {
		return err
	}
	return w.activated(ctx, left, 2) // Once when it came, and once more.
}

func switchedAndNotCorrected(ctx context.Context, w *world) (err error) {
	until, err := correcting(ctx, w)
	if err != nil {
		return err
	}
	defer func() { err = until(err) }()
	const needed = "/var/lib/lab/needed"
	if _, err := w.web.Shell(ctx, "mkdir -p /var/lib/lab; touch "+needed); err != nil {
		return err
	}
	left, err := leftByHand(ctx, w, release{settings: map[string]string{"needs": needed}})
	if err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, "rm "+needed+"; fleet-agent retry"); err != nil {
		return err
	}
	p, err := w.untilAsked(ctx, systemProfile, correctTimeout, func(p profileStatus) bool {
		return strings.Contains(p.Reason.Message, "correcting that failed")
	})
	if err == nil && (p.State != "held" || slices.Contains(p.Refused, p.Current)) {
		err = fmt.Errorf("it is %s", p)
	}
	if err == nil {
		err = w.runs(ctx, w.good)
	}
	if err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, "touch "+needed+"; fleet-agent retry"); err != nil {
		return err
	}
	if _, err := w.until(ctx, settleTimeout, func(p profileStatus) bool {
		return p.State == "confirmed" && p.Reason.Code == "up-to-date"
	}); err != nil {
		return err
	}
	w.good = left
	return w.runs(ctx, left)
}
