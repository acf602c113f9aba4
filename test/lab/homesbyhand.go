//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
)

func homeByHand(ctx context.Context, w *world) error {
	older, runs, err := w.homeNow(ctx)
	if err != nil {
		return err
	}
	if err := w.homeBecomesGood(ctx, "h7", nil); err != nil {
		return err
	}
	// As home-manager does for its user, who has no agent to ask.
	const switchTo = `cd; profile=$HOME/.local/state/nix/profiles/home-manager
nix-env --profile $profile --rollback
$(readlink -f $profile)/activate --driver-version 1`
	if _, err := w.web.Input(ctx, switchTo, "su", "-", homeUser, "-c", "sh -eu"); err != nil {
		return err
	}
	if err := w.homeIs(ctx, homeUser, older, runs+1); err != nil {
		return err
	}
	p, err := w.untilAsked(ctx, homeName, lookTimeout, func(p profileStatus) bool { return p.Reason.Code == "overridden" })
	if err == nil && p.State != "held" {
		err = fmt.Errorf("it is %s", p)
	}
	if err == nil {
		err = says(p.Reason.Message, "generation ", "runs and is its Nix profile")
	}
	if err == nil {
		err = w.homeIs(ctx, homeUser, older, runs+1)
	}
	if err != nil {
		return err
	}
	return w.homeBecomesGood(ctx, "h8", nil)
}

// untilHeld waits until a home is held under a name, with nothing refused.
func (w *world) untilHeld(ctx context.Context, profile, number, code string) error {
	p, err := w.untilOf(ctx, profile, settleTimeout, func(p profileStatus) bool {
		return p.Desired.Number == number && p.State == "held" && p.Reason.Code == code
	})
	if err == nil && slices.Contains(p.Refused, ref{number}) {
		err = fmt.Errorf("it is refused: %s", p)
	}
	return err
}

func homeInSystem(ctx context.Context, w *world) error {
	const unit = "/etc/systemd/system/home-manager-" + homeUser + ".service"
	version, runs, err := w.homeNow(ctx)
	if err != nil {
		return err
	}
	if err := w.web.Write(unit, "[Service]\nType=oneshot\nExecStart=/bin/true\n", 0o644); err != nil {
		return err
	}
	numbers, _, err := w.deployHome(ctx, "h9", nil, release{})
	if err != nil {
		return err
	}
	if err := w.untilHeld(ctx, homeName, numbers[homeName], "home-in-system"); err != nil {
		return err
	}
	if err := w.homeIs(ctx, homeUser, version, runs); err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, "rm "+unit+"; fleet-agent status"); err != nil {
		return err
	}
	if _, err := w.homeSettled(ctx, homeName, numbers[homeName], "confirmed"); err != nil {
		return err
	}
	return w.homeIs(ctx, homeUser, "h9", 1)
}

// homeAtWar has the user lay links where root might follow them.
func homeAtWar(ctx context.Context, w *world) error {
	const all = "find /etc /root -printf '%p %u %m %s %l\n' | sort | sha256sum"
	as := func(script string) error {
		_, err := w.web.Input(ctx, "set -eu\n"+script, "su", "-", homeUser, "-c", "sh")
		return err
	}
	before, err := w.web.Shell(ctx, all)
	if err != nil {
		return err
	}
	if err := as("mv .config/lab .config/away\nln -s /etc .config/lab"); err != nil {
		return err
	}
	numbers, _, err := w.deployHome(ctx, "war", nil, release{})
	if err != nil {
		return err
	}
	// Nor is there a way back, as long as that is so.
	if _, err := w.homeSettled(ctx, homeName, numbers[homeName], "failed"); err != nil {
		return err
	}
	if _, err := w.settled(ctx, numbers[systemProfile], "confirmed"); err != nil {
		return err
	}
	if after, err := w.web.Shell(ctx, all); err != nil || after != before {
		return fmt.Errorf("files of root's are other ones: %w", err)
	}
	const mark = ".local/state/home-manager/gcroots/current-home"
	if err := as("rm .config/lab\nmv .config/away .config/lab\nln -sfn /etc/shadow " + mark); err != nil {
		return err
	}
	if numbers, _, err = w.deployHome(ctx, "peace", nil, release{}); err != nil {
		return err
	}
	if err := w.untilHeld(ctx, homeName, numbers[homeName], "home-unusable"); err != nil {
		return err
	}
	if err := as("ln -sfn $(readlink -f .local/state/nix/profiles/home-manager) " + mark); err != nil {
		return err
	}
	if _, err := w.homeSettled(ctx, homeName, numbers[homeName], "confirmed"); err != nil {
		return err
	}
	return w.homeIs(ctx, homeUser, "peace", 1)
}
