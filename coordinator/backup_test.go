package coordinator_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/coordinator"
	"github.com/cameronraysmith/fleet/coordinator/internal/backup"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

func (w *world) backup() []byte {
	w.t.Helper()
	var buf bytes.Buffer
	check(w.t, coordinator.Backup(w.t.Context(), w.state, w.clock.now(), &buf))
	return buf.Bytes()
}

// restore replaces the state by what a backup holds.
func (w *world) restore(b []byte) {
	w.t.Helper()
	w.stop()
	w.state = w.t.TempDir()
	_, err := coordinator.Restore(w.t.Context(), w.state, bytes.NewReader(b))
	check(w.t, err)
	w.start()
}

// send reports with the number that the host was acknowledged up to.
func (a *agent) send(r fleet.Report, accepted ...*fleetv1.SignedGeneration) (*fleetv1.ReportResponse, error) {
	a.w.t.Helper()
	r.Fleet, r.Machine, r.InstanceID, r.BootID, r.AgentVersion = fleetID, a.machine, a.instance, a.boot, "test"
	r.Time, r.Mode = a.w.clock.now(), fleet.ModeManage
	for i := range r.Transitions {
		r.Transitions[i].Time = r.Time
	}
	env, err := release.SealReport(r, a.report)
	check(a.w.t, err)
	return a.host.Report(a.w.t.Context(), &fleetv1.ReportRequest{Report: env, Accepted: accepted})
}

// TestBackupWhileBusy takes backups while events are written: each is whole,
// and of one moment.
func TestBackupWhileBusy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := make(chan struct{})
	var busy sync.WaitGroup
	admin := w.operator("cameron")
	busy.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := admin.Ban(t.Context(), &fleetv1.BanRequest{Machine: "pyrite", Reason: "busy"}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var last uint64
	for range 5 {
		dir := t.TempDir()
		r, err := coordinator.Restore(t.Context(), dir, bytes.NewReader(w.backup()))
		if err != nil || r.Events < last || r.Fleet != fleetID {
			t.Errorf("%+v, %v", r, err)
		}
		last = r.Events
	}
	close(stop)
	busy.Wait()
	if left, err := filepath.Glob(filepath.Join(w.state, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	// Also while it is stopped.
	w.stop()
	if _, err := os.Lstat(filepath.Join(w.state, "backup.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket of a coordinator that ended: %v", err)
	}
	file := filepath.Join(t.TempDir(), "backup")
	check(t, coordinator.BackupFile(t.Context(), w.state, w.clock.now(), file))
	b, err := os.ReadFile(file)
	check(t, err)
	_, err = coordinator.Restore(t.Context(), t.TempDir(), bytes.NewReader(b))
	check(t, err)
	w.start()
}

// TestRestoreForItsOwner: what root restores belongs to the user of the coordinator, whose
// the directory is.
func TestRestoreForItsOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		check(t, os.Chown(dir, 4242, 4243))
	}
	_, err := coordinator.Restore(t.Context(), dir, bytes.NewReader(w.backup()))
	check(t, err)
	owner := func(path string) [2]uint32 {
		fi, err := os.Stat(path)
		check(t, err)
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			t.Fatalf("nobody knows whose %s is", path)
		}
		return [2]uint32{st.Uid, st.Gid}
	}
	if got, want := owner(filepath.Join(dir, "fleet.db")), owner(dir); got != want {
		t.Errorf("the store belongs to %v, want %v", got, want)
	}
}

// TestSlowBackup: whoever takes a backup slowly holds up nobody, not even a
// stop.
func TestSlowBackup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	data := make([]byte, 1<<10)
	for range 200 { // more than a socket holds
		_, err := w.operator("cameron").Ban(t.Context(), &fleetv1.BanRequest{Machine: "pyrite", Reason: strings.Repeat("r", len(data))})
		check(t, err)
	}
	r, pw := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- coordinator.Backup(t.Context(), w.state, w.clock.now(), pw) }()
	if _, err := io.ReadFull(r, data); err != nil {
		t.Fatal(err)
	}
	_, err := w.operator("cameron").Ban(t.Context(), &fleetv1.BanRequest{Machine: "pyrite", Reason: "meanwhile"})
	check(t, err)
	w.stop()
	check(t, r.Close())
	if err := <-done; err == nil {
		t.Error("a backup that was broken off is no error")
	}
	w.start()
}

