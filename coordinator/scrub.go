package coordinator

import (
	"context"
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/publish"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Kinds of events of the scrub.
const (
	// KindBlobDamaged is a blob that is no longer what was uploaded.
	KindBlobDamaged audit.Kind = "blob-damaged"
	// KindBlobMissing is a blob that something desired names and that is gone.
	KindBlobMissing audit.Kind = "blob-missing"
)

const (
	// scrubEvery is how often everything is read again.
	scrubEvery = 24 * time.Hour
	// scrubPace in bytes a second leaves the disk to others.
	scrubPace = 16 << 20
)

// scrubber reads what lies on the disk before a host needs it.
type scrubber struct {
	co        *Coordinator
	log       *audit.Log
	publisher *publish.Publisher
	actor     string
	// told are missing blobs that were told of since the start.
	told map[fleet.Digest]bool
}

// run scrubs once after the start and then every scrubEvery, until ctx ends.
func (s *scrubber) run(ctx context.Context) {
	tick := time.NewTicker(scrubEvery)
	defer tick.Stop()
	for {
		s.scrub(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// scrub reads the store and every blob, and looks for blobs that are missing.
func (s *scrubber) scrub(ctx context.Context) {
	if err := s.co.store.Check(ctx); err != nil && ctx.Err() == nil {
		s.tell(ctx, KindStoreDamaged, err.Error())
	}
	read, damaged, err := s.co.blobs.Scrub(ctx, scrubPace)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		s.co.log.Error("reading all blobs failed", "error", err)
	}
	missing := s.missing(ctx)
	s.co.log.Info("read all that is on the disk", "bytes", read, "damaged", damaged, "missing", missing)
}

// missing tells of desired blobs that are not there, and counts them.
func (s *scrubber) missing(ctx context.Context) (n int) {
	seen := map[fleet.Digest]bool{}
	for _, g := range s.publisher.Newest() {
		for _, b := range g.Blobs {
			if seen[b.Digest] {
				continue
			}
			seen[b.Digest] = true
			st, err := s.co.blobs.Stat(b.Digest, b.Size)
			if err == nil && st.Complete {
				delete(s.told, b.Digest)
				continue
			}
			n++
			if !s.told[b.Digest] {
				s.told[b.Digest] = true
				s.tell(ctx, KindBlobMissing, fmt.Sprintf("blob %s of generation %s of %s is not here: publish again to upload it", b.Digest.Short(), g.Ref.Number, g.Machine))
			}
		}
	}
	return n
}

// damaged tells of a blob that was found damaged, by whoever read it.
func (s *scrubber) damaged(d fleet.Digest) {
	s.tell(context.Background(), KindBlobDamaged, fmt.Sprintf("blob %s is not what was uploaded and was moved aside: check the disk, and publish again to upload it anew", d.Short()))
}

func (s *scrubber) tell(ctx context.Context, kind audit.Kind, message string) {
	err := s.log.Commit(ctx, audit.Change{Entries: []audit.Entry{{Actor: s.actor, Kind: kind, Message: message, Alarm: true}}})
	if err != nil {
		s.co.log.Error("writing an alarm failed", "kind", string(kind), "message", message, "error", err)
	}
}
