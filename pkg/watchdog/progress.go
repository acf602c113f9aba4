package watchdog

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Progress knows what the loops of a program do. Its zero value is not useful; use
// NewProgress.
type Progress struct {
	now func() time.Time

	mu    sync.Mutex
	loops map[*Loop]loopState
}

// loopState is what a loop said last.
type loopState struct {
	doing string
	since time.Time
	// until is when it is late; zero while it waits.
	until time.Time
}

// NewProgress returns one without loops. now is for differences only; it should
// stand still while the machine sleeps.
func NewProgress(now func() time.Time) *Progress {
	return &Progress{now: now, loops: map[*Loop]loopState{}}
}

// Loop is something that must go on: a goroutine, or a job of one. A loop is at
// work, within a time, or waits. It MUST be ended with Ends. A nil Loop is of no
// interest to anybody.
type Loop struct {
	p    *Progress
	name string
}

// Loop adds a loop that begins by doing what is said, within a time. A nil Progress
// returns a nil Loop.
func (p *Progress) Loop(name, doing string, within time.Duration) *Loop {
	if p == nil {
		return nil
	}
	l := &Loop{p: p, name: name}
	l.Does(doing, within)
	return l
}

// Does says what the loop does from now on, and how long that takes at most.
func (l *Loop) Does(what string, within time.Duration) {
	if l == nil {
		return
	}
	now := l.p.now()
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.p.loops[l] = loopState{doing: what, since: now, until: now.Add(within)}
}

// Waits says that the loop waits for something that may take any time, such as a
// channel or the network.
func (l *Loop) Waits() {
	if l == nil {
		return
	}
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.p.loops[l] = loopState{}
}

// Ends says that the loop is no more.
func (l *Loop) Ends() {
	if l == nil {
		return
	}
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	delete(l.p.loops, l)
}

// Stuck names the loops that are late, and what they do; "" where none is.
func (p *Progress) Stuck() string {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	late := map[string]bool{}
	for l, s := range p.loops {
		if !s.until.IsZero() && now.After(s.until) {
			late[fmt.Sprintf("%s: %s, for %s", l.name, s.doing, now.Sub(s.since).Round(time.Second))] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(late)), "; ")
}
