//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// ledger keeps what was tried in a file, so that a run that is interrupted goes on
// with what is left. Of one revision of the programs only. A nil ledger keeps
// nothing.
type ledger struct {
	file *os.File
	// before are the outcomes of runs before this one.
	before []outcome

	mu  sync.Mutex
	err error
}

// entry is an outcome in the file. Violations are not kept: they are tried again.
type entry struct {
	Process, Point, What string
	Stage, N             int
	NotMet, NoMore       [2]bool // once, twice
}

// head is the first line of the file.
type head struct {
	Revision string
	// Power and First tell a run of another kind.
	Power, First bool
}

// openLedger reads a file, which is made where there is none, and goes on with it.
// A last line that was cut short is dropped.
func openLedger(path string, h head) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // The caller's.
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	whole := data[:bytes.LastIndexByte(data, '\n')+1]
	l := &ledger{file: f}
	if err := l.read(path, whole, h); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err = f.Truncate(int64(len(whole))); err == nil {
		_, err = f.Seek(int64(len(whole)), io.SeekStart)
	}
	if err == nil && len(whole) == 0 {
		err = json.NewEncoder(f).Encode(h)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

func (l *ledger) read(path string, data []byte, want head) error {
	for line := range bytes.Lines(data) {
		if want != (head{}) {
			var h head
			if err := json.Unmarshal(line, &h); err != nil || h != want {
				return fmt.Errorf("%s is of another run (%s), this one is of %+v: name another file, or remove it", path, bytes.TrimSpace(line), want)
			}
			want = head{}
			continue
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("%s: %.100q: %w", path, line, err)
		}
		if n := len(stages()); e.Stage < 0 || e.Stage >= n {
			return fmt.Errorf("%s: %.100q: want a stage below %d", path, line, n)
		}
		o := outcome{row: row{hit{e.Process, e.Point, e.What}, e.Stage, e.N}}
		for i, err := range []*error{&o.once, &o.twice} {
			switch {
			case e.NotMet[i]:
				*err = errNotMet
			case e.NoMore[i]:
				*err = errNoMore
			}
		}
		l.before = append(l.before, o)
	}
	return nil
}

// add keeps an outcome; close says whether that went well.
func (l *ledger) add(o outcome) {
	if l == nil || violation(o.once) || violation(o.twice) {
		return
	}
	e := entry{Process: o.process, Point: o.point, What: o.what, Stage: o.stage, N: o.n}
	for i, err := range []error{o.once, o.twice} {
		e.NotMet[i], e.NoMore[i] = errors.Is(err, errNotMet), errors.Is(err, errNoMore)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = errors.Join(l.err, json.NewEncoder(l.file).Encode(e))
}

// tried are the outcomes of runs before this one, and their rows.
func (l *ledger) tried() (outcomes []outcome, rows map[row]bool) {
	rows = map[row]bool{}
	if l == nil {
		return nil, rows
	}
	for _, o := range l.before {
		rows[o.row] = true
	}
	return append(outcomes, l.before...), rows
}

func (l *ledger) close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.err, l.file.Close())
}
