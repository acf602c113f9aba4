package coordinator_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/coordinator"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

func TestNewRefuses(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t)
	config := func(edit func(*coordinator.Config)) error {
		c := coordinator.Config{Kit: w.kit, StateDir: t.TempDir(), Listen: "127.0.0.1:0"}
		edit(&c)
		co, err := coordinator.New(t.Context(), c)
		if err == nil {
			check(t, co.Close())
		}
		return err
	}
	with := func(edit func(*kit.Kit)) func(*coordinator.Config) {
		return func(c *coordinator.Config) {
			k := *w.kit
			edit(&k)
			c.Kit = &k
		}
	}
	t.Run("good", func(t *testing.T) { check(t, config(func(*coordinator.Config) {})) })
	for name, tt := range map[string]struct {
		edit func(*coordinator.Config)
		want error
	}{
		"no kit":        {func(c *coordinator.Config) { c.Kit = nil }, nil},
		"malformed kit": {with(func(k *kit.Kit) { k.Name = "" }), kit.ErrMalformed},
		"other pin":     {with(func(k *kit.Kit) { k.RootPin = other.kit.RootPin }), release.ErrRootPin},
		"other fleet":   {with(func(k *kit.Kit) { k.Fleet = "second" }), release.ErrWrongFleet},
		"other CA key":  {with(func(k *kit.Kit) { k.CAKey = other.kit.CAKey }), nil},
		"other key":     {with(func(k *kit.Kit) { k.Key = other.kit.Key }), nil},
		"in use":        {func(c *coordinator.Config) { c.StateDir = w.state }, store.ErrInUse},
		"address":       {func(c *coordinator.Config) { c.Listen = "127.0.0.1:99999" }, nil},
		"state dir a file": {func(c *coordinator.Config) {
			c.StateDir = filepath.Join(t.TempDir(), "f")
			check(t, os.WriteFile(c.StateDir, nil, 0o600))
		}, nil},
		"damaged store": {func(c *coordinator.Config) {
			check(t, os.WriteFile(filepath.Join(c.StateDir, "fleet.db"), []byte(strings.Repeat("x", 9000)), 0o600))
		}, store.ErrCorrupt},
		"address in use":    {func(c *coordinator.Config) { c.Listen = w.addr }, nil},
		"nobody left admin": {with(func(k *kit.Kit) { k.Operators = k.Operators[1:] }), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if err := config(tt.edit); err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	t.Run("another fleet's state", func(t *testing.T) {
		second := newFleetWorld(t, "second")
		second.stop()
		w.stop()
		if _, err := coordinator.New(t.Context(), coordinator.Config{Kit: second.kit, StateDir: w.state, Listen: "127.0.0.1:0"}); !errors.Is(err, coordinator.ErrOtherFleet) {
			t.Errorf("got %v", err)
		}
	})
}

// TestNewKitLetsBackIn restarts with a kit that has other operators and bans.
func TestNewKitLetsBackIn(t *testing.T) {
	w := newWorld(t)
	mallory := &fleetv1.Operator{Name: "mallory", Role: string(fleet.RoleAdmin)}
	_, err := w.operator("cameron").ApplyInventory(t.Context(), &fleetv1.ApplyInventoryRequest{
		Operators: []*fleetv1.Operator{mallory, {Name: "cameron", Role: string(fleet.RoleAdmin)}},
	})
	check(t, err)
	_, err = w.operator("mallory").ApplyInventory(t.Context(), &fleetv1.ApplyInventoryRequest{
		Machines: []*fleetv1.Machine{{Name: "rosegold", Class: "darwin"}}, Operators: []*fleetv1.Operator{mallory},
	})
	check(t, err)
	list := func() error {
		_, err := w.operator("cameron").ListReleases(t.Context(), &fleetv1.ListReleasesRequest{})
		return err
	}
	wantRefusal(t, list(), codes.PermissionDenied, refusal.NotAllowed)
	w.stop()
	w.start() // The same kit changes nothing.
	wantRefusal(t, list(), codes.PermissionDenied, refusal.NotAllowed)
	w.stop()
	k := *w.kit
	k.Bans = []kit.Ban{{Machine: "stibnite", Reason: "sold"}}
	w.kit = &k
	w.start()
	check(t, list())
	if got := w.status("stibnite").GetBanned(); got != "sold" {
		t.Errorf("stibnite is banned for %q", got)
	}
	if got := w.status("rosegold").GetMachine().GetClass(); got != "darwin" {
		t.Errorf("rosegold is of class %q", got)
	}
}

// TestKitBansAgain bans with a kit what was banned before and let in again: a
// ban that was made later than that counts, an older one does not.
func TestKitBansAgain(t *testing.T) {
	w := newWorld(t)
	admin := w.operator("cameron")
	_, err := admin.Ban(t.Context(), &fleetv1.BanRequest{Machine: "pyrite", Reason: "lost"})
	check(t, err)
	before := w.clock.now()
	w.clock.advance(time.Minute)
	_, err = admin.Ban(t.Context(), &fleetv1.BanRequest{Machine: "pyrite", Reason: "found", Lift: true})
	check(t, err)
	restart := func(at time.Time) string {
		w.stop()
		k := *w.kit
		k.Bans = []kit.Ban{{Machine: "pyrite", Reason: "lost again", Time: at}}
		w.kit = &k
		w.start()
		return w.status("pyrite").GetBanned()
	}
	if got := restart(before); got != "" {
		t.Errorf("the older ban is in force: %q", got)
	}
	w.clock.advance(time.Minute)
	if got := restart(w.clock.now()); got != "lost again" {
		t.Errorf("after the newer ban status says %q", got)
	}
}

func TestApplyInventory(t *testing.T) {
	w := newWorld(t)
	apply := func(who fleet.OperatorName, operators []*fleetv1.Operator, machines ...*fleetv1.Machine) (bool, error) {
		r, err := w.operator(who).ApplyInventory(t.Context(), &fleetv1.ApplyInventoryRequest{Machines: machines, Operators: operators})
		return r.GetChanged(), err
	}
	m := &fleetv1.Machine{Name: "blackphos", Class: "darwin", Tags: []string{"laptop"}}
	changed, err := apply("dana", []*fleetv1.Operator{{Name: "dana", Role: "admin"}}, m)
	check(t, err)
	if !changed {
		t.Error("nothing changed")
	}
	// A deployer made herself no admin by that.
	_, err = w.operator("dana").Ban(t.Context(), &fleetv1.BanRequest{Machine: "blackphos", Reason: "x"})
	wantRefusal(t, err, codes.PermissionDenied, refusal.NotAllowed)
	changed, err = apply("dana", nil, m)
	check(t, err)
	if changed {
		t.Error("the same inventory again changed something")
	}
	for name, bad := range map[string][]*fleetv1.Machine{
		"name":  {{Name: "../x", Class: "nixos"}},
		"nul":   {{Name: "a\x00", Class: "nixos"}},
		"upper": {{Name: "Galena", Class: "nixos"}},
		"class": {{Name: "galena", Class: "beos"}},
		"twice": {m, m},
		"tag":   {{Name: "galena", Class: "nixos", Tags: []string{""}}},
	} {
		_, err := apply("cameron", nil, bad...)
		if r, _ := refusal.Of(err); r.Code != refusal.Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = apply("cameron", []*fleetv1.Operator{{Name: "cameron", Role: "viewer"}}, m)
	wantRefusal(t, err, codes.FailedPrecondition, refusal.NotAllowed)
	_, err = apply("cameron", []*fleetv1.Operator{{Name: "cameron", Role: "king"}}, m)
	wantRefusal(t, err, codes.InvalidArgument, refusal.Malformed)
}

// TestAdminsDoNotLockThemselvesOut: a slip of the pen in fleet.yaml is refused;
// another admin may take the role away.
func TestAdminsDoNotLockThemselvesOut(t *testing.T) {
	w := newWorld(t)
	apply := func(as fleet.OperatorName, operators ...*fleetv1.Operator) error {
		_, err := w.operator(as).ApplyInventory(t.Context(), &fleetv1.ApplyInventoryRequest{Operators: operators})
		return err
	}
	other := &fleetv1.Operator{Name: "other", Role: string(fleet.RoleAdmin)}
	wantRefusal(t, apply("cameron", other), codes.FailedPrecondition, refusal.NotAllowed)
	wantRefusal(t, apply("cameron", other, &fleetv1.Operator{Name: "cameron", Role: string(fleet.RoleViewer)}),
		codes.FailedPrecondition, refusal.NotAllowed)
	check(t, apply("cameron", other, &fleetv1.Operator{Name: "cameron", Role: string(fleet.RoleAdmin)}))
	check(t, apply("other", other))
	wantRefusal(t, apply("cameron", other), codes.PermissionDenied, refusal.NotAllowed)
}

// TestBansOfTheRepository: an admin's inventory brings the bans back that a lost
// store had, and no one that was lifted since.
func TestBansOfTheRepository(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	at := w.clock.now()
	w.clock.advance(time.Minute)
	apply := func(as fleet.OperatorName, bans ...*fleetv1.RecordedBan) error {
		_, err := w.operator(as).ApplyInventory(t.Context(), &fleetv1.ApplyInventoryRequest{
			Machines: []*fleetv1.Machine{{Name: "galena", Class: string(fleet.ClassNixOS)}}, Bans: bans,
		})
		return err
	}
	ban := &fleetv1.RecordedBan{Machine: "galena", Reason: "stolen", Time: timestamppb.New(at)}
	served := func() error {
		_, err := a.host.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{})
		return err
	}
	check(t, apply("dana", ban)) // a deployer: ignored
	check(t, served())
	check(t, apply("cameron", ban))
	wantRefusal(t, served(), codes.PermissionDenied, fleet.ReasonBanned)
	if n, _ := count(w.events("galena"), "host-banned"); n != 1 {
		t.Errorf("%d events", n)
	}
	check(t, apply("cameron", ban)) // again: nothing new
	_, err := w.operator("cameron").Ban(t.Context(), &fleetv1.BanRequest{Machine: "galena", Reason: "found", Lift: true})
	check(t, err)
	check(t, apply("cameron", ban)) // a checkout that is behind
	check(t, served())
	// Lifted where the store that knew the ban was lost.
	w.clock.advance(time.Minute)
	w.wipe()
	a.use(a.cert.Certificate[0])
	check(t, served())
	_, err = w.operator("cameron").Ban(t.Context(), &fleetv1.BanRequest{Machine: "galena", Reason: "found", Lift: true})
	check(t, err)
	check(t, apply("cameron", ban))
	check(t, served())
	for _, bad := range []*fleetv1.RecordedBan{{Machine: "../x", Reason: "x"}, {Machine: "galena"}, {Machine: "galena", Reason: strings.Repeat("x", 1<<20)}} {
		wantRefusal(t, apply("cameron", bad), codes.InvalidArgument, refusal.Malformed)
	}
}

// TestFollowerCeasesToBeOperator: a stream that goes on for long ends with the
// operator's role, and with its certificate.
func TestFollowerCeasesToBeOperator(t *testing.T) {
	follow := func(w *world) grpc.ServerStreamingClient[fleetv1.WatchEventsResponse] {
		s, err := w.operator("vic").WatchEvents(t.Context(), &fleetv1.WatchEventsRequest{FromSeq: 1, Follow: true})
		check(t, err)
		_, err = s.Recv()
		check(t, err)
		return s
	}
	ended := func(s grpc.ServerStreamingClient[fleetv1.WatchEventsResponse]) (err error) {
		for err == nil {
			_, err = s.Recv()
		}
		return err
	}
	t.Run("role", func(t *testing.T) {
		w := newWorld(t)
		s := follow(w)
		_, err := w.operator("cameron").ApplyInventory(t.Context(), &fleetv1.ApplyInventoryRequest{
			Operators: []*fleetv1.Operator{{Name: "cameron", Role: string(fleet.RoleAdmin)}},
			Machines:  []*fleetv1.Machine{{Name: "galena", Class: string(fleet.ClassNixOS)}},
		})
		check(t, err)
		w.join("galena") // The next event, at the latest.
		wantRefusal(t, ended(s), codes.PermissionDenied, refusal.NotAllowed)
	})
	t.Run("certificate", func(t *testing.T) {
		w := newWorld(t)
		s := follow(w)
		admin := w.operator("cameron")
		w.clock.advance(pki.HostTTL + time.Hour)
		_, err := admin.Ban(t.Context(), &fleetv1.BanRequest{Machine: "pyrite", Reason: "an event"})
		wantRefusal(t, err, codes.Unauthenticated, refusal.IdentityExpired)
		w.join("galena") // with a new certificate
		wantRefusal(t, ended(s), codes.Unauthenticated, refusal.IdentityExpired)
	})
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all := w.events("")
	s, err := w.operator("vic").WatchEvents(ctx, &fleetv1.WatchEventsRequest{FromSeq: 2, Follow: true})
	check(t, err)
	w.join("galena")
	for want := uint64(2); ; want++ {
		e, err := s.Recv()
		check(t, err)
		if e.GetSeq() != want || len(e.GetHash()) != 64 {
			t.Fatalf("event %v, want number %d", e, want)
		}
		if e.GetKind() == "token-created" {
			if e.GetActor() != "operator/cameron" || e.GetMachine() != "galena" || int(want) != len(all)+1 {
				t.Errorf("event: %v", e)
			}
			break
		}
	}
	for range 60 {
		_, err := w.operator("cameron").Ban(t.Context(), &fleetv1.BanRequest{Machine: "pyrite", Reason: "again"})
		check(t, err)
	}
	recent, err := w.operator("vic").WatchEvents(t.Context(), &fleetv1.WatchEventsRequest{})
	check(t, err)
	if n := len(collect(t, recent)); n != 50 {
		t.Errorf("%d recent events, want 50", n)
	}
	// A stop ends those who follow, with a reason.
	w.stop()
	for {
		_, err := s.Recv()
		if err != nil {
			wantRefusal(t, err, codes.Unavailable, refusal.Stopping)
			break
		}
	}
	w.start()
}

// TestStopIsBounded stops a coordinator while an upload stalls and a host
// watches.
func TestStopIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.enrolled("galena")
	s := a.mustWatch(t.Context())
	up, err := w.operator("dana").PutBlob(t.Context())
	check(t, err)
	check(t, up.Send(&fleetv1.PutBlobRequest{Digest: string(fleet.DigestOf(nil)), Size: 1 << 20, Data: []byte("x")}))
	waitFor(t, func() bool {
		st, err := w.operator("dana").StatBlob(t.Context(), &fleetv1.StatBlobRequest{Digest: string(fleet.DigestOf(nil)), Size: 1 << 20})
		check(t, err)
		return st.GetOffset() > 0
	})
	began := time.Now()
	w.stop()
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("stopping took %s", took)
	}
	wantRefusal(t, ended(s), codes.Unavailable, refusal.Stopping)
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	h := grpc_health_v1.NewHealthClient(w.as(w.issue(pki.HostIdentity(fleetID, "galena"))))
	r, err := h.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	check(t, err)
	if r.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("%s", r.GetStatus())
	}
}

// TestLastSeen writes signs of life at the end.
func TestLastSeen(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	a.mustWatch(t.Context())
	w.clock.advance(time.Hour)
	stopped := w.clock.now()
	w.stop()
	w.clock.advance(time.Hour)
	w.start()
	h := w.status("galena")
	if seen := h.GetLastSeen().AsTime(); h.GetConnected() || seen.Sub(stopped).Abs() > 10*time.Second || h.GetAgentVersion() != "test" {
		t.Errorf("seen %s, stopped %s: %v", seen, stopped, h)
	}
}
