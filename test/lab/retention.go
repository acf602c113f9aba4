//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

func retentionScenarios() []scenario {
	return []scenario{
		{"retention by count", "policy.keepGenerations: as many systems as it says stay roots, and nix-store --gc deletes the others; what runs, what it goes back to and what was booted stay with the least", keptByCount},
		{"retention by age", "policy.keepFor: what was verified so recently stays beyond the count, and goes with the next release once the policy does", keptByAge},
	}
}

// keeps is the policy of a machine that may be busy, and keeps generations so.
func keeps(how string) string { return strings.Replace(patient, "{", "{"+how+", ", 1) }

// becomeGood deploys so many releases, one after the other.
func (w *world) becomeGood(ctx context.Context, n int) (all []system, err error) {
	for range n {
		if err := w.becomesGood(ctx, release{}); err != nil {
			return nil, err
		}
		all = append(all, w.good)
	}
	return all, nil
}

// collects has nix delete what nothing keeps, as hosts do each week: also the old
// generations of the profile, but for what runs.
func (w *world) collects(ctx context.Context) error {
	_, err := w.web.Shell(ctx, `nix-env --profile /nix/var/nix/profiles/system --delete-generations old 2>/dev/null
nix-store --gc --quiet >/dev/null`)
	return err
}

// stay checks which systems are there, whole, and which are not any more.
func (w *world) stay(ctx context.Context, there, gone []system) error {
	var errs []error
	for _, s := range there {
		errs = append(errs, w.whole(ctx, s))
	}
	for _, s := range gone {
		if _, err := w.web.Run(ctx, "test", "!", "-e", s.toplevel); err != nil {
			errs = append(errs, fmt.Errorf("%s is still there", s.version))
		}
	}
	return errors.Join(errs...)
}

func keptByCount(ctx context.Context, w *world) error {
	defer w.restoreSource(ctx)
	if err := w.fleetFile(ctx, nixosSource, keeps("keepGenerations: 3")); err != nil {
		return err
	}
	booted, err := w.becomeGood(ctx, 1)
	if err != nil {
		return err
	}
	if _, err := w.rebootsMidway(ctx, ""); err != nil {
		return err
	}
	if err := w.runs(ctx, w.good); err != nil {
		return err
	}
	// As NixOS has it from its first boot on.
	if _, err := w.web.Run(ctx, "ln", "-sfn", "/run/booted-system", "/nix/var/nix/gcroots/booted-system"); err != nil {
		return err
	}
	s, err := w.becomeGood(ctx, 4)
	if err != nil {
		return err
	}
	if err := errors.Join(w.collects(ctx), w.stay(ctx, append(booted, s[1:]...), s[:1])); err != nil {
		return fmt.Errorf("of three: %w", err)
	}
	if err := w.fleetFile(ctx, nixosSource, keeps("keepGenerations: 1")); err != nil {
		return err
	}
	last, err := w.becomeGood(ctx, 1)
	if err != nil {
		return err
	}
	if err := errors.Join(w.collects(ctx), w.stay(ctx, append(booted, s[3], last[0]), s[:3])); err != nil {
		return fmt.Errorf("of one: %w", err)
	}
	// The way back is there, and leads back.
	w.restoreSource(ctx)
	return w.becomesUndone(ctx, release{settings: map[string]string{"activation": "fails"}})
}

func keptByAge(ctx context.Context, w *world) error {
	defer w.restoreSource(ctx)
	if err := w.fleetFile(ctx, nixosSource, keeps("keepGenerations: 1, keepFor: 1h")); err != nil {
		return err
	}
	s, err := w.becomeGood(ctx, 3)
	if err != nil {
		return err
	}
	if err := errors.Join(w.collects(ctx), w.stay(ctx, s, nil)); err != nil {
		return fmt.Errorf("within the hour: %w", err)
	}
	if err := w.fleetFile(ctx, nixosSource, keeps("keepGenerations: 1")); err != nil {
		return err
	}
	last, err := w.becomeGood(ctx, 1)
	if err != nil {
		return err
	}
	return errors.Join(w.collects(ctx), w.stay(ctx, append(last, s[2]), s[:2]))
}
