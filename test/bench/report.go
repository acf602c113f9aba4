//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"
)

// report is everything that was measured.
type report struct {
	machine      string
	pairs, wakes int
	watched      time.Duration
	took         time.Duration
	wake         []wakeResult
	idle         *idleResult
	generate     *generateResult
	secrets      *secretsResult
}

type wakeResult struct {
	n          int
	bare, ours []run
}

// figure is one line of the comparison.
type figure struct {
	name   string
	value  func(run) float64
	format string
	target float64 // ours/bare at most; negative: at least 1/-target; 0: none
}

var figures = []figure{
	{"wake-up p50, ms", func(r run) float64 { return float64(r.p50) / 1e6 }, "%.1f", 0},
	{"wake-up p99, ms", func(r run) float64 { return float64(r.p99) / 1e6 }, "%.1f", 1.3},
	{"server CPU for one wake-up of all, ms", func(r run) float64 { return float64(r.cpu) / 1e6 }, "%.1f", 1.3},
	{"resident memory per agent, kB", func(r run) float64 { return r.perAgent / 1000 }, "%.1f", 1.3},
	{"the same after the wake-ups, kB", func(r run) float64 { return r.afterwork / 1000 }, "%.1f", 0},
	{"connections per second", func(r run) float64 { return r.rate }, "%.0f", 0},
	{"trigger call, ms", func(r run) float64 { return float64(r.trigger) / 1e6 }, "%.1f", 0},
}

func (rep *report) markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("## The coordinator and the agent\n")
	p("%s. It took %s.\n", rep.machine, rep.took.Round(time.Second))
	if len(rep.wake) > 0 {
		p("### Waking the agents\n")
		p("How: the real `fleet-coordinator` against a bare grpc-go server with its defaults, but for the kernel's TCP keepalive, which is off on both (test/bench/bare), which does nothing but stream the same bytes. The same TLS configuration on both, and a second process that holds one mTLS connection per agent, each with its own key and certificate, over loopback. %d interleaved pairs of runs (bare, ours, bare, ours, …), each with a fresh server; in each run one wake-up to warm up and %d that count. The trigger is `Commit` of a staged release that covers all agents (staging is not measured); on the bare server it is the same call, which only wakes. A wake-up is timed from just before that call until the agent's process has read the message, on the machine's monotonic clock; all processes share the machine's processors, so the times include the agents' side. CPU is the server's, until half a second after the last agent was woken. Memory is resident memory once it has settled, less that before the first connection, per agent. All figures are medians over runs; the ratio is the median over pairs with its range.\n", rep.pairs, rep.wakes)
		for _, w := range rep.wake {
			p("#### %d agents\n", w.n)
			p("| | bare | fleet-coordinator | ratio | range | target | |")
			p("| --- | ---: | ---: | ---: | --- | --- | --- |")
			for _, f := range figures {
				bare, ours := medianOf(w.bare, f.value), medianOf(w.ours, f.value)
				r := ratios(w.bare, w.ours, f.value)
				target, met := "", ""
				if f.target > 0 {
					target, met = fmt.Sprintf("≤ %.1f", f.target), verdict(r.median <= f.target)
				}
				p("| %s | "+f.format+" | "+f.format+" | %.2f | %.2f–%.2f | %s | %s |", f.name, bare, ours, r.median, r.least, r.most, target, met)
			}
			p("")
		}
	}
	if rep.idle != nil {
		i := rep.idle
		p("### The idle agent\n")
		p("How: the real `fleet-agent`, enrolled with the real `fleet-coordinator`, in mode manage with one confirmed generation, then left alone for %s. Memory from `/proc/PID/smaps_rollup` at the end; CPU from the process's clock. comin, a comparable pull agent, uses 22 and 4.8 MB of memory; the other two targets are what it uses.\n", rep.watched)
		p("| | fleet-agent | target | |")
		p("| --- | ---: | --- | --- |")
		row := func(name string, value, target float64) {
			p("| %s | %.1f | < %g | %s |", name, value, target, verdict(value < target))
		}
		row("resident memory, MB", float64(i.memory.resident)/1e6, 18)
		row("anonymous memory, MB", float64(i.memory.anonymous)/1e6, 5)
		row("CPU per minute, ms", i.cpuPerMinute.Seconds()*1000, 5)
		row("stripped program, MB", float64(i.size)/1e6, 20.9)
		p("")
	}
	if rep.generate != nil {
		b.WriteString(rep.generate.markdown())
	}
	if rep.secrets != nil {
		b.WriteString(rep.secrets.markdown())
	}
	return b.String()
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return missed
}

// missed marks a row whose target was not reached.
const missed = "missed"
