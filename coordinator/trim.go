package coordinator

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// trimEvery is how often the coordinator looks whether it is quiet.
	trimEvery = 2 * time.Second
	// quietAllocs in bytes between two looks is quiet: streams and heartbeats
	// alone stay below.
	quietAllocs = 1 << 20
	// trimAfter in bytes allocated since the last time makes it worth while.
	trimAfter = 16 << 20
)

// trimmer decides when memory that a release or a storm of connections took is
// given back. The runtime by itself keeps twice what is alive, which with
// thousands of streams is a lot; a collection in the middle of a wake-up, on
// the other hand, would make hosts wait.
type trimmer struct {
	last, trimmed uint64
}

// quiet is told how many bytes were ever allocated, at each look, and says
// whether to give back.
func (t *trimmer) quiet(allocated uint64) bool {
	idle := allocated-t.last < quietAllocs
	t.last = allocated
	if !idle || allocated-t.trimmed < trimAfter {
		return false
	}
	t.trimmed = allocated
	return true
}

// trim gives memory back to the operating system whenever it is quiet after
// work, until ctx ends.
func trim(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	var t trimmer
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(sample)
		if sample[0].Value.Kind() == metrics.KindUint64 && t.quiet(sample[0].Value.Uint64()) {
			debug.FreeOSMemory()
		}
	}
}
