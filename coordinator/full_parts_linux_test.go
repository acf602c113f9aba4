package coordinator_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/coordinator"
	"github.com/cameronraysmith/fleet/pkg/disktest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// parts is a coordinator whose store, blobs and backups have disks of their own.
type parts struct {
	*world
	kind  disktest.Kind
	disks map[string]*disktest.Disk
	a     *agent
	ref   fleet.Ref
	// acked counts what was acknowledged of the row's operation.
	acked int
	// full is the disk of the row, joins are join strings for later.
	full  *disktest.Disk
	room  int
	began bool
	joins []pki.Join
	// backups and restored are directories on those disks.
	backups, restored string
}

// fullPart is a row: an operation while the disk of one part is full.
type fullPart struct {
	name string
	// disk is whose disk is full: store, blobs, backups or restored.
	disk string
	// needs are the kinds of room that it needs; without others it works.
	needs []disktest.Kind
	// prepare comes while there is room; optional.
	prepare func(*parts)
	do      func(*parts) error
	// kind is that of the one event that each acknowledgement leaves; where there
	// is none, kept checks what was acknowledged.
	kind string
	kept func(*parts)
	// local says that the error is not one of a call, but of this machine.
	local bool
	// asks says that it is asked how many bytes are free before any is written.
	asks bool
}

var (
	writes = []disktest.Kind{disktest.Bytes, disktest.Limit}
	makes  = []disktest.Kind{disktest.Bytes, disktest.Inodes, disktest.Limit}
)

func fullParts() []fullPart {
	return []fullPart{
		{name: "the first start, no room for the store", disk: "store", needs: makes, local: true, prepare: (*parts).unborn, do: (*parts).begin, kept: (*parts).runs},
		{name: "the first start, no room for blobs", disk: "blobs", needs: []disktest.Kind{disktest.Inodes, disktest.Limit}, local: true, prepare: (*parts).unborn, do: (*parts).begin, kept: (*parts).runs},
		{name: "a token", disk: "store", needs: writes, kind: "token-created", do: func(p *parts) error {
			_, err := p.operator("cameron").CreateToken(p.t.Context(), &fleetv1.CreateTokenRequest{
				Machine: "pyrite", TokenHash: bytes.Repeat([]byte{byte(p.acked), byte(p.acked >> 8)}, 16), TtlSeconds: 600,
			})
			return err
		}},
		{name: "an enrolment", disk: "store", needs: writes, kind: "host-enrolled", prepare: func(p *parts) {
			for range 60 {
				p.joins = append(p.joins, p.join("pyrite"))
			}
		}, do: func(p *parts) error {
			j := p.joins[p.acked]
			conn := p.dial(pki.EnrolTLS(fleetID, j.CA, p.clock.now))
			defer func() { _ = conn.Close() }() // Strangers have few.
			_, err := fleetv1.NewEnrolmentServiceClient(conn).Enrol(p.t.Context(), p.newAgent("pyrite", "i").enrolRequest(j))
			return err
		}},
		{name: "a renewal of a host's identity", disk: "store", needs: writes, kind: "identity-renewed", do: func(p *parts) error {
			csr, err := pki.NewCSR(p.a.key)
			check(p.t, err)
			got, err := p.a.host.Renew(p.t.Context(), &fleetv1.RenewRequest{Csr: csr})
			if err == nil {
				p.a.use(got.GetCertificate())
			}
			return err
		}},
		{name: "a report", disk: "store", needs: writes, kind: "transition", do: func(p *parts) error {
			before := p.a.seq
			_, err := p.a.host.Report(p.t.Context(), &fleetv1.ReportRequest{Report: p.a.sealReport(
				fleet.ProfileStatus{State: fleet.StateHeld, Highest: p.ref}, p.a.transition(fleet.StateHeld, p.ref))})
			if err != nil {
				p.a.seq = before // It is said again.
			}
			return err
		}},
		{name: "a ban", disk: "store", needs: writes, kind: "host-banned", do: func(p *parts) error {
			_, err := p.operator("cameron").Ban(p.t.Context(), &fleetv1.BanRequest{Machine: "pyrite", Reason: fmt.Sprint(p.acked)})
			return err
		}},
		{name: "a release", disk: "store", needs: writes, kind: "release-committed", do: func(p *parts) error {
			head := fleet.ReleaseID("r1")
			if p.acked > 0 {
				head = fleet.ReleaseID(fmt.Sprintf("r%d", p.acked+1))
			}
			id := fleet.ReleaseID(fmt.Sprintf("r%d", p.acked+2))
			_, src := content("r1") // There already: blobs have room enough.
			op := p.operator("dana")
			g, ref := p.generation("galena", uint64(p.acked)+2, id, src) //nolint:gosec // Not negative.
			if _, err := p.stage(op, id, &fleetv1.SignedGeneration{Generation: g}); err != nil {
				return err
			}
			_, err := op.Commit(p.t.Context(), &fleetv1.CommitRequest{Release: string(id), Count: 1, ExpectedHead: string(head)})
			if err == nil {
				p.ref = ref
			}
			return err
		}},
		{name: "an upload", disk: "blobs", needs: makes, asks: true, do: func(p *parts) error {
			data, src := content(fmt.Sprintf("blob %d", p.acked))
			return p.upload(p.operator("dana"), data, src)
		}, kept: (*parts).uploaded},
		{name: "an upload, the disk full in the midst of it", disk: "blobs", needs: writes, do: (*parts).uploadInPieces, kept: (*parts).uploaded},
		{name: "a backup, no room beside the store", disk: "store", needs: makes, local: true, do: (*parts).backUp, kept: (*parts).backedUp},
		{name: "a backup, no room where it goes", disk: "backups", needs: makes, local: true, do: (*parts).backUp, kept: (*parts).backedUp},
		{name: "a restore", disk: "restored", needs: makes, local: true, prepare: func(p *parts) { check(p.t, p.backUp()) }, do: (*parts).restores},
		// What hosts need to go on with takes no room, of whatever.
		{name: "what is desired and its secrets, no room for the store", disk: "store", do: (*parts).served},
		{name: "what is desired and its secrets, no room for blobs", disk: "blobs", do: (*parts).served},
	}
}

