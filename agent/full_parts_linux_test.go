package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/disktest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// partHost is a host whose parts have disks of their own.
type partHost struct {
	*host
	kind disktest.Kind
	full *disktest.Disk // that of the row
	room int
	log  *testBuffer
	// ref is the generation that is to run in the end, version what it serves;
	// before is what is served until then.
	ref             fleet.Ref
	version, before string
	// gate lets an activation go on, ran has a line for each.
	gate, ran string
	paused    int
	// publishNext publishes ref, file is how a person brings it.
	publishNext func()
	file        []byte
	// elsewhere is a fleet with another trust root.
	elsewhere *agenttest.Fleet
}

// hostPart is a row: what a host does while the disk of one part is full.
type hostPart struct {
	name string
	// disk is that of a directory below the state directory; journal for that
	// itself, which has none of the others.
	disk string
	// needs are the kinds of room that it needs; without others it works.
	needs []disktest.Kind
	// asks are the kinds that are asked for before anything is written.
	asks []disktest.Kind
	// prepare comes while there is room, begin when the disk is full. The host then
	// tries by itself until done.
	prepare, begin func(*partHost)
	done           func(*partHost) bool
	// do is an attempt, where the host does not try by itself.
	do func(*partHost) error
}

// patience is how long a host may need for its next attempt.
const patience = 20 * time.Second

var (
	grows = []disktest.Kind{disktest.Bytes, disktest.Limit}
	makes = []disktest.Kind{disktest.Bytes, disktest.Inodes, disktest.Limit}
	small = []disktest.Kind{disktest.Bytes, disktest.Inodes}
)

func hostParts() []hostPart {
	return []hostPart{
		{name: "the first start, no room for the journal", disk: "journal", needs: makes, do: (*partHost).opens},
		{name: "the first start, no room for the identity", disk: "identity", needs: makes, do: (*partHost).opens},
		{name: "an enrolment, no room for the identity", disk: "identity", needs: makes, prepare: (*partHost).strange, begin: (*partHost).welcome, done: (*partHost).isBound},
		{name: "an enrolment, no room for trust roots", disk: "desired", needs: makes, prepare: (*partHost).strange, begin: (*partHost).welcome, done: (*partHost).isBound},
		{name: "a renewal of the identity", disk: "identity", needs: makes, prepare: (*partHost).halfway, do: (*partHost).renews},
		{name: "what is desired", disk: "desired", needs: makes, prepare: (*partHost).runs, begin: (*partHost).published, done: (*partHost).isConfirmed},
		{name: "a fetch", disk: "blobs", needs: makes, asks: []disktest.Kind{disktest.Bytes}, prepare: (*partHost).runs, begin: (*partHost).published, done: (*partHost).isConfirmed},
		{name: "unpacking, no room for releases", disk: "bundle", needs: makes, prepare: (*partHost).runs, begin: (*partHost).published, done: (*partHost).isConfirmed},
		{name: "secrets", disk: "secrets", needs: makes, prepare: (*partHost).runs, begin: (*partHost).published, done: (*partHost).isConfirmed},
		{name: "an acceptance, no room for the journal", disk: "journal", needs: makes, asks: []disktest.Kind{disktest.Inodes}, prepare: (*partHost).runs, begin: (*partHost).published, done: (*partHost).isConfirmed},
		{name: "an activation, no room for its run", disk: "runs", needs: makes, asks: small, prepare: (*partHost).runs, begin: (*partHost).published, done: (*partHost).isConfirmed},
		{name: "an activation, the journal full in the midst of it", disk: "journal", needs: grows, prepare: (*partHost).activates, begin: (*partHost).passes, done: (*partHost).isConfirmed},
		{name: "a pause", disk: "journal", needs: grows, prepare: (*partHost).runs, do: (*partHost).pauses},
	}
}

