package fleetctl

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

func TestWaits(t *testing.T) {
	one, two := client.Ref{Number: "1.1", Digest: "one"}, client.Ref{Number: "1.2", Digest: "two"}
	for _, c := range []struct {
		name      string
		connected bool
		q         profileStatus
		want      bool
	}{
		{"offline, confirmed before", false, profileStatus{State: "confirmed", Desired: two, Current: one, Highest: one}, true},
		{"connected, confirmed before", true, profileStatus{State: "confirmed", Desired: two, Current: one, Highest: one}, true},
		{"refuses what is desired", true, profileStatus{
			State: "confirmed", Desired: two, Current: one, Highest: one, Reason: reasonStatus{Code: fleet.ReasonRefused},
		}, false},
		{"runs what is desired", false, profileStatus{State: "confirmed", Desired: two, Current: two, Highest: two}, false},
		{"never reported", false, profileStatus{Desired: two}, true},
		{"nothing desired", false, profileStatus{State: "idle"}, false},
		{"idle before", true, profileStatus{State: "idle", Desired: two}, true},
		{"rolled back from it", false, profileStatus{State: "rolled-back", Desired: two, Current: one, Highest: two, Refused: []client.Ref{two}}, false},
		{"rolled back from an older one", false, profileStatus{State: "rolled-back", Desired: two, Highest: one, Refused: []client.Ref{one}}, true},
		{"works on it", true, profileStatus{State: "activating", Desired: two, Current: one, Highest: two}, false},
		{"observes", true, profileStatus{State: "idle", Desired: two, Highest: two, Reason: reasonStatus{Code: fleet.ReasonObserve}}, false},
		{"paused", true, profileStatus{State: "idle", Desired: two, Highest: one, Reason: reasonStatus{Code: fleet.ReasonPaused}}, false},
		{"offline, switched by hand before", false, profileStatus{State: "held", Desired: two, Current: one, Highest: one, Reason: reasonStatus{Code: fleet.ReasonOverridden}}, true},
		{"connected, switched by hand", true, profileStatus{State: "held", Desired: two, Current: one, Highest: one, Reason: reasonStatus{Code: fleet.ReasonOverridden}}, true},
		{"switched by hand from what is desired", true, profileStatus{State: "held", Desired: two, Current: two, Highest: two, Reason: reasonStatus{Code: fleet.ReasonOverridden}}, false},
		{"held for another reason", true, profileStatus{State: "held", Desired: two, Current: one, Highest: two, Reason: reasonStatus{Code: fleet.ReasonPaused}}, false},
	} {
		m := &machineStatus{Connected: c.connected}
		if got := m.waits(&c.q); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestStatusWaiting(t *testing.T) {
	w := newWorld(t)
	w.hosts()
	q := w.server.Hosts[1].Profiles[0]
	q.Desired = &fleetv1.GenerationRef{Number: "1.3", Digest: string(fleet.DigestOf([]byte("1.3")))}
	if out := w.ok("status"); !strings.Contains(out, "takes generation 1.3 when back") || !strings.Contains(out, "1 waiting") {
		t.Errorf("table:\n%s", out)
	}
	w.server.Hosts[1].Connected = true
	w.server.Hosts[1].LastSeen = timestamppb.New(w.clock)
	var res statusResult
	if err := json.Unmarshal([]byte(w.ok("status", "cinnabar", "-o", "json")), &res); err != nil {
		t.Fatal(err)
	}
	if p := res.Machines[0].Profiles[0]; p.State != stateWaiting || p.Reason.Code != fleet.ReasonNotReported {
		t.Errorf("profile %+v", p)
	}
}

func TestStatusAfterLostStore(t *testing.T) {
	w := newWorld(t)
	w.enrol("galena")
	w.ok("publish")
	w.server.Hosts = []*fleetv1.Host{{Machine: &fleetv1.Machine{Name: "galena", Class: "linux"}}, {Machine: &fleetv1.Machine{Name: "pyrite", Class: "nixos"}}}
	out := w.ok("status")
	if !strings.Contains(out, "enrolled before") || strings.Contains(out, "fleetctl token galena") || !strings.Contains(out, "fleetctl token pyrite") {
		t.Errorf("table:\n%s", out)
	}
}

// TestStatusOfForgottenBan: a coordinator that lost its store lost the ban too.
func TestStatusOfForgottenBan(t *testing.T) {
	w := newWorld(t)
	w.enrol("galena")
	w.ok("publish")
	w.ok("ban", "galena", "--reason", "stolen")
	for _, back := range []bool{false, true} {
		w.server.Hosts = []*fleetv1.Host{{Machine: &fleetv1.Machine{Name: "galena", Class: "linux"}, Enrolled: back, Connected: back}}
		if out := w.ok("status"); !strings.Contains(out, "1 banned") || !strings.Contains(out, "does not know") {
			t.Errorf("connected again: %v\n%s", back, out)
		}
	}
}

func TestMistakes(t *testing.T) {
	w := newWorld(t)
	w.fails(exitUsage, "host:port", "status", "--coordinator", "nowhere")
	w.fails(exitError, "typo", "events", "-m", "typo")
	w.fails(exitError, "typo", "events", "typo")
	w.fails(exitUsage, "two machines", "events", "galena", "-m", "pyrite")
	w.fails(exitUsage, "root threshold", "init", t.TempDir(), "--fleet", "x", "--coordinator-machine", "y", "--address", "z:1", "--root-threshold", "3")
	w.server.Events = []*fleetv1.WatchEventsResponse{{Seq: 1, Time: timestamppb.New(w.clock), Kind: "ban", Machine: "gone"}}
	w.ok("events", "-m", "gone")
	w.published()
	w.hosts()
	w.server.Hosts[0].Profiles[0].Refused = nil
	w.fails(exitError, "nothing is refused", "retry", "galena")
	if len(w.server.Loosenings) != 0 {
		t.Error("it was signed")
	}
}
