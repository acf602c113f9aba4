//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
	"github.com/cameronraysmith/fleet/test/bench/setup"
)

// idleResult is what an idle agent costs its host.
type idleResult struct {
	memory       memory
	cpuPerMinute time.Duration
	size         int64 // of the stripped program, in bytes
}

// idleAgent enrols a real agent, has it confirm a generation, and watches it.
func (b *bench) idleAgent(ctx context.Context, watch time.Duration) (_ *idleResult, err error) {
	f, err := b.newFleet(1)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "idle-")
	if err != nil {
		return nil, err
	}
	addr, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	state := filepath.Join(dir, "coordinator")
	if err := os.Mkdir(state, 0o700); err != nil {
		return nil, err
	}
	coordinator, err := start(ctx, f.ours().argv(addr, state)...)
	if err != nil {
		return nil, err
	}
	defer coordinator.stop()
	if err := coordinator.waitListening(ctx, addr); err != nil {
		return nil, err
	}
	op, closeOp, err := f.operator(addr)
	if err != nil {
		return nil, err
	}
	defer closeOp()

	join, err := f.join(ctx, op, addr)
	if err != nil {
		return nil, coordinator.failed("making a join string", err)
	}
	joinFile := filepath.Join(dir, "join")
	if err := os.WriteFile(joinFile, []byte(join), 0o600); err != nil {
		return nil, err
	}
	agent, err := start(ctx, b.programs.agent, "run", "--state-dir", filepath.Join(dir, "state"), "--run-dir", filepath.Join(dir, "run"),
		"--secrets-dir", filepath.Join(dir, "secrets"), "--join-file", joinFile)
	if err != nil {
		return nil, err
	}
	defer agent.stop()

	packed, err := pack(filepath.Join(dir, "bundle"))
	if err != nil {
		return nil, err
	}
	if err := f.publish(ctx, op, 1, packed); err != nil {
		return nil, coordinator.failed("staging", err)
	}
	if _, err := op.Commit(ctx, &fleetv1.CommitRequest{Release: releaseID(1), Count: 1, Revision: "bench"}); err != nil {
		return nil, coordinator.failed("committing", err)
	}
	if err := waitConfirmed(ctx, op); err != nil {
		return nil, agent.failed("waiting for the agent to confirm its generation", err)
	}
	b.log("agent confirmed its generation; watching it for %v", watch)
	return b.watch(ctx, agent.pid(), watch)
}

func (b *bench) watch(ctx context.Context, pid int, watch time.Duration) (*idleResult, error) {
	// What activating left to do shall not count.
	if err := pause(ctx, 10*time.Second); err != nil {
		return nil, err
	}
	cpu, from := setup.CPU(pid), setup.Clock()
	if err := pause(ctx, watch); err != nil {
		return nil, err
	}
	used, passed := setup.CPU(pid)-cpu, time.Duration(setup.Clock()-from)
	m, err := memoryOf(pid)
	if err != nil {
		return nil, err
	}
	program, err := os.Stat(b.programs.agent)
	if err != nil {
		return nil, err
	}
	return &idleResult{memory: m, cpuPerMinute: time.Duration(float64(used) / passed.Minutes()), size: program.Size()}, nil
}

// join registers a one-use token for the only machine.
func (f *fixture) join(ctx context.Context, op fleetv1.OperatorServiceClient, addr string) (string, error) {
	join, err := pki.NewJoin(pki.Join{
		Fleet: setup.Fleet, Machine: setup.Machine(0), Addresses: []string{addr},
		CA: fleet.DigestOf(f.Kit.CACert), Root: f.Kit.RootPin, Issued: time.Now(),
	})
	if err != nil {
		return "", err
	}
	_, err = op.CreateToken(ctx, &fleetv1.CreateTokenRequest{
		Machine: string(join.Machine), TokenHash: join.TokenHash(), TtlSeconds: uint32(pki.TokenTTL / time.Second),
	})
	return join.String(), err
}

// pack makes the smallest bundle.
func pack(dir string) ([]byte, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "activate"), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	_, err := bundle.Pack(dir, &packed)
	return packed.Bytes(), err
}

// waitConfirmed waits until the only machine has confirmed its generation.
func waitConfirmed(ctx context.Context, op fleetv1.OperatorServiceClient) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	last := "nothing was reported"
	for {
		hosts, err := op.ListHosts(ctx, &fleetv1.ListHostsRequest{})
		if err != nil {
			return err
		}
		for {
			h, err := hosts.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("%s: %w", last, err)
			}
			for _, p := range h.GetHost().GetProfiles() {
				last = fmt.Sprintf("its state is %s (%s)", p.GetState(), p.GetReason().GetMessage())
				if fleet.State(p.GetState()) == fleet.StateConfirmed {
					return nil
				}
			}
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%s: %w", last, err)
		}
	}
}
