package coordinator_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// siege is a coordinator, a host in the wrong hands, and one that is not.
type siege struct {
	*world
	// evil is pyrite, with all that an enrolled host has.
	evil *agent
	// good is galena, whose stream is open all the time.
	good   *agent
	stream watchStream
	// first are the generations that both run when the attack begins.
	first map[fleet.MachineName]fleet.Ref
	// secret is a ciphertext that only galena's generation names.
	secret fleet.BlobRef
	// head is the release that an attack had published, own the blob of it.
	head fleet.ReleaseID
	own  fleet.BlobRef
}

// hostAttack is one row: what an enrolled host in the wrong hands may try
// against the coordinator, and through it against others.
type hostAttack struct {
	name, source string
	// try attacks, for as long as it takes; what is to go on meanwhile ends with
	// the test. It returns the error of the last call.
	try func(*siege) error
	// code and reason are the refusal; no reason: gRPC's own.
	code   codes.Code
	reason fleet.ReasonCode
	// ignored says what becomes of an attack that leaves nothing to refuse.
	ignored string
	// alarm is the kind of event that says so to operators.
	alarm string
	// heap and disk are how much more than usual it may take, in bytes: of memory
	// at any moment of the attack.
	heap, disk int64
	// window is that of transfers; default pace.Default's.
	window time.Duration
}

// What an attack may cost the coordinator, in bytes; the heap's figure has both
// sides in it, the attackers too, and what the collector did not come to yet.
const (
	heapBound = 40 << 20
	diskBound = 512 << 10
)

func newSiege(t *testing.T, window time.Duration) *siege {
	w := newWorld(t)
	if window > 0 {
		w.stop()
		w.pace = pace.Limit{Bytes: 1 << 10, Window: window}
		w.start()
	}
	s := &siege{world: w, evil: w.enrolled("pyrite"), good: w.enrolled("galena")}
	s.stream = s.good.mustWatch(t.Context())
	s.first = map[fleet.MachineName]fleet.Ref{}
	op := w.operator("dana")
	var gens []*fleetv1.SignedGeneration
	for _, m := range []fleet.MachineName{"galena", "pyrite"} {
		b, src := content("bundle of " + string(m))
		check(t, w.upload(op, b, src))
		cipher, ref := content("secret of " + string(m))
		check(t, w.upload(op, cipher, ref))
		if m == "galena" {
			s.secret = ref
		}
		manifest, digest := w.manifest(m, ref)
		env, gen := w.generation(m, 1, "r1", src, func(g *fleet.Generation) { g.Secrets = &fleet.SecretsRef{Digest: digest} })
		gens = append(gens, &fleetv1.SignedGeneration{Generation: env, Secrets: manifest})
		s.first[m] = gen
	}
	n, err := w.stage(op, "r1", gens...)
	check(t, err)
	_, err = op.Commit(t.Context(), &fleetv1.CommitRequest{Release: "r1", Count: n})
	check(t, err)
	s.evil.confirm(s.first["pyrite"])
	s.good.confirm(s.first["galena"])
	return s
}

// blobs that a generation of a machine names.
func (s *siege) blobOf(m fleet.MachineName) fleet.BlobRef {
	_, ref := content("bundle of " + string(m))
	return ref
}

// TestHostileHost: a host in the wrong hands is refused by name, learns nothing
// of others, costs the coordinator no more room than a bound, and keeps none of
// the others from a publish that goes on meanwhile.
func TestHostileHost(t *testing.T) {
	seen := map[string]bool{}
	for _, table := range [][]hostAttack{hostData(), hostReports(), hostFloods()} {
		for _, a := range table {
			if seen[a.name] || a.source == "" || (a.code == codes.OK) == (a.ignored == "") {
				t.Fatalf("row %q is not whole, or there twice", a.name)
			}
			seen[a.name] = true
			// One after the other: what each costs is measured.
			t.Run(a.name, a.run)
		}
	}
}