// TestDiskFullByPart has the disk of one part full, and everything else with
// room: each operation is refused with what to do, loses nothing that was
// acknowledged, and works once there is room, without a restart.
func TestDiskFullByPart(t *testing.T) {
	disktest.Each(t, func(t *testing.T, kind disktest.Kind) {
		for _, row := range fullParts() {
			t.Run(row.name, func(t *testing.T) { row.run(t, kind) })
		}
	})
}

func newParts(t *testing.T, kind disktest.Kind) *parts {
	t.Helper()
	p := &parts{world: newWorld(t), kind: kind, backups: filepath.Join(t.TempDir(), "backups"), restored: filepath.Join(t.TempDir(), "restored"), disks: map[string]*disktest.Disk{}}
	p.stop()
	p.state = filepath.Join(t.TempDir(), "state")
	p.disks["store"] = disktest.New(t, kind, p.state)
	p.disks["blobs"] = disktest.New(t, kind, filepath.Join(p.state, "blobs"))
	p.disks["backups"] = disktest.New(t, kind, p.backups)
	p.disks["restored"] = disktest.New(t, kind, p.restored)
	p.start()
	t.Cleanup(func() { p.stop() }) // before the disks go
	p.begins()
	return p
}

func (row fullPart) run(t *testing.T, kind disktest.Kind) {
	p := newParts(t, kind)
	p.full = p.disks[row.disk]
	if row.prepare != nil {
		row.prepare(p)
	}
	before := p.counted(row.kind)
	keeps := func() {
		t.Helper()
		if row.kept != nil {
			row.kept(p)
		}
		if got := p.counted(row.kind) - before; row.kind != "" && got != p.acked {
			t.Fatalf("%d are on record, %d were acknowledged", got, p.acked)
		}
	}
	full, met := 0, 0
	needs, most := slices.Contains(row.needs, kind), 3
	if needs {
		most = 50 // What the store has free in its file is used up first.
	}
	p.leave(0)
	for {
		err := row.do(p)
		if err == nil {
			if p.acked++; full > 0 || p.acked >= most {
				break
			}
			continue
		}
		full++
		row.explained(t, err)
		if strings.Contains(err.Error(), kind.Word()) {
			met++
		}
		keeps()
		// One step at a time at first, so that each of its writes fails once.
		if p.room > 1<<16 {
			t.Fatalf("there is never enough room: %v", err)
		}
		p.leave(p.room + 1 + p.room/8)
	}
	if asked := row.asks && kind == disktest.Bytes; needs != (full > 0) || needs && met == 0 && !asked {
		t.Errorf("%d times without room, %d times it was the disk's own word, and needs some: %t", full, met, needs)
	}
	keeps()
	p.leave(-1)
	check(t, row.do(p))
	p.acked++
	check(t, p.served())
	p.stop()
	p.start()
	p.a.use(p.a.cert.Certificate[0])
	keeps()
	check(t, p.served())
	t.Logf("%s, %s: %d steps %s", kind, row.name, full, disktest.Said)
}

