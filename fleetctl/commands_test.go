package fleetctl

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/buildinfo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

func TestHelp(t *testing.T) {
	w := &world{t: t, dir: t.TempDir(), config: t.TempDir()}
	w.golden("help", w.ok("--help"))
	for _, args := range [][]string{
		{"--no-such-flag"},
		{"no-such-command"},
		{"token"},
		{"token", "a", "b"},
		{"init"},
		{"ban", "galena"},
		{"status", "-o", "xml"},
		{"publish", "--dry-run=maybe"},
		{"token", "UPPER", "--dir", "/nonexistent", "extra"},
	} {
		w.fails(exitUsage, "fleetctl: ", args...)
	}
	w.fails(exitError, "no fleet repository", "status", "--dir", w.dir)
	if out := w.ok("completion", "bash"); !strings.Contains(out, "fleetctl") {
		t.Error("no completion")
	}
	var v buildinfo.Info
	if err := json.Unmarshal([]byte(w.ok("version", "-o", "json")), &v); err != nil || v.Go == "" {
		t.Errorf("version %+v: %v", v, err)
	}
}

func TestToken(t *testing.T) {
	w := newWorld(t)
	code, out, errs := w.run("token", "galena")
	if code != exitOK || strings.Count(out, "\n") != 1 || !strings.Contains(errs, "  fleet-agent enrol -\n") || strings.Contains(errs, "JOIN") {
		t.Fatalf("exit %d\n%s\n%s", code, out, errs)
	}
	join, err := pki.ParseJoin(out)
	if err != nil {
		t.Fatal(err)
	}
	_, pin, err := repo.At(w.dir).Trust()
	if err != nil {
		t.Fatal(err)
	}
	k := w.kit()
	if join.Machine != "galena" || join.Root != pin || join.Root != k.RootPin || join.CA != fleet.DigestOf(k.CACert) || join.Addresses[0] != w.server.Address {
		t.Errorf("join string %+v", join)
	}
	if len(w.server.Tokens) != 1 {
		t.Errorf("tokens %v", w.server.Tokens)
	}
	files, err := filepath.Glob(filepath.Join(w.dir, "joins", "*.age"))
	if err != nil || len(files) != 1 {
		t.Fatalf("joins: %v, %v", files, err)
	}
	kept, err := os.ReadFile(files[0])
	if err != nil || strings.Contains(string(kept), "fleet-join1") {
		t.Errorf("the join string is kept in the clear (%v)", err)
	}
	w.fails(exitError, "disabled", "token", "electrum")
	w.fails(exitUsage, "malformed name", "token", "../x")
	var res tokenResult
	if err := json.Unmarshal([]byte(w.ok("token", "galena", "-o", "json")), &res); err != nil || res.Machine != "galena" {
		t.Errorf("%+v, %v", res, err)
	}
}

// hosts gives the coordinator hosts in all sorts of states.
func (w *world) hosts() {
	ref := func(n string) *fleetv1.GenerationRef {
		return &fleetv1.GenerationRef{Number: n, Digest: string(fleet.DigestOf([]byte(n))), Release: "r20260301-110000-00000" + n[2:]}
	}
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(w.clock.Add(-d)) }
	w.server.Hosts = []*fleetv1.Host{
		{
			Machine: &fleetv1.Machine{Name: "galena", Class: "linux", Tags: []string{"web"}}, Enrolled: true, Connected: true,
			LastSeen: ago(time.Second), Mode: "manage", AgentVersion: "0.1.0", IdentityExpires: timestamppb.New(w.clock.AddDate(0, 0, 6)),
			Profiles: []*fleetv1.ProfileStatus{{
				Profile: "system", State: "rolled-back",
				Reason:  &fleetv1.Reason{Code: "probe-failed", Message: "probe health: \x1b[31mconnection refused", Hint: "look at fleet-agent logs"},
				Desired: ref("1.2"), Current: ref("1.1"), Confirmed: ref("1.1"), LastGood: ref("1.1"), Highest: ref("1.2"),
				Refused: []*fleetv1.GenerationRef{ref("1.2")},
			}},
		},
		{
			Machine: &fleetv1.Machine{Name: "cinnabar", Class: "linux", Tags: []string{"web"}}, Enrolled: true,
			LastSeen: ago(75 * time.Minute), Mode: "manage",
			Profiles: []*fleetv1.ProfileStatus{
				{
					Profile: "system", State: "confirmed", Reason: &fleetv1.Reason{Code: "up-to-date", Message: "nothing to do"},
					Desired: ref("1.2"), Current: ref("1.2"), Confirmed: ref("1.2"),
				},
				{Profile: "home/alice", State: "idle", Reason: &fleetv1.Reason{Code: "nothing-desired"}},
			},
		},
		{Machine: &fleetv1.Machine{Name: "electrum", Class: "linux", Disabled: true}},
		{Machine: &fleetv1.Machine{Name: "quartz", Class: "linux"}, Enrolled: true, Banned: "stolen", LastSeen: ago(40 * 24 * time.Hour)},
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t)
	w.hosts()
	w.golden("status", w.ok("status"))
	w.golden("status-json", w.ok("status", "-o", "json"))
	w.golden("status-galena", w.ok("status", "galena"))
	w.golden("status-pyrite", w.ok("status", "pyrite"))
	w.fails(exitUsage, "malformed name", "status", "a/b")
	code, _, errs := w.run("status", "galina")
	if code != exitError || !strings.Contains(errs, "galena") {
		t.Errorf("unknown machine: exit %d\n%s", code, errs)
	}
}

