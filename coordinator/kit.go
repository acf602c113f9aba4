package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
)

// Keys in the store.
const (
	fleetKey = "meta/fleet"
	kitKey   = "meta/kit"
)

// claim makes the store that of the fleet, or refuses another fleet's.
func claim(ctx context.Context, s store.Store, f fleet.FleetID) error {
	kv, err := s.Get(ctx, fleetKey)
	if errors.Is(err, store.ErrNotFound) {
		_, err = s.Txn(ctx, []store.Cond{{Key: fleetKey}}, []store.Op{{Key: fleetKey, Value: []byte(f)}})
		return err
	}
	if err != nil {
		return err
	}
	if string(kv.Value) != string(f) {
		return fmt.Errorf("%w: it is of %q, the kit of %q: give each fleet its own", ErrOtherFleet, kv.Value, f)
	}
	return nil
}

// applyKit takes machines, operators and bans from a kit that this store has
// not seen: a fresh store begins with them; into another one the kit's entries
// are merged, and so are its operators, the younger record of two counting, so
// that a new kit is the way back in for who locked themselves out.
func applyKit(ctx context.Context, s store.Store, r *registry.Registry, k *kit.Kit, actor string) error {
	public, err := json.Marshal(struct {
		Machines  []kit.Machine
		Operators []kit.Operator
		Bans      []kit.Ban
	}{k.Machines, k.Operators, k.Bans})
	if err != nil {
		return fmt.Errorf("applying the kit: %w", err)
	}
	digest := fleet.DigestOf(public)
	switch kv, err := s.Get(ctx, kitKey); {
	case err == nil && string(kv.Value) == string(digest):
		return nil
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("applying the kit: %w", err)
	}
	machines := map[fleet.MachineName]registry.Machine{}
	for _, h := range r.Hosts() {
		if h.Machine != nil {
			machines[h.Name] = *h.Machine
		}
	}
	for _, m := range k.Machines {
		machines[m.Name] = registry.Machine(m)
	}
	all := make([]registry.Machine, 0, len(machines))
	for _, m := range machines {
		all = append(all, m)
	}
	var operators []registry.Operator
	for _, o := range k.Operators {
		operators = append(operators, registry.Operator(o))
	}
	if _, err := r.ApplyInventory(ctx, actor, "", all, operators); err != nil {
		return fmt.Errorf("applying the kit: %w", err)
	}
	for _, b := range k.Bans {
		if err := r.SeedBan(ctx, actor, b.Machine, b.Reason, b.Time); err != nil {
			return fmt.Errorf("applying the kit: %w", err)
		}
	}
	crashpoint.Hit(crashpoint.KitApplied)
	// Last: after a crash before it, all is applied again.
	if _, err := s.Txn(ctx, nil, []store.Op{{Key: kitKey, Value: []byte(digest)}}); err != nil {
		return fmt.Errorf("applying the kit: %w", err)
	}
	return nil
}