func TestRestoreRefuses(t *testing.T) {
	w := newWorld(t)
	b := w.backup()
	restore := func(dir string, b []byte) error {
		_, err := coordinator.Restore(t.Context(), dir, bytes.NewReader(b))
		return err
	}
	dir := t.TempDir()
	check(t, restore(dir, b))
	if err := restore(dir, b); !errors.Is(err, coordinator.ErrNotEmpty) || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("twice: %v", err)
	}
	if err := restore(w.state, b); !errors.Is(err, coordinator.ErrNotEmpty) {
		t.Errorf("over a running one: %v", err)
	}
	blobs := t.TempDir()
	check(t, os.Mkdir(filepath.Join(blobs, "blobs"), 0o700))
	check(t, restore(blobs, b))

	// Whatever byte is flipped, nothing is put in place; and the next attempt works.
	dir = t.TempDir()
	for at := 0; at < len(b); at += len(b)/60 + 1 {
		bad := slices.Clone(b)
		bad[at] ^= 0x20
		if err := restore(dir, bad); !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrNoBackup) && !errors.Is(err, backup.ErrNewer) {
			t.Errorf("byte %d: %v", at, err)
		}
	}
	if err := restore(dir, b[:len(b)/2]); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("half: %v", err)
	}
	// What a restore that was killed leaves does not stand in the way.
	check(t, os.WriteFile(filepath.Join(dir, ".restoring-123"), []byte("half"), 0o600))
	check(t, restore(dir, b))
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

// TestRestoreTampered: a store that was altered and sealed again as a backup is
// refused for its chain of events.
func TestRestoreTampered(t *testing.T) {
	w := newWorld(t)
	var list, db bytes.Buffer
	m, err := backup.Read(bytes.NewReader(w.backup()), &list, &db)
	check(t, err)
	for name, alter := range map[string]func(){
		"another head":     func() { m.EventHash = strings.Repeat("0", 64) },
		"another fleet":    func() { m.Fleet = "other" },
		"a lost meta page": func() { db.Bytes()[20] ^= 1 },
		"a bit of rot": func() {
			for at := 2 * os.Getpagesize(); at < db.Len(); at += os.Getpagesize() {
				db.Bytes()[at+10] ^= 1 // the number of entries of a page
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			was, bytesWere := m, bytes.Clone(db.Bytes())
			alter()
			var b bytes.Buffer
			check(t, backup.Write(&b, m, bytes.NewReader(list.Bytes()), bytes.NewReader(db.Bytes())))
			m = was
			copy(db.Bytes(), bytesWere)
			dir := t.TempDir()
			_, err := coordinator.Restore(t.Context(), dir, &b)
			if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, store.ErrCorrupt) {
				t.Error(err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
				t.Errorf("%v, %v", entries, err)
			}
		})
	}
}

