package agent

import (
	"slices"
	"testing"
)

// TestRest: busy is told when work begins, idle once nothing is done for a
// tick, and again now and then.
func TestRest(t *testing.T) {
	var told []bool
	r := newRest(func(busy bool) { told = append(told, busy) })
	want := func(what string, values ...bool) {
		t.Helper()
		if !slices.Equal(told, values) {
			t.Errorf("%s: told %v, want %v", what, told, values)
		}
		told = nil
	}
	end := r.work()
	want("working from the start")
	r.tick(true)
	want("a tick during work")
	end()
	r.tick(false)
	want("the tick after work, which may go on")
	r.tick(false)
	want("a tick without work", false)
	r.tick(false)
	want("a second one")
	r.work()()
	want("work again", true)
	r.tick(true)
	want("work that surely ended", false)
	for range tidyTicks {
		r.tick(false)
	}
	want("a long time", false)
}
