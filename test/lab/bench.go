//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/test/measurements"
)

// Targets of the comparison with the bare script.
const (
	ratioTarget    = 1.5
	overheadTarget = 60 * time.Millisecond
	// settleFirst is how long a release is left alone before its host is looked at.
	settleFirst = time.Second
)

// bareScript is what a person would have in a script: build what was pushed,
// set the profile, switch. $1 is the flake with its revision, $2 the attribute.
const bareScript = `#!/bin/sh
set -eu
date +%s%N
path=$(nix build --no-link --print-out-paths "$1#$2")
nix-env --profile /nix/var/nix/profiles/system --set "$path"
"$path/bin/switch-to-configuration" switch >/dev/null
`

// benchmark compares the time from the request to the switch's own time stamp.
type benchmark struct {
	where string
	took  time.Duration
	bare  []time.Duration
	ours  []time.Duration
	// sync is what syncfs of the store takes just after a build.
	sync []time.Duration
	// start is what a nix process takes that evaluates a number: what this machine is
	// worth, at the time of the measurement.
	start []time.Duration
	// command is how long the whole of "fleetctl publish" took.
	command []time.Duration
}

// runBench measures pairs of runs and writes the section of docs/measurements.md.
func runBench(ctx context.Context, o options, log func(string, ...any)) error {
	began := time.Now()
	b := &benchmark{where: measurements.Where(ctx)}
	if err := inLab(ctx, o, log, func(w *world) error {
		if err := setUpNixOS(ctx, w); err != nil {
			w.keepLogs("bench")
			return err
		}
		if err := w.web.Write("/usr/sbin/bare", bareScript, 0o755); err != nil {
			return err
		}
		for i := range o.pairs + 1 { // the first pair warms up and does not count
			if err := b.pair(ctx, w, i > 0); err != nil {
				w.keepLogs("bench")
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	b.took = time.Since(began)
	text := b.markdown()
	fmt.Print(text)
	if o.write {
		if err := measurements.Write(measurements.File, measurements.Section{Name: "switch", Command: "make bench", Text: text}); err != nil {
			return err
		}
	}
	return b.verdict()
}

// verdict is an error where a target was missed: whoever runs it is told by the exit
// code, too.
func (b *benchmark) verdict() error {
	if ratio, besides := b.ratio(), b.besides(); ratio > ratioTarget || besides > ms(overheadTarget) {
		return fmt.Errorf("%w: ratio %.2f, %.1f ms besides syncfs", errMissed, ratio, besides)
	}
	return nil
}

var errMissed = errors.New("a target was missed")

func (b *benchmark) pair(ctx context.Context, w *world, counts bool) error {
	bare, err := w.timeBare(ctx)
	if err != nil {
		return fmt.Errorf("bare: %w", err)
	}
	ours, command, err := w.timeOurs(ctx)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	sync, start, err := w.timeSync(ctx)
	if err != nil {
		return fmt.Errorf("syncfs and nix: %w", err)
	}
	w.log("bare %v  publish %v (the command %v)  syncfs %v", bare.Round(time.Millisecond), ours.Round(time.Millisecond), command.Round(time.Millisecond), sync.Round(time.Millisecond/10))
	if counts {
		b.bare, b.ours = append(b.bare, bare), append(b.ours, ours)
		b.sync, b.start, b.command = append(b.sync, sync), append(b.start, start), append(b.command, command)
	}
	return nil
}

// rev is the flake's newest revision.
func (w *world) rev(ctx context.Context) (string, error) {
	out, err := w.ops.Run(ctx, "git", "-C", flakeDir, "rev-parse", "HEAD")
	return strings.TrimSpace(out), err
}

func (w *world) timeBare(ctx context.Context) (time.Duration, error) {
	s, err := w.commit(ctx, release{})
	if err != nil {
		return 0, err
	}
	rev, err := w.rev(ctx)
	if err != nil {
		return 0, err
	}
	out, err := w.web.Run(ctx, "bare", "git+file://"+flakeDir+"?rev="+rev, attr)
	if err != nil {
		return 0, err
	}
	if err := w.runs(ctx, s); err != nil {
		return 0, err
	}
	w.good = s
	return w.since(ctx, out, s)
}

func (w *world) timeOurs(ctx context.Context) (toSwitch, command time.Duration, err error) {
	s, err := w.commit(ctx, release{})
	if err != nil {
		return 0, 0, err
	}
	out, err := w.ops.Shell(ctx, `date +%s%N
FLEET_DIR=`+repo+` fleetctl publish `+webName+` >/dev/null
date +%s%N`)
	if err != nil {
		return 0, 0, err
	}
	start, end, _ := strings.Cut(out, "\n")
	// Asking how far it is takes the machine's processors from what is measured.
	select {
	case <-time.After(settleFirst):
	case <-ctx.Done():
		return 0, 0, context.Cause(ctx)
	}
	if _, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.State == "confirmed" && p.Desired == p.Current }); err != nil {
		return 0, 0, err
	}
	if err := w.runs(ctx, s); err != nil {
		return 0, 0, err
	}
	w.good = s
	from, err1 := strconv.ParseInt(start, 10, 64)
	to, err2 := strconv.ParseInt(strings.TrimSpace(end), 10, 64)
	toSwitch, err = w.since(ctx, start, s)
	return toSwitch, time.Duration(to - from), errors.Join(err, err1, err2)
}

// since is the time from a time stamp to that of the switch's begin.
func (w *world) since(ctx context.Context, stamp string, s system) (time.Duration, error) {
	from, err := strconv.ParseInt(strings.TrimSpace(stamp), 10, 64)
	if err != nil {
		return 0, err
	}
	out, err := w.web.Run(ctx, "cat", "/var/log/lab-switches")
	if err != nil {
		return 0, err
	}
	for _, line := range lines(out) {
		f := strings.Fields(line)
		if len(f) == 3 && f[2] == s.toplevel && (f[1] == "switch" || f[1] == "test") {
			at, err := strconv.ParseInt(f[0], 10, 64)
			return time.Duration(at - from), err
		}
	}
	return 0, errors.New("the switch left no time stamp")
}

// timeSync builds one more commit, and times syncfs of the store after it, and the
// start of a nix process. It is activated by nobody.
func (w *world) timeSync(ctx context.Context) (sync, start time.Duration, err error) {
	if _, err := w.commit(ctx, release{}); err != nil {
		return 0, 0, err
	}
	rev, err := w.rev(ctx)
	if err != nil {
		return 0, 0, err
	}
	// Started twice: the first time there is nothing to read from the disk.
	out, err := w.web.Shell(ctx, `sync -f /nix/store
nix build --no-link 'git+file://`+flakeDir+`?rev=`+rev+`#`+attr+`'
date +%s%N; sync -f /nix/store; date +%s%N; sync -f /nix/store; date +%s%N
nix eval --expr 1 >/dev/null; date +%s%N`)
	if err != nil {
		return 0, 0, err
	}
	var at []int64
	for _, line := range lines(out) {
		n, err := strconv.ParseInt(line, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		at = append(at, n)
	}
	if len(at) != 4 {
		return 0, 0, fmt.Errorf("%d time stamps, want 4", len(at))
	}
	// What the second takes, with nothing to write, is starting the program.
	return max(0, time.Duration(at[1]-at[0]-(at[2]-at[1]))), time.Duration(at[3] - at[2]), nil
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

// middle is the median of what is sorted.
func middle(s []float64) float64 { return (s[(len(s)-1)/2] + s[len(s)/2]) / 2 }

// pairs compares each pair: the ratios and the differences in milliseconds, sorted.
func (b *benchmark) pairs() (ratios, over []float64) {
	for i := range b.bare {
		ratios = append(ratios, float64(b.ours[i])/float64(b.bare[i]))
		over = append(over, ms(b.ours[i]-b.bare[i]))
	}
	slices.Sort(ratios)
	slices.Sort(over)
	return ratios, over
}

func (b *benchmark) ratio() float64 {
	ratios, _ := b.pairs()
	return middle(ratios)
}

// besides is the overhead without syncfs, in milliseconds.
func (b *benchmark) besides() float64 {
	_, over := b.pairs()
	return middle(over) - ms(median(b.sync))
}

func (b *benchmark) markdown() string {
	var text strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }
	ratios, over := b.pairs()
	p("## From a commit to the switch\n")
	p("%s. It took %s.\n", b.where, b.took.Round(time.Second))
	p("How: on the lab's booted hosts, %d interleaved pairs after one that does not count, a new commit for each run. Bare: `nix build` of the locked flake, `nix-env --set` and the switch, in a script on the host itself. Ours: `fleetctl publish` where the operator is, which locks and evaluates the flake, signs, uploads and commits; the agent is woken, verifies, evaluates and builds, syncs the store and switches. Both from just before the command starts to the time stamp with which switch-to-configuration itself begins. syncfs is timed apart, just after a build; the bare script does none. Medians; ratio and overhead are medians over pairs with their range. The ratio's target is to be less than half of comin's 3.2, which was not measured in this run.\n", len(b.bare))
	p("| | | range | target | |")
	p("| --- | ---: | --- | --- | --- |")
	row := func(name string, d []time.Duration) {
		p("| %s | %.1f | %.1f–%.1f |  |  |", name, ms(median(d)), ms(slices.Min(d)), ms(slices.Max(d)))
	}
	row("bare script, ms", b.bare)
	row("publish to switch, ms", b.ours)
	row("of it, the command `fleetctl publish`, ms", b.command)
	row("syncfs after a build, ms", b.sync)
	row("a nix process that evaluates a number, ms", b.start)
	met := func(ok bool) string {
		if ok {
			return "met"
		}
		return "missed"
	}
	p("| ratio | %.2f | %.2f–%.2f | ≤ %.1f | %s |", b.ratio(), ratios[0], ratios[len(ratios)-1], ratioTarget, met(b.ratio() <= ratioTarget))
	besides := b.besides()
	p("| overhead, ms | %.1f | %.1f–%.1f |  |  |", middle(over), over[0], over[len(over)-1])
	p("| overhead besides syncfs, ms | %.1f |  | ≤ %d | %s |", besides, overheadTarget.Milliseconds(), met(besides <= ms(overheadTarget)))
	return text.String()
}
