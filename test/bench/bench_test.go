//go:build linux

package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/test/bench/setup"
)

func TestStatistics(t *testing.T) {
	var sorted []time.Duration
	for i := range 1000 {
		sorted = append(sorted, time.Duration(i))
	}
	for q, want := range map[float64]time.Duration{0: 0, 0.5: 500, 0.99: 990, 1: 999} {
		if got := quantile(sorted, q); got != want {
			t.Errorf("quantile(%v) = %d, want %d", q, got, want)
		}
	}
	if got := median([]float64{9, 1, 2}); got != 2 {
		t.Errorf("median of three: %v", got)
	}
	if got := median([]float64{4, 1, 2, 100}); got != 3 {
		t.Errorf("median of four: %v", got)
	}
	rate := func(r run) float64 { return r.rate }
	bare, ours := []run{{rate: 1}, {rate: 10}, {rate: 100}}, []run{{rate: 2}, {rate: 10}, {rate: 50}}
	if got, want := ratios(bare, ours, rate), (ratio{median: 1, least: 0.5, most: 2}); got != want {
		t.Errorf("ratios: got %v, want %v", got, want)
	}
}

func TestMeasuringThisProcess(t *testing.T) {
	m, err := memoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if m.anonymous <= 0 || m.resident <= m.anonymous || m.resident%1024 != 0 {
		t.Errorf("got %+v, want anonymous memory below resident memory", m)
	}
	before := setup.CPU(os.Getpid())
	for sum, from := 0, setup.Clock(); setup.Clock()-from < int64(20*time.Millisecond); sum++ {
		_ = sum
	}
	if used := setup.CPU(os.Getpid()) - before; used <= 0 {
		t.Errorf("spinning used %v of CPU", used)
	}
}

func TestMarkdown(t *testing.T) {
	rep := report{
		machine: "a machine", pairs: 1, wakes: 1,
		wake: []wakeResult{{
			n:    7,
			bare: []run{{rate: 1000, p50: time.Millisecond, p99: 100 * time.Millisecond, cpu: time.Second, perAgent: 50_000, afterwork: 1, trigger: 1}},
			ours: []run{{rate: 500, p50: time.Millisecond, p99: 140 * time.Millisecond, cpu: time.Second, perAgent: 60_000, afterwork: 1, trigger: 1}},
		}},
		idle: &idleResult{memory: memory{resident: 17e6, anonymous: 5e6}, cpuPerMinute: time.Millisecond, size: 1},
		generate: &generateResult{
			stream: []time.Duration{10 * time.Millisecond}, try: []time.Duration{17 * time.Millisecond},
			identities: []time.Duration{100 * time.Millisecond}, took: time.Second, generators: 60, sets: []time.Duration{time.Second},
		},
	}
	got := rep.markdown()
	for _, want := range []string{
		"#### 7 agents", "| wake-up p99, ms | 100.0 | 140.0 | 1.40 | 1.40–1.40 | ≤ 1.3 | missed |",
		"| resident memory per agent, kB | 50.0 | 60.0 | 1.20 | 1.20–1.20 | ≤ 1.3 | met |",
		"| resident memory, MB | 17.0 | < 18 | met |", "| anonymous memory, MB | 5.0 | < 5 | missed |",
		"| a try of a ZeroTier identity, ms | 17.0 | 10.0 | 1.70 | 1.70–1.70 | ≤ 1.6 | missed |", "| ZeroTier identities per second | 1.0 |",
		"| a ZeroTier identity, median, ms | 100 |  |  | 100–100 | < 170 | met |", "| all generators of ten machines, ms | 1000 |  |  | 1000–1000 | < 1000 | missed |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the report lacks %q:\n%s", want, got)
		}
	}
}
