package registry

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func TestAllowance(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var a allowance
	take := func(n int, want bool) {
		t.Helper()
		if got := a.take(n, now); got != want {
			t.Fatalf("take(%d) is %t with %d used", n, got, a.used)
		}
	}
	take(eventBurst+1, false)
	take(eventBurst, true)
	take(1, false)
	now = now.Add(eventEvery - 1)
	take(1, false)
	now = now.Add(1)
	take(1, true)
	take(1, false)
	now = now.Add(-time.Hour)
	take(1, false)
	now = now.Add(2*eventEvery + eventEvery/2)
	take(3, false)
	take(2, true)
	now = now.Add(100 * 365 * 24 * time.Hour)
	take(eventBurst, true)
	take(1, false)
}

// TestHostDoesNotFillTheEventLog has a host report and renew without end.
func TestHostDoesNotFillTheEventLog(t *testing.T) {
	h := newHarness(t)
	id := Identity{Fingerprint: "f", NotBefore: h.now, Expires: h.now.Add(time.Hour)}
	if err := h.Admit(t.Context(), "m1", id); err != nil {
		t.Fatal(err)
	}
	h.lookup("m1").events.take(eventBurst-2, h.now)
	seq := uint64(0)
	report := func() error {
		r := &fleet.Report{Machine: "m1", InstanceID: "i", Mode: fleet.ModeManage}
		for range 2 {
			seq++
			r.Transitions = append(r.Transitions, fleet.Transition{Seq: seq, Profile: fleet.System, State: fleet.StateHeld})
		}
		_, err := h.Report(t.Context(), "m1", r, nil)
		return err
	}
	renew := func() error {
		return h.Renewed(t.Context(), "m1", id, audit.Entry{Actor: "host/m1", Kind: "identity-renewed", Machine: "m1"})
	}
	if err := report(); err != nil {
		t.Fatal(err)
	}
	if err := report(); !errors.Is(err, ErrTooOften) {
		t.Errorf("a report too many: %v", err)
	}
	if err := renew(); !errors.Is(err, ErrTooOften) {
		t.Errorf("a renewal too many: %v", err)
	}
	h.now = h.now.Add(eventEvery)
	if err := renew(); err != nil {
		t.Error(err)
	}
	h.now = h.now.Add(2 * eventEvery)
	if err := report(); err != nil {
		t.Errorf("the refused transitions are not taken later: %v", err)
	}
}

func TestHelloIsPlainAndShort(t *testing.T) {
	good := Hello{Instance: "i", Boot: "b", Version: "v1.2.3 (dirty)", Capabilities: []string{"driver:bundle"}}
	if err := CheckHello(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Hello){
		"no instance":       func(h *Hello) { h.Instance = "" },
		"long boot":         func(h *Hello) { h.Boot = strings.Repeat("b", maxHello+1) },
		"escape in version": func(h *Hello) { h.Version = "\x1b[2J" },
		"many capabilities": func(h *Hello) { h.Capabilities = make([]string, maxCapabilities+1) },
		"NUL in capability": func(h *Hello) { h.Capabilities = []string{"a\x00"} },
	} {
		h := good
		spoil(&h)
		if err := CheckHello(h); !errors.Is(err, ErrReport) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFullDiskCostsNoAllowance: what could not be written is not held against
// the host.
func TestFullDiskCostsNoAllowance(t *testing.T) {
	h := newHarness(t)
	id := Identity{Fingerprint: "f", NotBefore: h.now, Expires: h.now.Add(time.Hour)}
	if err := h.Admit(t.Context(), "m1", id); err != nil {
		t.Fatal(err)
	}
	r := &fleet.Report{Machine: "m1", InstanceID: "i", Mode: fleet.ModeManage}
	for seq := range 3 {
		r.Transitions = append(r.Transitions, fleet.Transition{Seq: uint64(seq) + 1, Profile: fleet.System, State: fleet.StateHeld})
	}
	full := errors.New("no space left on device")
	h.store.fail(full)
	h.lookup("m1").events.take(eventBurst-len(r.Transitions), h.now)
	for range 3 {
		if _, err := h.Report(t.Context(), "m1", r, nil); !errors.Is(err, full) {
			t.Fatal(err)
		}
		if err := h.Renewed(t.Context(), "m1", id, audit.Entry{Actor: "host/m1", Kind: "identity-renewed", Machine: "m1"}); !errors.Is(err, full) {
			t.Fatal(err)
		}
	}
	h.store.fail(nil)
	if _, err := h.Report(t.Context(), "m1", r, nil); err != nil {
		t.Error(err)
	}
}