// leave leaves so much room on the row's disk; a negative number leaves all.
func (p *parts) leave(room int) {
	p.t.Helper()
	p.room = room
	p.full.Leave(room)
}

// explained checks that an error says what happened, and what to do.
func (row fullPart) explained(t *testing.T, err error) {
	t.Helper()
	if row.local {
		if !strings.Contains(err.Error(), "make room") {
			t.Errorf("it does not say what to do: %v", err)
		}
		return
	}
	r, ok := refusal.Of(err)
	if !ok || r.Code != refusal.DiskFull || status.Code(err) != codes.ResourceExhausted || !strings.Contains(r.Hint, "make room") {
		t.Errorf("got %v (%+v)", err, r)
	}
}

// counted counts the events of a kind.
func (p *parts) counted(kind string) int {
	if kind == "" {
		return 0
	}
	n, _ := count(p.events(""), kind)
	return n
}

// served checks that the host gets what is desired, its bundle and its secret.
func (p *parts) served() error {
	if got := p.a.newest(); got != p.ref.Digest {
		return fmt.Errorf("%s is desired, %s was acknowledged", got.Short(), p.ref.Digest.Short())
	}
	_, bundle := content("r1")
	if _, err := p.a.fetch(bundle, 0); err != nil {
		return err
	}
	if p.ref.Number.Seq > 1 {
		return nil // The newer ones have no secrets.
	}
	_, secret := content("secret of galena")
	_, err := p.a.fetch(secret, 0)
	return err
}

// unborn takes the state away, so that the next start is a first one.
func (p *parts) unborn() {
	p.stop()
	entries, err := os.ReadDir(p.state)
	check(p.t, err)
	for _, e := range entries {
		if e.Name() != "blobs" {
			check(p.t, os.Remove(filepath.Join(p.state, e.Name())))
		}
	}
	blobs, err := filepath.Glob(filepath.Join(p.state, "blobs", "*"))
	check(p.t, err)
	for _, b := range blobs {
		check(p.t, os.RemoveAll(b))
	}
}

// begin starts once; a later time, when it runs, is none.
func (p *parts) begin() error {
	if p.acked > 0 {
		return nil
	}
	c, err := coordinator.New(p.t.Context(), p.config())
	if err != nil {
		return err
	}
	return c.Close()
}

// runs checks that a coordinator that could begin runs like any other.
func (p *parts) runs() {
	p.t.Helper()
	if p.acked > 0 && !p.began {
		p.began = true
		p.full.Leave(-1)
		p.start()
		p.begins()
	}
}