// TestStatusOfHomes: a machine is where its system is, wherever the coordinator has that
// among its profiles.
func TestStatusOfHomes(t *testing.T) {
	w := newWorld(t)
	w.hosts()
	profiles := w.server.Hosts[1].Profiles
	w.server.Hosts[1].Profiles = []*fleetv1.ProfileStatus{{Profile: "home/zoe", State: "idle"}, profiles[1], profiles[0]}
	out := w.ok("status")
	var names []string
	for line := range strings.SplitSeq(out, "\n") {
		if _, name, ok := strings.Cut(line, "  system "); ok && name != "" {
			names = append(names, "system")
		}
		for _, home := range []string{"home/alice", "home/zoe"} {
			if strings.Contains(line, home) {
				names = append(names, home)
			}
		}
	}
	if got := strings.Join(names, " "); got != "system home/alice home/zoe" || !strings.Contains(out, "1 confirmed") {
		t.Errorf("%s:\n%s", got, out)
	}
}

// TestStatusBeforeTheFirstRelease: there is nothing to compare yet, and nothing to note.
func TestStatusBeforeTheFirstRelease(t *testing.T) {
	w := newWorld(t)
	w.server.Hosts = []*fleetv1.Host{{
		Machine: &fleetv1.Machine{Name: "galena", Class: "linux"}, Enrolled: true, Connected: true,
		Profiles: []*fleetv1.ProfileStatus{{Profile: "system", State: "idle", Reason: &fleetv1.Reason{Code: "nothing-desired"}}},
	}}
	if out := w.ok("status"); strings.Contains(out, "note:") {
		t.Errorf("it notes:\n%s", out)
	}
	w.hosts()
	if out := w.ok("status"); !strings.Contains(out, "note: there is no releases/ here") {
		t.Errorf("it does not note that nothing can be compared:\n%s", out)
	}
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	at := timestamppb.New(w.clock)
	w.server.Events = []*fleetv1.WatchEventsResponse{
		{Seq: 1, Time: at, Actor: "operator/cameron", Kind: "release-committed", Message: "release r1 for 2 machines", Hash: "00"},
		{Seq: 2, Time: at, Actor: "host/galena", Kind: "token-reused", Machine: "galena", Message: "used twice", Alarm: true, Hash: "01"},
	}
	w.golden("events", w.ok("events"))
	w.golden("events-json", w.ok("events", "-o", "json", "-m", "galena"))
	if out := w.ok("events", "--from", "3"); strings.Count(out, "\n") != 1 {
		t.Errorf("events from 3:\n%s", out)
	}
	w.server.CutEvents = 1
	w.fails(exitUnreachable, "cannot be reached", "events")
	// Following outlives the connection, shows nothing twice, and ends well with
	// the interrupt.
	w.server.CutEvents = 2
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	code, out, errs := w.runContext(ctx, "events", "-f")
	if code != exitOK || strings.Count(out, "\n") != 3 || strings.Count(errs, "waiting for the coordinator") != 1 {
		t.Errorf("exit %d\n%s\n%s", code, out, errs)
	}
}

func TestReleases(t *testing.T) {
	w := newWorld(t)
	w.published()
	w.server.Releases[0].Committed = timestamppb.New(w.clock)
	w.server.Releases = append(w.server.Releases, &fleetv1.Release{
		Id: "r20260301-130000-00000f", Committed: timestamppb.New(w.clock.Add(time.Hour)), Actor: "operator/mallory",
		Revision: "0123456789abcdef+", Machines: 4, Confirmed: 3, Failed: 1,
	})
	w.golden("releases", w.ok("releases"))
	w.golden("releases-json", w.ok("releases", "-o", "json"))
}

