package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// records is a store of which nothing is asked but reading.
type records struct {
	store.Store
	kv store.KV
}

func (r *records) List(_ context.Context, prefix, after string, _ int) ([]store.KV, error) {
	if strings.HasPrefix(r.kv.Key, prefix) && r.kv.Key > after {
		return []store.KV{r.kv}, nil
	}
	return nil, nil
}

func openRecord(ctx context.Context, key string, value []byte) (*Registry, error) {
	return Open(ctx, Options{
		Store: &records{kv: store.KV{Key: key, Value: value}}, Actor: "coordinator/c",
		Now: func() time.Time { return time.Unix(1_800_000_000, 0) }, Slog: slog.New(slog.DiscardHandler),
	})
}

// FuzzStored: whatever became of a record, it is of whom its key names, or is
// refused with that name; nobody else appears, and who is banned stays so.
func FuzzStored(f *testing.F) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	key := strings.Repeat("ab", 32)
	ref := fleet.Ref{Number: fleet.Number{Epoch: 1, Seq: 2}, Digest: fleet.DigestOf(nil), Release: "r1"}
	whole := []struct {
		key   string
		value any
	}{
		{operatorPrefix + "ann", Operator{Name: "ann", Role: fleet.RoleAdmin, Key: key, Changed: at}},
		{machinePrefix + "galena", Machine{Name: "galena", Class: "nixos", Tags: []string{"web"}}},
		{identityPrefix + "galena", Identity{Fingerprint: key, Since: at, NotBefore: at, Expires: at.AddDate(1, 0, 0), Lost: []string{key}, Keys: []byte("{}"), MAC: []byte("m")}},
		{observedPrefix + "galena", Observed{
			Mode: fleet.ModeManage, Reported: at, Instance: "i", Acked: 7, LogHead: fleet.LogHead{Seq: 3, Hash: key},
			Confirmed: map[fleet.ProfileName][]fleet.Ref{fleet.System: {ref}},
		}},
		{banPrefix + "galena", ban{Reason: "stolen", Actor: "operator/ann", Time: at}},
		{seenPrefix + "0a", map[fleet.MachineName]seen{"galena": {At: at.Unix(), Hello: Hello{Version: "v", Instance: "i", Boot: "b", Run: "r", Capabilities: []string{"c"}}}}},
		{operatorSeenPrefix + "ann", OperatorSeen{At: at.Unix(), Expires: at, CA: "0a0b"}},
	}
	for i, r := range whole {
		text, err := json.Marshal(r.value)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := openRecord(f.Context(), r.key, text); err != nil {
			f.Error(err)
		}
		f.Add(uint8(i), text) //nolint:gosec // A few.
	}
	f.Add(uint8(0), []byte(`{"name":"bob","role":"admin"}`))
	f.Add(uint8(1), []byte("null"))
	f.Add(uint8(4), []byte(`{"actor":"operator/ann"}`))
	f.Add(uint8(4), []byte(`{"lifted":true}`))
	f.Add(uint8(5), []byte(`{"../x":{"at":1}}`))
	f.Add(uint8(5), []byte(`{"galena":{"at":-9223372036854775808}}`))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		r := whole[int(which)%len(whole)]
		reg, err := openRecord(t.Context(), r.key, data)
		if err != nil {
			if !strings.Contains(err.Error(), "decoding "+r.key) {
				t.Errorf("refused as %v", err)
			}
			return
		}
		for _, h := range reg.Hosts() {
			if _, err := fleet.ParseMachineName(string(h.Name)); err != nil || h.Machine != nil && h.Machine.Name != h.Name {
				t.Errorf("%s is read of %q: %v", h.Name, data, err)
			}
			if prefix, _, _ := strings.Cut(r.key, "/"); prefix != "seen" && h.Name != "galena" {
				t.Errorf("%s is read of %s", h.Name, r.key)
			}
		}
		for _, o := range reg.Operators() {
			if o.Name != "ann" || r.key != operatorPrefix+"ann" {
				t.Errorf("%+v is read of %s", o, r.key)
			}
		}
		h, _ := reg.Host("galena")
		_ = fmt.Sprintf("%+v %v", h, h.LastSeen) // as listings show it
		if r.key == banPrefix+"galena" {
			var b ban
			if err := json.Unmarshal(data, &b); err != nil {
				t.Fatal(err)
			}
			if banned := h.Banned != ""; banned != !b.Lifted {
				t.Errorf("%q: banned is %t", data, banned)
			}
		}
	})
}

// TestBanWithoutReason: a ban in which nobody gave a reason, as one that was
// written into the repository by hand, is a ban.
func TestBanWithoutReason(t *testing.T) {
	h := newHarness(t)
	if err := h.SeedBan(t.Context(), "operator/ann", "galena", "", h.now); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if host, ok := h.Host("galena"); !ok || host.Banned == "" {
			t.Errorf("not banned: %+v", host)
		}
		if _, err := h.Attach(t.Context(), "galena", Hello{Instance: "i"}); !errors.Is(err, ErrBanned) {
			t.Errorf("let in: %v", err)
		}
		h.reopen(t)
	}
}
