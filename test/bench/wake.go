//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
	"github.com/cameronraysmith/fleet/test/bench/setup"
)

// programs are the paths of what is measured and of what measures.
type programs struct{ coordinator, agent, bare, agents, secrets string }

// run is what one run of one server with n agents showed.
type run struct {
	rate      float64 // connections a second
	p50, p99  time.Duration
	cpu       time.Duration // of the server, for one wake-up of all agents
	perAgent  float64       // resident bytes: connected and settled
	afterwork float64       // resident bytes an agent, after the wake-ups
	trigger   time.Duration // until the trigger call returned
}

// subject is one of the two servers.
type subject struct {
	name string
	// argv starts the server; state is an empty directory for it.
	argv func(addr, state string) []string
	// stage prepares the next release, for whoever needs it prepared.
	stage func(ctx context.Context, op fleetv1.OperatorServiceClient, release int) error
}

// bench holds what the runs share.
type bench struct {
	programs programs
	dir      string
	wakes    int
	log      func(format string, args ...any)
}

// wakeUps runs pairs of bare and ours, interleaved, so that what else the
// machine does falls on both.
func (b *bench) wakeUps(ctx context.Context, n, pairs int, null bool) (bare, ours []run, err error) {
	f, err := b.newFleet(n)
	if err != nil {
		return nil, nil, err
	}
	second := f.ours()
	if null {
		second = f.bare()
		second.name = nameOurs
	} else if err := f.enrol(ctx); err != nil {
		return nil, nil, err
	}
	for pair := range pairs {
		for _, s := range []*subject{f.bare(), second} {
			r, err := b.one(ctx, f, s, n)
			if err != nil {
				return nil, nil, fmt.Errorf("%s with %d agents: %w", s.name, n, err)
			}
			b.log("%5d agents, pair %d, %-4s  %4.0f conn/s  p50 %v  p99 %v  cpu %v  %.1f kB an agent, %.1f after releases (call %v)",
				n, pair+1, s.name, r.rate, r.p50.Round(time.Millisecond), r.p99.Round(time.Millisecond), r.cpu.Round(time.Millisecond),
				r.perAgent/1000, r.afterwork/1000, r.trigger.Round(time.Millisecond))
			if s.name == nameBare {
				bare = append(bare, r)
			} else {
				ours = append(ours, r)
			}
		}
	}
	return bare, ours, nil
}

// one starts a server, connects n agents and wakes them several times.
func (b *bench) one(ctx context.Context, f *fixture, s *subject, n int) (r run, err error) {
	state, err := os.MkdirTemp(b.dir, "state-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(state)) }()
	if f.state != "" {
		if err := os.CopyFS(state, os.DirFS(f.state)); err != nil {
			return r, err
		}
	}
	addr, err := freeAddress(ctx)
	if err != nil {
		return r, err
	}
	server, err := start(ctx, s.argv(addr, state)...)
	if err != nil {
		return r, err
	}
	defer server.stop()
	if err := server.waitListening(ctx, addr); err != nil {
		return r, err
	}
	op, closeOp, err := f.operator(addr)
	if err != nil {
		return r, err
	}
	defer closeOp()
	before, err := settle(ctx, server.pid())
	if err != nil {
		return r, err
	}

	agents, err := startHolder(ctx, b.programs.agents, f, addr)
	if err != nil {
		return r, err
	}
	defer agents.stop()
	answer, err := agents.ask(setup.CmdConnect)
	if err != nil {
		return r, server.failed("connecting", err)
	}
	r.rate = float64(n) / answer.Connecting.Seconds()
	connected, err := settle(ctx, server.pid())
	if err != nil {
		return r, err
	}
	r.perAgent = float64(connected.resident-before.resident) / float64(n)

	var p50, p99, cpu, trigger []time.Duration
	for i := range b.wakes + 1 { // the first one warms up and does not count
		if err := s.stage(ctx, op, i+1); err != nil {
			return r, server.failed("staging", err)
		}
		w, err := wake(ctx, server.pid(), agents, op, i+1, n)
		if err != nil {
			return r, server.failed("waking", err)
		}
		if i > 0 {
			p50, p99 = append(p50, quantile(w.latencies, 0.50)), append(p99, quantile(w.latencies, 0.99))
			cpu, trigger = append(cpu, w.cpu), append(trigger, w.trigger)
		}
	}
	r.p50, r.p99, r.cpu, r.trigger = median(p50), median(p99), median(cpu), median(trigger)
	after, err := settle(ctx, server.pid())
	r.afterwork = float64(after.resident-before.resident) / float64(n)
	return r, err
}

// woken is one wake-up of all agents.
type woken struct {
	latencies    []time.Duration // from just before the trigger call, sorted
	cpu, trigger time.Duration
}

func wake(ctx context.Context, pid int, agents *holder, op fleetv1.OperatorServiceClient, number, n int) (w woken, err error) {
	if _, err := agents.ask(setup.CmdArm); err != nil {
		return w, err
	}
	// What staging left to do shall not count.
	if _, err := settle(ctx, pid); err != nil {
		return w, err
	}
	expected := ""
	if number > 1 {
		expected = releaseID(number - 1)
	}
	cpu, from := setup.CPU(pid), setup.Clock()
	if _, err := op.Commit(ctx, &fleetv1.CommitRequest{
		Release: releaseID(number), ExpectedHead: expected, Count: uint32(n), Revision: "bench", //nolint:gosec // At most tens of thousands.
	}); err != nil {
		return w, err
	}
	w.trigger = time.Duration(setup.Clock() - from)
	answer, err := agents.ask(setup.CmdCollect)
	if err != nil {
		return w, err
	}
	// What the server does behind the wake-up counts as well.
	if err := pause(ctx, 500*time.Millisecond); err != nil {
		return w, err
	}
	w.cpu = setup.CPU(pid) - cpu
	for _, at := range answer.Received {
		if at < from {
			return w, errors.New("an agent was woken before the trigger")
		}
		w.latencies = append(w.latencies, time.Duration(at-from))
	}
	slices.Sort(w.latencies)
	return w, nil
}

func releaseID(number int) string { return "r" + strconv.Itoa(number) }
