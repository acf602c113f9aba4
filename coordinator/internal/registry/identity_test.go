package registry

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestReplacedKeyStaysReplaced: whatever order the keys of a machine are seen
// in after a loss of the store, and whoever renews in between, that of the
// youngest enrolment is the one that stays.
func TestReplacedKeyStaysReplaced(t *testing.T) {
	h := newHarness(t)
	old := Identity{Fingerprint: "old", NotBefore: h.now.Add(-48 * time.Hour)}
	young := Identity{Fingerprint: "young", NotBefore: h.now.Add(-24 * time.Hour)}
	admit := func(id Identity, want error) {
		t.Helper()
		if err := h.Admit(t.Context(), "pyrite", id); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", id.Fingerprint, err, want)
		}
	}
	// The replaced key comes first, and renews at once.
	admit(old, nil)
	renewed := Identity{Fingerprint: "old", NotBefore: h.now, Expires: h.now.Add(time.Hour)}
	if err := h.Renewed(t.Context(), "pyrite", renewed, audit.Entry{Actor: "host/pyrite", Kind: "renewed", Machine: "pyrite"}); err != nil {
		t.Fatal(err)
	}
	admit(young, nil)
	admit(renewed, ErrSuperseded)
	admit(old, ErrSuperseded)
	admit(young, nil)
	// An enrolment brings a replaced key back; that is an admin's word.
	if err := h.Enrol(t.Context(), "pyrite", renewed, "i", audit.Change{Entries: []audit.Entry{{Actor: "host/pyrite", Kind: "enrolled", Machine: "pyrite"}}}); err != nil {
		t.Fatal(err)
	}
	admit(renewed, nil)
	admit(young, ErrSuperseded)
	h.reopen(t)
	admit(renewed, nil)
	admit(young, ErrSuperseded)
}

// TestCAShown: which CA a host has a certificate of is what it showed last, not what
// was issued to it, which may never have come there.
func TestCAShown(t *testing.T) {
	h := newHarness(t)
	is := func(want string) {
		t.Helper()
		if got, _ := h.Host("pyrite"); got.Identity.CA != want {
			t.Errorf("the CA is %q, want %q", got.Identity.CA, want)
		}
	}
	cert := func(ca string, age time.Duration) Identity {
		at := h.now.Add(-age)
		return Identity{Fingerprint: "key", NotBefore: at, Expires: at.Add(24 * time.Hour), CA: ca, Shown: at}
	}
	old, next := cert("old", 2*time.Hour), cert("next", time.Hour)
	if err := h.Enrol(t.Context(), "pyrite", old, "i", audit.Change{Entries: []audit.Entry{{Actor: "host/pyrite", Kind: "enrolled", Machine: "pyrite"}}}); err != nil {
		t.Fatal(err)
	}
	is("")
	admit := func(id Identity) {
		t.Helper()
		if err := h.Admit(t.Context(), "pyrite", id); err != nil {
			t.Error(err)
		}
	}
	admit(old)
	is("old")
	if err := h.Renewed(t.Context(), "pyrite", next, audit.Entry{Actor: "host/pyrite", Kind: "renewed", Machine: "pyrite"}); err != nil {
		t.Fatal(err)
	}
	is("old")
	admit(next)
	is("next")
	admit(old) // Over a connection of before.
	is("next")
	if err := h.Flush(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	h.reopen(t)
	is("next")
}

func TestReplacedKeysAreBounded(t *testing.T) {
	id := Identity{}
	for i := range 3 * maxLost {
		id = id.replacedBy(Identity{Fingerprint: fmt.Sprint(i)})
	}
	if len(id.Lost) != maxLost || id.Lost[maxLost-1] != fmt.Sprint(3*maxLost-2) || slices.Contains(id.Lost, id.Fingerprint) {
		t.Errorf("remembered: %v", id.Lost)
	}
}

// TestOneHostDoesNotStopTheFlush: a report near the limit, in characters that
// take six times their room where they are escaped for HTML, does not keep
// others' from being written.
func TestOneHostDoesNotStopTheFlush(t *testing.T) {
	h := newHarness(t)
	for _, name := range []fleet.MachineName{"evil", "m1"} {
		if err := h.Admit(t.Context(), name, Identity{Fingerprint: "f", NotBefore: h.now}); err != nil {
			t.Fatal(err)
		}
	}
	r := &fleet.Report{Type: fleet.TypeReport, Fleet: "first", Machine: "evil", InstanceID: "i", Mode: fleet.ModeObserve}
	for i := range fleet.MaxProfiles - 1 {
		r.Profiles = append(r.Profiles, fleet.ProfileStatus{
			Profile: fleet.ProfileName(fmt.Sprintf("home/u%d", i)),
			Reason:  fleet.Reason{Message: strings.Repeat("<", 2000), Hint: strings.Repeat("<", 1900)},
		})
	}
	if err := CheckReport(r, "first", "evil"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Report(t.Context(), "evil", r, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Report(t.Context(), "m1", &fleet.Report{Machine: "m1", InstanceID: "i", Mode: fleet.ModeManage}, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Flush(t.Context(), false); err != nil {
		t.Errorf("flush: %v", err)
	}
	h.reopen(t)
	if host, _ := h.Host("m1"); host.Observed.Mode != fleet.ModeManage || !host.LastSeen.Equal(h.now) {
		t.Errorf("m1: mode %q, seen %s", host.Observed.Mode, host.LastSeen)
	}
}

// TestRecordTooLargeIsLeftOut: it would fail the next time too.
func TestRecordTooLargeIsLeftOut(t *testing.T) {
	h := newHarness(t)
	for _, name := range []fleet.MachineName{"a", "b", "c"} {
		if err := h.Admit(t.Context(), name, Identity{Fingerprint: "f", NotBefore: h.now}); err != nil {
			t.Fatal(err)
		}
		size := 10
		if name == "b" {
			size = 2 * store.MaxTxnBytes
		}
		h.update(h.entry(name), func(host *Host) { host.Observed.Instance = strings.Repeat("x", size) })
		h.pendingObserved[name] = true
	}
	if err := h.Flush(t.Context(), false); err != nil {
		t.Errorf("flush: %v", err)
	}
	h.reopen(t)
	for name, want := range map[fleet.MachineName]int{"a": 10, "b": 0, "c": 10} {
		if host, _ := h.Host(name); len(host.Observed.Instance) != want {
			t.Errorf("%s: %d bytes, want %d", name, len(host.Observed.Instance), want)
		}
	}
}
