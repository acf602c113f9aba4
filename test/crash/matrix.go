//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// hit is a crash point as a program meets it.
type hit struct{ process, point, what string }

func (h hit) trigger(n int) string {
	s := h.process + "/" + h.point
	if h.what != "-" {
		s += "@" + h.what
	}
	return fmt.Sprintf("%s#%d=kill", s, n)
}

// row is one kill: at the n-th time that a program meets a point in a stage.
type row struct {
	hit
	stage, n int
}

// outcome of a row. errNotMet where the kill never happened.
type outcome struct {
	row
	once, twice error
}

// errNotMet says that a run ended before its kill.
var errNotMet = errors.New("not met")

// errNoMore says that after the first kill the program met no point any more.
var errNoMore = errors.New("no second")

// lines reads the log of a run: what was hit, and after which hits it fired.
func (w *world) lines() (hits []hit, fired []int, err error) {
	data, err := os.ReadFile(w.crashLog())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		switch {
		case len(f) != 4:
			return nil, nil, fmt.Errorf("the log of hits has a line %q", line)
		case f[0] == "fired":
			fired = append(fired, len(hits))
		default:
			hits = append(hits, hit{f[0], f[1], f[2]})
		}
	}
	return hits, fired, err
}

// record plays all stages without a crash, keeps a copy of the world before
// each, and counts what is hit.
func (w *world) record(ctx context.Context) (map[row]bool, error) {
	rows := map[row]bool{}
	w.trigger = ""
	for i, s := range stages() {
		if err := w.save(i); err != nil {
			return nil, err
		}
		if err := os.RemoveAll(w.crashLog()); err != nil {
			return nil, err
		}
		if err := w.play(ctx, i, s); err != nil {
			return nil, fmt.Errorf("%s, without a crash: %w", s.name, err)
		}
		hits, _, err := w.lines()
		if err != nil {
			return nil, err
		}
		count := map[hit]int{}
		for _, h := range hits {
			count[h]++
			rows[row{h, i, count[h]}] = true
		}
	}
	return rows, nil
}

// try plays a row's stage with a crash, and with two.
func (w *world) try(ctx context.Context, r row) outcome {
	o := outcome{row: r}
	var second string
	for range 3 { // What waits for acknowledgements is not met each time.
		second, o.once = w.crash(ctx, r, r.trigger(r.n))
		if !errors.Is(o.once, errNotMet) {
			break
		}
	}
	if o.once != nil || ctx.Err() != nil {
		return o
	}
	if second == "" {
		o.twice = errNoMore
		return o
	}
	for range 3 {
		_, o.twice = w.crash(ctx, r, r.trigger(r.n)+","+second)
		if !errors.Is(o.twice, errNotMet) {
			break
		}
	}
	return o
}

// crash plays a stage with a trigger. second is where to kill next time, too.
func (w *world) crash(ctx context.Context, r row, trigger string) (second string, err error) {
	if err := w.restore(r.stage); err != nil {
		return "", err
	}
	w.trigger = trigger
	defer func() { w.trigger = "" }()
	err = w.play(ctx, r.stage, stages()[r.stage])
	if err != nil {
		w.keep(r, trigger, err)
		return "", err
	}
	hits, fired, err := w.lines()
	if err != nil {
		return "", err
	}
	if len(fired) < strings.Count(trigger, "=kill") {
		return "", errNotMet
	}
	// The same point again where the program comes there once more, else the
	// first that it meets.
	after := hits[fired[0]:]
	switch first := slices.IndexFunc(after, func(h hit) bool { return h.process == r.process }); {
	case slices.Contains(after, r.hit):
		return r.trigger(1), nil
	case first >= 0:
		return r.process + "/*#1=kill", nil
	case r.process == "runner":
		return "agent/*#1=kill", nil
	}
	return "", nil
}

// keep copies what a violation left, for people to look at.
func (w *world) keep(r row, trigger string, err error) {
	name := strings.NewReplacer("/", "_", "*", "any").Replace(fmt.Sprintf("violation-%02d-%s", r.stage, trigger))
	to := filepath.Join(filepath.Dir(w.top), name)
	_ = os.RemoveAll(to)
	if os.MkdirAll(to, 0o700) != nil {
		return
	}
	_ = os.WriteFile(filepath.Join(to, "error"), []byte(err.Error()+"\n"), 0o600)
	_ = run("cp", "-a", w.dir, w.crashLog(), filepath.Join(w.top, "agent.log"), filepath.Join(w.top, "coordinator.log"), to)
}

// matrix tries rows in several worlds at a time.
type matrix struct {
	programs, dir string
	workers       int
	first, power  bool
	pick          func(row) bool
	// ledger has what was tried before, and gets what is.
	ledger   *ledger
	progress func(done, all int, o outcome)
}

// run records, and tries every row that is picked.
func (m *matrix) run(ctx context.Context) (all map[row]bool, outcomes []outcome, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	worlds := make([]*world, m.workers)
	all = map[row]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range worlds {
		w, err := newWorld(m.programs, filepath.Join(m.dir, fmt.Sprintf("world%d", i)))
		if err != nil {
			return nil, nil, err
		}
		defer w.close()
		worlds[i] = w
		if m.power {
			if err := w.plug(); err != nil {
				return nil, nil, err
			}
		}
		wg.Go(func() {
			rows, err := w.record(ctx)
			if err != nil {
				cancel(err)
			}
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(all, rows)
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	outcomes, tried := m.ledger.tried()
	maps.Copy(all, tried) // What waits for acknowledgements is not met each time.
	picked := sorted(all, m.first, m.pick)
	queue := slices.DeleteFunc(slices.Clone(picked), func(r row) bool { return tried[r] })
	next := make(chan row)
	for _, w := range worlds {
		wg.Go(func() {
			for r := range next {
				o := w.try(ctx, r)
				mu.Lock()
				if ctx.Err() == nil {
					outcomes = append(outcomes, o)
					m.ledger.add(o)
				}
				m.progress(len(outcomes), len(picked), o)
				mu.Unlock()
			}
		})
	}
	for _, r := range queue {
		select {
		case next <- r:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	wg.Wait()
	return all, outcomes, ctx.Err()
}

// sorted puts the first time that a point is met in the fleet's life before the
// others, so that a run that is cut short tried each; these alone with first.
func sorted(all map[row]bool, first bool, pick func(row) bool) []row {
	rows := slices.SortedFunc(maps.Keys(all), func(a, b row) int {
		return cmp.Or(cmp.Compare(a.stage, b.stage), cmp.Compare(a.n, b.n), cmp.Compare(a.process, b.process), cmp.Compare(a.point, b.point), cmp.Compare(a.what, b.what))
	})
	seen := map[hit]bool{}
	var firsts, others []row
	for _, r := range rows {
		switch {
		case !seen[r.hit]:
			seen[r.hit] = true
			firsts = append(firsts, r)
		case !first:
			others = append(others, r)
		}
	}
	return slices.DeleteFunc(append(firsts, others...), func(r row) bool { return !pick(r) })
}
