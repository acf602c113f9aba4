package publisher

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// finish adds the manifest and compares with what was published before.
func (b *builder) finish(it *item, entries []fleet.SecretEntry) error {
	revoked, err := b.revoked(it.gen.Machine)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if floor := revoked.Floors[e.Name]; e.Version < floor {
			return ui.WithHint(fmt.Errorf("secret %s: version %d: %w: at least %d is wanted", e.Name, e.Version, ErrRevoked, floor),
				"give it a new value (fleetctl vars rotate, or its file anew), and publish without --refresh")
		}
	}
	none := len(revoked.Floors) == 0 && revoked.Before.IsZero() || it.gen.Profile != fleet.System
	if len(entries) > 0 || !none {
		it.manifest = &fleet.SecretsManifest{
			Type: fleet.TypeSecrets, Fleet: b.p.Fleet, Machine: it.gen.Machine, Profile: it.gen.Profile,
			Issued: it.gen.Issued, Expires: it.gen.Expires, Entries: append([]fleet.SecretEntry{}, entries...),
			Floors: revoked.Floors, RevokedBefore: revoked.Before,
		}
		it.manifest.Critical = criticalSecrets(it.manifest)
		if err := it.manifest.Validate(); err != nil {
			return err
		}
	}
	if old := b.h.of(subject{it.gen.Machine, it.gen.Profile}); len(old.committed) > 0 {
		gen, before, err := newest(old)
		if err != nil {
			return err
		}
		it.same = sameSource(gen.Source, it.gen.Source) && sameSecrets(before, it.manifest)
	}
	return nil
}

// revoked is what a machine may not have any more: what this repository says, and what was
// ever signed, so that a checkout that is behind brings nothing back.
func (b *builder) revoked(m fleet.MachineName) (repo.Revoked, error) {
	r, err := b.p.Repo.Revoked(m)
	if err != nil {
		return r, err
	}
	if signed := b.h.revoked[m]; signed != nil {
		r.Raise(*signed)
	}
	if r.Before.After(b.pl.issued) {
		return r, ui.WithHint(fmt.Errorf("secrets/%s/revoked.json: values were revoked at %s: %w", m, r.Before.UTC().Format(time.RFC3339), ErrClock),
			"set this machine's clock, or that of who revoked them")
	}
	return r, nil
}

// mayRepeat refuses to sign anew what has revoked values in itself.
func (b *builder) mayRepeat(target Target, gen fleet.Generation) error {
	r, err := b.revoked(target.Machine)
	if err == nil && gen.Issued.Before(r.Before) {
		err = ui.WithHint(fmt.Errorf("generation %s has values of which %w on %s", gen.Number, ErrRevoked, r.Before.UTC().Format(time.DateTime)),
			"publish without --refresh, with a source that has new ones")
	}
	return err
}

// criticalSecrets lists what is asked of secrets that an agent that does not know it must
// not pass over.
func criticalSecrets(m *fleet.SecretsManifest) (rules []string) {
	some := func(is func(fleet.SecretEntry) bool) bool { return slices.ContainsFunc(m.Entries, is) }
	for _, r := range []struct {
		rule  string
		asked bool
	}{
		{fleet.CriticalNeededFor, some(func(e fleet.SecretEntry) bool { return e.NeededFor.Early() })},
		{fleet.CriticalSecretFormat, some(func(e fleet.SecretEntry) bool { return e.Format != "" })},
		{fleet.CriticalRestartUnits, some(func(e fleet.SecretEntry) bool { return len(e.RestartUnits) > 0 })},
		{fleet.CriticalAlso, some(func(e fleet.SecretEntry) bool { return len(e.Also) > 0 })},
		{fleet.CriticalFloors, len(m.Floors) > 0},
		{fleet.CriticalRevokedBefore, !m.RevokedBefore.IsZero()},
	} {
		if r.asked {
			rules = append(rules, r.rule)
		}
	}
	return rules
}

// sameSecrets says whether a host has the same by both; no manifest is one of nothing.
func sameSecrets(before fleet.SecretsManifest, now *fleet.SecretsManifest) bool {
	if now == nil {
		now = &fleet.SecretsManifest{}
	}
	return (len(before.Entries) == 0 && len(now.Entries) == 0 || reflect.DeepEqual(before.Entries, now.Entries)) &&
		maps.Equal(before.Floors, now.Floors) && before.RevokedBefore.Equal(now.RevokedBefore)
}

// newest reads the newest generation that hosts could see, with its manifest.
func newest(old *past) (fleet.Generation, fleet.SecretsManifest, error) {
	gen, err := repo.Decode[fleet.Generation](old.newest.Generation)
	if err != nil || len(old.newest.Secrets) == 0 {
		return gen, fleet.SecretsManifest{}, err
	}
	m, err := repo.Decode[fleet.SecretsManifest](old.newest.Secrets)
	return gen, m, err
}