// TestDiskFullByPart has the disk of one part of a host full, and everything else
// with room: the host says so and what to do, goes on with what it runs, blames
// no generation, and goes on by itself once there is room.
func TestDiskFullByPart(t *testing.T) {
	disktest.Each(t, func(t *testing.T, kind disktest.Kind) {
		for _, row := range append(hostParts(), handParts()...) {
			t.Run(row.name, func(t *testing.T) { row.run(t, kind) })
		}
	})
}

func newPartHost(t *testing.T, kind disktest.Kind, disk string) *partHost {
	t.Helper()
	h := &partHost{host: newHostBeside(t), kind: kind, log: &testBuffer{}}
	h.config.Log = slog.New(slog.NewTextHandler(h.log, nil))
	h.config.DiskReserve = 1
	h.config.SecretsDir = filepath.Join(h.config.StateDir, "secrets", "link")
	outside := t.TempDir()
	h.gate, h.ran = filepath.Join(outside, "gate"), filepath.Join(outside, "ran")
	for _, part := range []string{"journal", "identity", "desired", "blobs", "runs", "bundle", "secrets", "plugins", "dead-man"} {
		dir := filepath.Join(h.config.StateDir, part)
		if part == "journal" {
			dir = h.config.StateDir
		}
		if d := disktest.New(t, kind, dir); part == disk {
			h.full = d
		}
	}
	t.Cleanup(func() { // before the disks go
		h.full.Leave(-1)
		h.crash()
	})
	return h
}

func (row hostPart) run(t *testing.T, kind disktest.Kind) {
	h := newPartHost(t, kind, row.disk)
	if row.prepare != nil {
		row.prepare(h)
	}
	needs := slices.Contains(row.needs, kind)
	h.leave(0)
	full := 0
	if row.do != nil {
		full = row.attempts(h, needs)
	} else {
		full = row.waits(h, needs)
	}
	met := h.log.count(kind.Word())
	if asks := slices.Contains(row.asks, kind); needs && full == 0 || needs && met == 0 && !asks || !needs && full > 0 {
		t.Errorf("%d times without room, %d times it was the disk's own word, and needs some: %t", full, met, needs)
	}
	// Without a restart all is well again, and a restart finds the same.
	h.leave(-1)
	if h.paused%2 == 1 {
		if err := h.pauses(); err != nil {
			t.Error(err)
		}
	}
	if h.cancel == nil {
		h.start()
	}
	h.confirmed(8, "v8")
	h.nothingLost()
	h.crash()
	h.start()
	h.confirmed(9, "v9")
	h.blameless()
	h.nothingLost()
	t.Logf("%s, %s: %d steps %s, %d lines with the disk's own word", kind, row.name, full, disktest.Said, met)
}

// attempts has a row's attempt made with ever more room, until it succeeds.
func (row hostPart) attempts(h *partHost, needs bool) (full int) {
	h.t.Helper()
	for tries := 0; ; tries++ {
		err := row.do(h)
		if err == nil && (full > 0 || !needs || tries > 500) {
			return full
		}
		if err == nil {
			continue // What the last page has room for is used up first.
		}
		full++
		_, _ = fmt.Fprintln(h.log, err)
		if why, is := (&Agent{config: h.config}).fullDisk(err); !is && !strings.Contains(err.Error(), h.kind.Word()) && !strings.Contains(err.Error(), ErrNoRoom.Error()) || !strings.Contains(ui.HintOf(err)+why.Hint, "make room") {
			h.t.Errorf("%v (hint %q)", err, ui.HintOf(err))
		}
		h.more(err)
	}
}

// waits has the host try by itself, with ever more room, until it is done.
func (row hostPart) waits(h *partHost, needs bool) (full int) {
	h.t.Helper()
	failed := func() int { return h.log.count(h.kind.Word()) + h.log.count(ErrNoRoom.Error()) }
	base := failed()
	row.begin(h)
	for limit := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		switch {
		case row.done(h):
			return full
		case time.Now().After(limit):
			h.t.Fatalf("it is not done, and fails no more, with room for %d\n%s", h.room, h.log.text())
		case failed() < base+3: // One may have begun before there was more room, and each says it twice.
			continue
		}
		full++
		h.explained()
		if h.before != "" && needs && (row.disk != "dead-man" || !h.ordered()) {
			h.expectServing(h.before)
		}
		h.more(nil)
		base, limit = failed(), time.Now().Add(patience)
	}
}