func TestRollback(t *testing.T) {
	w := newWorld(t)
	w.golden("rollback", w.ok("rollback", "galena"))
	if len(w.server.RolledBack) != 1 || w.server.RolledBack[0] != "galena system" {
		t.Errorf("orders %q", w.server.RolledBack)
	}
	w.fails(exitUsage, "profile", "rollback", "galena", "--profile", "house/alice")
}

func TestRetry(t *testing.T) {
	w := newWorld(t)
	w.fails(exitError, "nothing was published", "retry", "galena")
	w.published()
	w.ok("retry", "galena")
	trust, _, err := repo.At(w.dir).Trust()
	if err != nil {
		t.Fatal(err)
	}
	l, err := trust.OpenLoosening(w.server.Loosenings[0])
	if err != nil {
		t.Fatal(err)
	}
	gen, _ := w.desired("galena")
	if l.Doc.Digest != gen.Digest || l.Doc.Machine != "galena" || !l.Doc.Expires.Equal(w.clock.Add(time.Hour)) {
		t.Errorf("loosening %+v", l.Doc)
	}
	// A coordinator can't have another generation forgiven.
	w.server.Alter = func(g *fleetv1.SignedGeneration) *fleetv1.SignedGeneration {
		return &fleetv1.SignedGeneration{Generation: edit(t, g.GetGeneration(), func(g *fleet.Generation) { g.Number.Seq = 9 })}
	}
	w.fails(exitRefused, "alarm", "retry", "galena")
	if len(w.server.Loosenings) != 1 {
		t.Error("it was signed")
	}
}

func TestBan(t *testing.T) {
	w := newWorld(t)
	w.golden("ban", w.ok("ban", "galena", "--reason", "stolen"))
	if w.server.Banned["galena"] != "stolen" {
		t.Errorf("banned %v", w.server.Banned)
	}
	w.ok("kit")
	if bans := w.kit().Bans; len(bans) != 1 || bans[0].Machine != "galena" {
		t.Errorf("kit has bans %v", bans)
	}
	w.ok("ban", "galena", "--reason", "found again", "--lift")
	if bans, err := repo.At(w.dir).Bans(); len(bans) != 0 || err != nil || len(w.server.Banned) != 0 {
		t.Errorf("bans %v, %v", bans, err)
	}
	w.fails(exitUsage, "reason", "ban", "galena", "--reason", " ")
	w.fails(exitUnreachable, "recorded in trust/bans.json", "ban", "pyrite", "--reason", "x", "--coordinator", "127.0.0.1:1")
	if bans, err := repo.At(w.dir).Bans(); len(bans) != 1 || err != nil {
		t.Errorf("bans %v, %v", bans, err)
	}
}

// TestOneAddressOfTwoWitnesses: nothing is published that has hosts ask one machine for
// another.
func TestOneAddressOfTwoWitnesses(t *testing.T) {
	w := newWorld(t)
	w.write(strings.Replace(fleetText, "settings:\n", "settings:\n  machine:\n    galena: {witness: \"a.zt:7444\"}\n    pyrite: {witness: \"a.zt:7444\"}\n", 1), "fleet.yaml")
	for _, command := range [][]string{{"publish", "--dry-run"}, {"inventory", "check"}} {
		code, out, stderr := w.run(command...)
		for _, want := range []string{"machines galena and pyrite have one witness address", "{machine}.zt:7444"} {
			if code != exitError || !strings.Contains(out+stderr, want) {
				t.Errorf("%q: %d, without %q:\n%s%s", command, code, want, out, stderr)
			}
		}
	}
}

// TestBanOfAWitness: other hosts ask it until there is a generation that does not name it.
func TestBanOfAWitness(t *testing.T) {
	w := newWorld(t)
	w.write(strings.Replace(fleetText, "settings:\n", "settings:\n  machine:\n    galena: {witness: \"{machine}.zt:7444\"}\n", 1), "fleet.yaml")
	if said := w.ok("ban", "galena", "--reason", "stolen"); !strings.Contains(said, "Publish too: galena is a witness") {
		t.Errorf("it says %q", said)
	}
	if said := w.ok("ban", "pyrite", "--reason", "stolen"); strings.Contains(said, "Publish") {
		t.Errorf("of another one it says %q", said)
	}
}

