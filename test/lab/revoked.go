//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// revokedValue has a host go back behind a revocation, and boot there.
func revokedValue(ctx context.Context, f *five) (err error) {
	h := f.hosts[galena]
	old, err := h.Run(ctx, "cat", tokenAt(galena))
	if err != nil {
		return err
	}
	before, err := f.profileOf(ctx, galena)
	if err != nil {
		return err
	}
	if _, err := f.fleetctl(ctx, "vars", "generate", "--regenerate", "-g", "token"); err != nil {
		return err
	}
	out, err := f.fleetctl(ctx, "secrets", "revoke", "token/token")
	if err != nil {
		return err
	}
	if err := says(out, galena+": versions below ", readerUnit+" may not work"); err != nil {
		return err
	}
	if err := f.deliver(ctx); err != nil {
		return err
	}
	if _, err := f.fleetctl(ctx, "rollback", galena); err != nil {
		return err
	}
	if _, err := f.comesTo(ctx, galena, before.Confirmed.Number, "confirmed"); err != nil {
		return err
	}
	if err := errors.Join(f.haveTokens(ctx), f.without(ctx, galena, old)); err != nil {
		return err
	}
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
	if err := errors.Join(f.haveTokens(ctx), f.without(ctx, galena, old)); err != nil {
		return err
	}
	if err := h.Unplug(ctx, false); err != nil {
		return err
	}
	return f.deliver(ctx)
}

// without waits until no secret of a host has a value.
func (f *five) without(ctx context.Context, name, value string) error {
	return wait(ctx, settleTimeout, func() error {
		out, err := f.hosts[name].Input(ctx, strings.TrimSpace(value)+"\n", "sh", "-c", "grep -rlFf - "+secretsAt+".d || [ $? = 1 ]")
		if err == nil && strings.TrimSpace(out) != "" {
			err = fmt.Errorf("the revoked value is in %s of %s", out, name)
		}
		return err
	})
}

// revokedSystem has nobody send a host back to a system with revoked values. The time is
// put down as secrets revoke does for generators of a flake, which these bundles have not.
func revokedSystem(ctx context.Context, f *five) error {
	before, err := f.profileOf(ctx, galena)
	if err != nil {
		return err
	}
	const record = repo + "/secrets/" + galena + "/revoked.json"
	text := fmt.Sprintf(`{"before": %q}`, time.Now().UTC().Truncate(time.Second).Add(time.Second).Format(time.RFC3339))
	if _, err := f.ops.Input(ctx, text, "sh", "-euc", "cat >"+record+"; sleep 2"); err != nil {
		return err
	}
	bad, err := f.bundle(ctx, galena, "exit 1")
	if err != nil {
		return err
	}
	numbers, err := f.release(ctx, galena)
	if err != nil {
		return err
	}
	if err := f.isBack(ctx, galena, numbers[galena], bad, "activation-failed"); err != nil {
		return err
	}
	if p, err := f.profileOf(ctx, galena); err != nil || p.Current != before.Current {
		return fmt.Errorf("what failed went back to %s: %w", p, err)
	}
	if err := f.becomeGood(ctx, galena); err != nil {
		return err
	}
	newest, err := f.profileOf(ctx, galena)
	if err != nil {
		return err
	}
	out, err := f.hosts[galena].Shell(ctx, "fleet-agent rollback 2>&1 && exit 1; true")
	if err == nil {
		err = says(out, "revoked")
	}
	if err != nil {
		return fmt.Errorf("a person goes back: %w", err)
	}
	if _, err := f.fleetctl(ctx, "rollback", galena); err != nil {
		return err
	}
	if err := wait(ctx, settleTimeout, func() error {
		p, err := f.profileOf(ctx, galena)
		if err == nil && (p.Reason.Code != "revoked" || p.Current != newest.Current) {
			err = fmt.Errorf("%s is %s", galena, p)
		}
		return err
	}); err != nil {
		return err
	}
	return f.deliver(ctx)
}