// TestRestoredOlder goes back to a backup from before a release, a ban and the
// use of a token.
func TestRestoredOlder(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	ref1 := w.publish("r1", "", 1, galena)["galena"]
	_, err := a.send(fleet.Report{Acked: 0, Transitions: []fleet.Transition{{Seq: 1, Profile: fleet.System, State: fleet.StateConfirmed, Ref: ref1}}})
	check(t, err)
	join := w.join("pyrite")
	older := w.backup()

	ref2 := w.publish("r2", "r1", 2, galena)["galena"]
	b := w.newAgent("pyrite", "instance-pyrite")
	check(t, b.enrol(join))
	_, err = w.operator("cameron").Ban(t.Context(), &fleetv1.BanRequest{Machine: "cinnabar", Reason: "stolen"})
	check(t, err)
	second := a.desired().GetProfiles()[0].GetNewest()
	_, err = a.send(fleet.Report{Acked: 1, Transitions: []fleet.Transition{{Seq: 2, Profile: fleet.System, State: fleet.StateConfirmed, Ref: ref2}}})
	check(t, err)

	w.restore(older)
	if n, _ := count(w.events(""), string(coordinator.KindRestored)); n != 1 {
		t.Errorf("%d events of the restore", n)
	}
	a.use(a.cert.Certificate[0])
	if got := a.newest(); got != ref1.Digest {
		t.Errorf("desired after the restore: %s", got.Short())
	}
	// The host says what it has; the coordinator sees that it is older, asks, and
	// takes what it is handed.
	status := []fleet.ProfileStatus{{Profile: fleet.System, State: fleet.StateConfirmed, Current: ref2, Highest: ref2, Confirmed: ref2, LastGood: ref1}}
	resp, err := a.send(fleet.Report{Acked: 2, Profiles: status})
	check(t, err)
	if resp.GetAckedSeq() != 1 || !slices.Equal(resp.GetUnknownGenerations(), []string{string(ref2.Digest)}) {
		t.Errorf("answer: %v", resp)
	}
	resp, err = a.send(fleet.Report{Acked: 2, Profiles: status}, second)
	check(t, err)
	if resp.GetAckedSeq() != 2 || len(resp.GetUnknownGenerations()) != 0 || a.newest() != ref2.Digest {
		t.Errorf("answer: %v, desired %s", resp, a.newest().Short())
	}
	if n, _ := count(w.events("galena"), "coordinator-restored-older"); n != 1 {
		t.Errorf("%d alarms", n)
	}
	// No transition is said to be lost that was not.
	_, err = a.send(fleet.Report{Acked: 2, Transitions: []fleet.Transition{{Seq: 3, Profile: fleet.System, State: fleet.StateHeld, Ref: ref2}}})
	check(t, err)
	if n, _ := count(w.events("galena"), "transitions-lost"); n != 0 {
		t.Errorf("%d gaps", n)
	}
	// The token was used after the backup; it is not good again.
	thief := w.newAgent("pyrite", "instance-thief")
	wantRefusal(t, thief.enrol(join), codes.Unauthenticated, refusal.TokenUnknown)
	// The host that used it keeps its identity.
	b.use(b.cert.Certificate[0])
	if _, err := b.host.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{}); err != nil {
		t.Error(err)
	}
	// Publishing goes on, over the head that is there, above all numbers.
	w.publish("r3", "r1", 3, galena)
	if got := a.newest(); got == ref2.Digest {
		t.Error("the release after the restore is not desired")
	}
	// And hands over the bans of the repository.
	_, err = w.operator("cameron").ApplyInventory(t.Context(), &fleetv1.ApplyInventoryRequest{
		Operators: []*fleetv1.Operator{{Name: "cameron", Role: string(fleet.RoleAdmin)}, {Name: "vic", Role: string(fleet.RoleViewer)}},
		Machines:  []*fleetv1.Machine{{Name: "galena", Class: "nixos"}, {Name: "cinnabar", Class: "nixos"}},
		Bans:      []*fleetv1.RecordedBan{{Machine: "cinnabar", Reason: "stolen", Time: timestamppb.New(w.clock.now())}},
	})
	check(t, err)
	if h := w.status("cinnabar"); h.GetBanned() == "" {
		t.Error("the ban is forgotten")
	}
}

// TestScrub: a blob that rots is found before a host asks for it, and comes
// back by uploading it again.
func TestScrub(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	w.publish("r1", "", 1, galena)
	data, src := content("r1")
	path := filepath.Join(w.state, "blobs", "sha256", src.Digest.Hex())
	w.stop()
	bad := slices.Clone(data)
	bad[len(bad)/2] ^= 1
	check(t, os.WriteFile(path, bad, 0o600))
	w.start()
	waitFor(t, func() bool { n, _ := count(w.events(""), "blob-missing"); return n == 1 })
	if n, _ := count(w.events(""), "blob-damaged"); n != 1 {
		t.Errorf("%d alarms of damage", n)
	}
	_, err := a.fetch(src, 0)
	wantRefusal(t, err, codes.NotFound, refusal.NotFound)
	check(t, w.upload(w.operator("dana"), data, src))
	got, err := a.fetch(src, 0)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("after uploading again: %d bytes, %v", len(got), err)
	}
}