// TestRefusedBan leaves the record as it was: what the coordinator refused must
// not come into force by the next kit.
func TestRefusedBan(t *testing.T) {
	w := newWorld(t)
	bans := func() int {
		t.Helper()
		all, err := repo.At(w.dir).Bans()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	w.server.Before = func(method string) error {
		if method == fleetv1.OperatorService_Ban_FullMethodName {
			return refusal.New(codes.PermissionDenied, fleet.Reason{Code: refusal.NotAllowed, Message: "not you", Hint: "ask an admin"})
		}
		return nil
	}
	w.fails(exitRefused, "not you", "ban", "galena", "--reason", "stolen")
	if bans() != 0 {
		t.Error("a refused ban is recorded")
	}
	// What failed within the coordinator says nothing against the ban.
	w.server.Before = func(string) error { return status.Error(codes.Internal, "the disk") }
	w.fails(exitError, "the disk", "ban", "pyrite", "--reason", "lost")
	if bans() != 1 {
		t.Error("a ban that may be in force is not recorded")
	}
	w.server.Before = nil
	w.ok("ban", "pyrite", "--reason", "found", "--lift")
	w.ok("ban", "galena", "--reason", "stolen")
	w.server.Before = func(string) error {
		return refusal.New(codes.PermissionDenied, fleet.Reason{Code: refusal.NotAllowed, Message: "not you", Hint: "ask an admin"})
	}
	w.fails(exitRefused, "not you", "ban", "galena", "--reason", "found", "--lift")
	if bans() != 1 {
		t.Error("a ban whose lifting was refused is not recorded any longer")
	}
}

// TestBannedIsLeftOut: nothing is published to a banned machine, and each
// publish hands the bans over.
func TestBannedIsLeftOut(t *testing.T) {
	w := newWorld(t)
	w.ok("ban", "galena", "--reason", "stolen")
	res := w.published()
	if !slices.Equal(res.Banned, []string{"galena"}) {
		t.Errorf("banned: %v", res.Banned)
	}
	for _, g := range res.Generations {
		if g.Machine == "galena" {
			t.Error("it was published to")
		}
	}
	if b := w.server.Bans; len(b) != 1 || b[0].GetMachine() != "galena" || b[0].GetReason() != "stolen" || !b[0].GetTime().AsTime().Equal(w.clock) {
		t.Errorf("handed over: %v", b)
	}
	w.fails(exitError, "is banned", "publish", "galena")
}

func TestKit(t *testing.T) {
	w := newWorld(t)
	before := w.kit()
	w.golden("kit", w.ok("kit"))
	after := w.kit()
	if len(before.Machines) != 1 || len(after.Machines) != 4 || after.Operators[0].Name != "cameron" || string(before.Cert) == string(after.Cert) {
		t.Errorf("kit before and after: %d and %d machines", len(before.Machines), len(after.Machines))
	}
	if out := w.ok("kit", "--print"); !strings.HasPrefix(out, "-----BEGIN AGE ENCRYPTED FILE-----") {
		t.Errorf("kit --print: %.40s", out)
	}
	// An expired operator identity says how to renew it, and can be renewed.
	w.clock = w.clock.Add(pki.OperatorTTL - 24*time.Hour)
	w.ok("status")
	w.fails(exitError, "no operator mallory", "kit", "--renew-operator", "mallory")
	w.ok("kit", "--renew-operator", "cameron")
	w.clock = w.clock.Add(48 * time.Hour)
	// The fake's own certificate is from the first kit and has ended now.
	w.fails(exitRefused, "the coordinator's certificate", "status")
}

func TestOtherCoordinator(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	w.fails(exitRefused, "not this fleet's coordinator", "status", "--coordinator", other.server.Address)
}

func TestExpiredOperator(t *testing.T) {
	w := newWorld(t)
	w.clock = w.clock.Add(pki.OperatorTTL + time.Hour)
	w.fails(exitError, "expired", "status")
	if err := os.RemoveAll(filepath.Join(w.config, "fleet", "first")); err != nil {
		t.Fatal(err)
	}
	w.fails(exitError, "no operator identity", "status")
	if err := os.Remove(filepath.Join(w.config, "fleet", "keys.txt")); err != nil {
		t.Fatal(err)
	}
	w.fails(exitError, "no age identity", "status")
}

func TestShowErrorOfRefusal(t *testing.T) {
	if exitCode(errors.New("x")) != exitError || exitCode(repo.ErrLocked) != exitConflict {
		t.Error("exit codes")
	}
}
