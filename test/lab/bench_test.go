//go:build linux

package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestBenchmarkIsJudged(t *testing.T) {
	ms := func(n ...int) (d []time.Duration) {
		for _, v := range n {
			d = append(d, time.Duration(v)*time.Millisecond)
		}
		return d
	}
	b := &benchmark{bare: ms(100, 100, 200), ours: ms(140, 160, 400), sync: ms(5, 5, 5), start: ms(20, 30, 40), command: ms(70, 80, 90)}
	if err := b.verdict(); !errors.Is(err, errMissed) {
		t.Errorf("a ratio of 1.6 is judged %v", err)
	}
	good := &benchmark{bare: ms(100, 100, 200), ours: ms(140, 140, 240), sync: ms(5, 5, 5)}
	if err := good.verdict(); err != nil {
		t.Errorf("a ratio of 1.4 is judged %v", err)
	}
	good.ours = ms(170, 170, 270)
	good.bare = ms(170, 100, 200)
	if err := good.verdict(); !errors.Is(err, errMissed) {
		t.Errorf("65 ms besides syncfs are judged %v", err)
	}
	got := b.markdown()
	for _, want := range []string{
		"| bare script, ms | 100.0 | 100.0–200.0 |", "| a nix process that evaluates a number, ms | 30.0 | 20.0–40.0 |",
		"| ratio | 1.60 | 1.40–2.00 | ≤ 1.5 | missed |",
		"| overhead, ms | 60.0 | 40.0–200.0 |", "| overhead besides syncfs, ms | 55.0 |  | ≤ 60 | met |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the report lacks %q:\n%s", want, got)
		}
	}
}