// begins has the fleet's host enrol, and its first release confirmed.
func (p *parts) begins() {
	p.t.Helper()
	p.a = p.enrolled("galena")
	b, src := content("r1")
	op := p.operator("dana")
	check(p.t, p.upload(op, b, src))
	cipher, secret := content("secret of galena")
	check(p.t, p.upload(op, cipher, secret))
	manifest, digest := p.manifest("galena", secret)
	env, ref := p.generation("galena", 1, "r1", src, func(g *fleet.Generation) { g.Secrets = &fleet.SecretsRef{Digest: digest} })
	n, err := p.stage(op, "r1", &fleetv1.SignedGeneration{Generation: env, Secrets: manifest})
	check(p.t, err)
	_, err = op.Commit(p.t.Context(), &fleetv1.CommitRequest{Release: "r1", Count: n})
	check(p.t, err)
	p.ref = ref
	p.a.confirm(ref)
}

// uploadInPieces uploads with room, which ends after the first piece.
func (p *parts) uploadInPieces() error {
	room := p.room
	p.leave(-1)
	data, src := content(fmt.Sprintf("blob %d", p.acked))
	op := p.operator("dana")
	st, err := op.StatBlob(p.t.Context(), &fleetv1.StatBlobRequest{Digest: string(src.Digest), Size: src.Size})
	check(p.t, err)
	s, err := op.PutBlob(p.t.Context())
	check(p.t, err)
	const piece = 8 << 10
	at := st.GetOffset()
	end := min(at+piece, src.Size)
	check(p.t, s.Send(&fleetv1.PutBlobRequest{Digest: string(src.Digest), Size: src.Size, Offset: at, Data: data[at:end]}))
	waitFor(p.t, func() bool {
		partial, err := filepath.Glob(filepath.Join(p.state, "blobs", "*", strings.TrimPrefix(string(src.Digest), "sha256:")+"-*"))
		check(p.t, err)
		if len(partial) != 1 {
			return false
		}
		fi, err := os.Stat(partial[0])
		return err == nil && uint64(fi.Size()) == end //nolint:gosec // Not negative.
	})
	p.leave(room)
	for chunk := range slices.Chunk(data[end:], 200<<10) {
		_ = s.Send(&fleetv1.PutBlobRequest{Data: chunk}) // CloseAndRecv tells why.
	}
	_, err = s.CloseAndRecv()
	return err
}

// backUp takes a backup to the disk for backups.
func (p *parts) backUp() error {
	return coordinator.BackupFile(p.t.Context(), p.state, p.clock.now(), filepath.Join(p.backups, "fleet"))
}

// restores brings the backup back, over what an attempt before may have left.
func (p *parts) restores() error {
	f, err := os.Open(filepath.Join(p.backups, "fleet"))
	check(p.t, err)
	defer func() { _ = f.Close() }()
	dir := filepath.Join(p.restored, "state")
	if _, err := coordinator.Restore(p.t.Context(), dir, f); err != nil {
		return err
	}
	left, err := os.ReadDir(dir)
	if check(p.t, err); len(left) != 1 {
		p.t.Errorf("restored, and there are %v", left)
	}
	check(p.t, os.RemoveAll(dir))
	return nil
}

// backedUp checks that the newest backup that was acknowledged is whole, and
// that nothing half is left.
func (p *parts) backedUp() {
	p.t.Helper()
	left, err := filepath.Glob(filepath.Join(p.backups, "*"))
	check(p.t, err)
	left = slices.DeleteFunc(left, func(path string) bool { return filepath.Base(path) == disktest.Filler })
	if p.acked == 0 {
		if len(left) > 0 {
			p.t.Errorf("left behind: %v", left)
		}
		return
	}
	f, err := os.Open(filepath.Join(p.backups, "fleet"))
	check(p.t, err)
	defer func() { _ = f.Close() }()
	_, err = coordinator.Restore(p.t.Context(), p.t.TempDir(), f)
	check(p.t, err)
}

// uploaded checks that all that was acknowledged is there.
func (p *parts) uploaded() {
	p.t.Helper()
	for i := range p.acked {
		_, src := content(fmt.Sprintf("blob %d", i))
		st, err := p.operator("dana").StatBlob(p.t.Context(), &fleetv1.StatBlobRequest{Digest: string(src.Digest), Size: src.Size})
		if check(p.t, err); !st.GetComplete() {
			p.t.Errorf("blob %d was acknowledged, and is not there", i)
		}
	}
}