// ordered says whether the dead-man switch has its order for generation 1.2: what is cleared
// away meanwhile may make room for just that.
func (h *partHost) ordered() bool {
	orders, err := filepath.Glob(filepath.Join(h.config.StateDir, "dead-man", "*", "order.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	return slices.ContainsFunc(orders, func(file string) bool {
		b, err := os.ReadFile(file) //nolint:gosec // A test's.
		return err == nil && strings.Contains(string(b), "-1.2-")
	})
}

// poll waits for something that this host alone may see.
func (h *partHost) poll(what string, ok func() bool) {
	h.t.Helper()
	for limit := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(limit) {
			h.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// more leaves more room.
func (h *partHost) more(err error) {
	h.t.Helper()
	if h.room > 1<<16 {
		h.t.Fatalf("there is never enough room: %v", err)
	}
	h.leave(h.room + 1 + h.room/2)
}

func (h *partHost) leave(room int) {
	h.t.Helper()
	h.room = room
	h.full.Leave(room)
}

// explained waits until the host says that its disk is full, and what to do,
// unless it could do it meanwhile.
func (h *partHost) explained() {
	h.t.Helper()
	c := h.socket()
	var st control.Status
	for limit := time.Now().Add(20 * time.Second); time.Now().Before(limit); time.Sleep(2 * time.Millisecond) {
		var err error
		if st, err = c.Status(h.t.Context()); err != nil {
			h.t.Fatal(err)
		}
		reasons := []fleet.Reason{st.Coordinator}
		for _, p := range st.Profiles {
			reasons = append(reasons, p.Reason)
		}
		for _, r := range reasons {
			if r.Code == fleet.ReasonDiskFull {
				if !strings.Contains(r.Hint, "make room") || !strings.Contains(r.Message, h.config.StateDir) {
					h.t.Errorf("it says %+v", r)
				}
				return
			}
		}
	}
	h.t.Errorf("it never says that its disk is full: %+v", st)
}

// nothingLost checks that the coordinator knows each transition, once.
func (h *partHost) nothingLost() {
	h.t.Helper()
	h.poll("all transitions", func() bool {
		st := h.agent.journal.State()
		all := h.coord.Transitions()
		return st.Outbox() == 0 && uint64(len(all)) == st.Transitions
	})
}

func (h *partHost) opens() error {
	a, err := h.open()
	if err != nil {
		return err
	}
	return a.Close()
}

// strange is a host whose enrolment is refused for now.
func (h *partHost) strange() {
	h.t.Helper()
	h.coord.Refuse("Enrol", refusal.New(codes.Unavailable, fleet.Reason{Code: refusal.Stopping, Message: "not now"}))
	h.start()
	waitStatus(h.t, h.host, func(r fleet.Reason) bool { return r.Code == fleet.ReasonUnreachable })
}

func (h *partHost) welcome()      { h.coord.Refuse("Enrol", nil) }
func (h *partHost) isBound() bool { return h.agent.bound.Load() != nil }

// runs is a host that runs a good generation.
func (h *partHost) runs() {
	h.t.Helper()
	h.start()
	h.confirmed(1, "v1")
	h.before = "v1"
	h.next("")
	h.nothingLost()
}

// halfway is a host whose identity is due to be renewed, and could not be. Later
// attempts are made by renews, and not each minute.
func (h *partHost) halfway() {
	h.t.Helper()
	h.runs()
	h.crash()
	offset := newOffset()
	h.config.Now = offset.now
	offset.add(5 * 24 * time.Hour)
	h.fleet.Issued = h.fleet.Issued.Add(5 * 24 * time.Hour)
	h.coord.Refuse("Renew", refusal.New(codes.Unavailable, fleet.Reason{Code: refusal.Stopping, Message: "not now"}))
	h.start()
	waitStatus(h.t, h.host, func(r fleet.Reason) bool { return r.Code == fleet.ReasonUnreachable })
	h.coord.Refuse("Renew", nil)
}

func (h *partHost) renews() error {
	_, before := h.agent.identity.Validity()
	calls := h.coord.Calls("Renew")
	h.agent.renewIfDue(h.t.Context(), h.agent.bound.Load(), &renewal{})
	why := h.agent.link.trouble(troubleIdentity)
	if _, now := h.agent.identity.Validity(); why.Code != "" && now.After(before) || h.coord.Calls("Renew") == calls {
		h.t.Errorf("valid until %s, before %s, and it says %+v", now, before, why)
	}
	if why.Code == "" {
		return nil
	}
	return ui.WithHint(errors.New(why.Message), why.Hint)
}

// published publishes the next generation when the journal's last page is used
// up.
func (h *partHost) published() {
	h.t.Helper()
	h.brim()
	h.publishNext()
}

// next makes the next generation, with a secret.
func (h *partHost) next(script string) {
	h.t.Helper()
	recipient, err := age.ParseX25519Recipient(h.coord.HostKeys().Age)
	if err != nil {
		h.t.Fatal(err)
	}
	h.version = "v2"
	g, blob := h.generation(2, h.version, script)
	secrets, named, sealed := h.fleet.SealSecrets(recipient, map[string]string{"token": h.version})
	g.Secrets = named
	env, ref := h.fleet.Seal(g)
	h.ref, h.file = ref, h.carried(env, secrets, append(sealed, blob)...)
	h.publishNext = func() { h.coord.Publish(env, secrets, append(sealed, blob)...) }
}

// brim uses up what the journal's last page has room for.
func (h *partHost) brim() {
	h.t.Helper()
	if h.full == nil || h.kind != disktest.Bytes {
		return
	}
	for range 200 {
		if h.agent.Resume(h.t.Context(), "test") != nil {
			return
		}
	}
}

func (h *partHost) isConfirmed() bool {
	st, err := h.socket().Status(h.t.Context())
	if err != nil || len(st.Profiles) != 1 {
		return false
	}
	p := st.Profiles[0]
	if p.State != fleet.StateConfirmed || p.Current.Digest != h.ref.Digest {
		return false
	}
	h.expectServing(h.version)
	if got, err := os.ReadFile(filepath.Join(h.config.SecretsDir, "token")); err != nil || string(got) != h.version {
		h.t.Errorf("the secret is %q, %v", got, err)
	}
	if h.before == "" { // An activation was begun before the disk was full.
		if got, err := os.ReadFile(h.ran); err != nil || string(got) != "ran\n" {
			h.t.Errorf("its activation ran: %q, %v", got, err)
		}
	}
	return true
}

// activates is a host in the midst of an activation.
func (h *partHost) activates() {
	h.t.Helper()
	h.runs()
	h.before = ""
	h.next(fmt.Sprintf("echo ran >>'%s'\nwhile [ ! -e '%s' ]; do sleep 0.02; done", h.ran, h.gate))
	h.publishNext()
	h.poll("the activation", func() bool {
		got, err := os.ReadFile(h.ran)
		return err == nil && string(got) == "ran\n"
	})
	h.nothingLost()
}

// passes has the activation end.
func (h *partHost) passes() {
	h.t.Helper()
	h.brim()
	if err := os.WriteFile(h.gate, nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// pauses pauses or resumes, in turn.
func (h *partHost) pauses() (err error) {
	if h.paused%2 == 0 {
		err = h.socket().Pause(h.t.Context(), "a test")
	} else {
		err = h.socket().Resume(h.t.Context())
	}
	if err == nil {
		h.paused++
	}
	if st, serr := h.socket().Status(h.t.Context()); serr != nil || (st.Paused != "") != (h.paused%2 == 1) {
		h.t.Errorf("paused %d times: %+v, %v", h.paused, st, serr)
	}
	return err
}
