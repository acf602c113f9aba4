//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// isRefused is wasRefused, and that the host takes the next release.
func (w *world) isRefused(ctx context.Context, d deployed, before facts, words string) error {
	if err := w.wasRefused(ctx, d.number, before, words); err != nil {
		return err
	}
	if out, err := w.web.Shell(ctx, "! nix-store --gc --print-roots | grep '^/nix/var/nix/gcroots/fleet/.*"+d.toplevel+"'"); err != nil {
		return fmt.Errorf("what was refused has a root: %w: %s", err, out)
	}
	w.restoreSource(ctx)
	return w.becomesGood(ctx, release{})
}

// wasRefused checks that a release is refused before anything of it was activated,
// with these words, and that the host is as it was.
func (w *world) wasRefused(ctx context.Context, number string, before facts, words string) error {
	p, err := w.until(ctx, settleTimeout, func(p profileStatus) bool {
		return p.Desired.Number == number && p.State == "failed" && slices.Contains(p.Refused, ref{number})
	})
	if err != nil {
		return fmt.Errorf("waiting for %s to be refused: %w", number, err)
	}
	if p.Reason.Code != "build-failed" || !strings.Contains(p.Reason.Message, words) {
		return fmt.Errorf("want %q as the reason: %s", words, p)
	}
	after, err := w.facts(ctx)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(before, after) {
		return fmt.Errorf("the host was %+v, and is %+v", before, after)
	}
	return nil
}

// notHere checks that a system was not built on the agent's host.
func (w *world) notHere(ctx context.Context, s system) error {
	if _, err := w.web.Run(ctx, "test", "!", "-e", s.toplevel); err != nil {
		return errors.New("it was built all the same")
	}
	return nil
}

// withTop has files at the top of the flake while use runs.
func (w *world) withTop(ctx context.Context, script string, use func() error) error {
	if _, err := w.ops.Shell(ctx, "cd "+flakeDir+"; "+script); err != nil {
		return err
	}
	err := use()
	_, cerr := w.ops.Shell(ctx, "cd "+flakeDir+"; rm -rf .gitattributes left-out variant")
	return errors.Join(err, cerr)
}

// anotherTree has hosts leave out of the same revision what the publisher had.
func anotherTree(ctx context.Context, w *world) error {
	defer w.restoreSource(ctx)
	before, err := w.facts(ctx)
	if err != nil {
		return err
	}
	if err := w.fleetFile(ctx, strings.Replace(nixosSource, "}", `, url: "git+file://`+flakeDir+`?exportIgnore=1"}`, 1), patient); err != nil {
		return err
	}
	var d deployed
	if err := w.withTop(ctx, "echo '/left-out export-ignore' >.gitattributes; echo it >left-out", func() (err error) {
		d, err = w.deploy(ctx, release{})
		return err
	}); err != nil {
		return err
	}
	return errors.Join(w.isRefused(ctx, d, before, "fleet: pinned narHash is "), w.notHere(ctx, d.system))
}

// anotherOutPath has the flake read what a builder makes otherwise on each host.
func anotherOutPath(ctx context.Context, w *world) error {
	before, err := w.facts(ctx)
	if err != nil {
		return err
	}
	var d deployed
	if err := w.withTop(ctx, "mkdir -p variant; echo it >variant/file", func() (err error) {
		d, err = w.deploy(ctx, release{})
		return err
	}); err != nil {
		return err
	}
	if !strings.HasSuffix(d.toplevel, "-on-"+opsName) {
		return fmt.Errorf("published %s, want one that was evaluated on %s", d.toplevel, opsName)
	}
	if err := w.isRefused(ctx, d, before, "fleet: pinned out path is "+d.toplevel+", and it is /nix/store/"); err != nil {
		return err
	}
	_, err = w.web.Shell(ctx, "for p in /nix/store/*-on-"+opsName+" /nix/store/*-on-"+webName+"; do [ ! -e $p ]; done")
	return err
}

func anotherContent(ctx context.Context, w *world) error {
	defer w.restoreSource(ctx)
	before, err := w.facts(ctx)
	if err != nil {
		return err
	}
	if err := w.fleetFile(ctx, pinnedSource, patient); err != nil {
		return err
	}
	d, err := w.deploy(ctx, release{settings: map[string]string{"irreproducible": "yes"}})
	if err != nil {
		return err
	}
	return w.isRefused(ctx, d, before, "the closure manifest has ")
}