func (a hostAttack) run(t *testing.T) {
	t.Attr("side", "host")
	t.Attr("attack", a.name)
	t.Attr("source", a.source)
	s := newSiege(t, a.window)
	disk := diskOf(t, s.state)
	highest := watchHeap()
	err := a.try(s)
	answer := a.ignored
	switch {
	case a.reason != "":
		wantRefusal(t, err, a.code, a.reason)
		answer = string(a.reason)
	case status.Code(err) != a.code:
		t.Fatalf("got %v, want %s", err, a.code)
	case a.code != codes.OK:
		answer = a.code.String() + " (gRPC)"
	}
	took := s.publishMeanwhile()
	grown, more := highest(), diskOf(t, s.state)-disk
	if most := heapBound + a.heap; grown > most {
		t.Errorf("it took %d bytes of memory at its height, at most %d", grown, most)
	}
	if most := diskBound + a.disk; more > most {
		t.Errorf("it took %d bytes of the disk, at most %d", more, most)
	}
	if a.alarm != "" {
		if n, alarm := count(s.events("pyrite"), a.alarm); n != 1 || !alarm {
			t.Errorf("%d events of kind %s, alarm: %t", n, a.alarm, alarm)
		}
	}
	for _, e := range s.events("galena") {
		if e.GetAlarm() {
			t.Errorf("an alarm about another host: %v", e)
		}
	}
	if got := s.status("galena").GetProfiles()[0].GetConfirmed().GetRelease(); got != "r2" {
		t.Errorf("the other host is said to run %q", got)
	}
	t.Attr("answer", answer)
	t.Attr("heap", strconv.FormatInt(grown>>10, 10))
	t.Attr("heap-bound", strconv.FormatInt((heapBound+a.heap)>>10, 10))
	t.Attr("disk", strconv.FormatInt(max(more, 0)>>10, 10))
	t.Attr("meanwhile", strconv.FormatInt(took.Milliseconds(), 10))
}

// publishMeanwhile brings the next release to the honest host, and says how long
// that took.
func (s *siege) publishMeanwhile() time.Duration {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patient)
	defer cancel()
	begin := time.Now()
	ref := s.publish("r2", s.headOr("r1"), 2, []fleet.MachineName{"galena"})["galena"]
	await(s.t, s.stream, fleetv1.WakeReason_WAKE_REASON_DESIRED)
	d, err := s.good.host.GetDesired(ctx, &fleetv1.GetDesiredRequest{})
	check(s.t, err)
	g, err := s.root.OpenGeneration(d.GetProfiles()[0].GetNewest().GetGeneration())
	check(s.t, err)
	if g.Digest != ref.Digest {
		s.t.Fatalf("the other host is to run %s, want %s", g.Doc.Number, ref.Number)
	}
	blob, err := s.good.host.GetBlob(ctx, &fleetv1.GetBlobRequest{Digest: string(g.Doc.Source.Bundle.Digest)})
	check(s.t, err)
	if got := collect(s.t, blob); len(got) == 0 {
		s.t.Error("the other host's bundle is empty")
	}
	s.good.confirm(ref)
	return time.Since(begin)
}

// heapEvery is how often the heap is looked at.
const heapEvery = 2 * time.Millisecond

// watchHeap looks at the heap until the function that it returns is called, which
// says how much larger than now, after a collection, it ever was.
func watchHeap() (highest func() int64) {
	runtime.GC()
	before, most := heapInUse(), int64(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(heapEvery)
		defer tick.Stop()
		for {
			most = max(most, heapInUse()-before)
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-done
		return most
	}
}

// heapInUse is runtime.MemStats.HeapInuse, without stopping the world.
func heapInUse() int64 {
	in := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	metrics.Read(in)
	return int64(in[0].Value.Uint64() + in[1].Value.Uint64()) //nolint:gosec // Below any memory.
}

func diskOf(t *testing.T, dir string) (n int64) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return skipMissing(err)
		}
		fi, err := d.Info()
		if err == nil {
			n += fi.Size()
		}
		return skipMissing(err)
	}))
	return n
}

func skipMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// refuses has one call after another until one is refused, and returns that.
func refuses(t *testing.T, most int, call func() error) error {
	t.Helper()
	for range most {
		if err := call(); err != nil {
			return err
		}
	}
	t.Errorf("%d calls, and none refused", most)
	return nil
}

var errOfGRPC = fleet.ReasonCode("")

// notAllowed is the row of a method that is not a host's.
func notAllowed(name string, call func(context.Context, fleetv1.OperatorServiceClient) error) hostAttack {
	return hostAttack{
		name: name, source: "Uptane: eavesdrop (read updates)", code: codes.PermissionDenied, reason: refusal.NotAllowed,
		try: func(s *siege) error {
			return call(s.t.Context(), fleetv1.NewOperatorServiceClient(s.as(s.evil.cert)))
		},
	}
}
