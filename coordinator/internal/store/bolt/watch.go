package bolt

import (
	"context"
	"strings"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

// What a watch may leave unread before it is closed.
const (
	watchEvents = 1024
	watchBytes  = 8 << 20
)

// watches is the set of open watches.
type watches struct {
	mu  sync.Mutex // guards all; held while sending, so that nothing is sent on a closed channel
	all map[*watch]struct{}
}

// watch is one reader. Sending never blocks.
type watch struct {
	prefix string
	ch     chan store.Event
	stop   func() bool // ends the wait for the context
	// total is how many bytes were ever sent, before[i%len] how many had been
	// before event i: their difference at the oldest unread event is what
	// waits, without the reader having to tell.
	sent, total uint64
	before      [watchEvents + 1]uint64
}

// Watch sends modifications of keys with this prefix.
func (s *Store) Watch(ctx context.Context, prefix string) (<-chan store.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &watch{prefix: prefix, ch: make(chan store.Event, watchEvents)}
	// Holding the state through use, so that Close comes before or after.
	err := s.use(func(*bbolt.DB) error {
		s.watches.mu.Lock()
		defer s.watches.mu.Unlock()
		if s.watches.all == nil {
			s.watches.all = make(map[*watch]struct{})
		}
		s.watches.all[w] = struct{}{}
		w.stop = context.AfterFunc(ctx, func() {
			s.watches.mu.Lock()
			defer s.watches.mu.Unlock()
			s.watches.closeLocked(w)
		})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return w.ch, nil
}

// publish sends the events of one transaction to everybody concerned.
func (ws *watches) publish(events []store.Event) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		for _, e := range events {
			if strings.HasPrefix(e.Key, w.prefix) && !w.send(e) {
				ws.closeLocked(w)
				break
			}
		}
	}
}

// send says whether the reader keeps up.
func (w *watch) send(e store.Event) bool {
	size := uint64(len(e.Key) + len(e.Value))
	if waiting := uint64(len(w.ch)); waiting > 0 {
		if w.total-w.before[(w.sent-waiting)%uint64(len(w.before))]+size > watchBytes {
			return false
		}
	}
	select {
	case w.ch <- e:
	default:
		return false
	}
	w.before[w.sent%uint64(len(w.before))] = w.total
	w.sent++
	w.total += size
	return true
}

func (ws *watches) closeLocked(w *watch) {
	if _, open := ws.all[w]; open {
		delete(ws.all, w)
		w.stop()
		close(w.ch)
	}
}

func (ws *watches) closeAll() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		ws.closeLocked(w)
	}
}
