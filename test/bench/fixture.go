//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"filippo.io/age"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
	"github.com/cameronraysmith/fleet/test/bench/setup"
)

// The names of the two servers.
const (
	nameBare = "bare"
	nameOurs = "ours"
)

// fixture is a throw-away fleet of n machines on disk.
type fixture struct {
	*setup.Setup
	bench       *bench
	n           int
	dir         string
	file, hosts string // for bare and agents
	kit, kitKey string // for the coordinator
	// state is what each coordinator starts with, copied; empty for nothing.
	state string
}

func (b *bench) newFleet(n int) (*fixture, error) {
	now := time.Now()
	s, err := setup.New(now)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "fleet-")
	if err != nil {
		return nil, err
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	f := &fixture{Setup: s, bench: b, n: n, dir: dir, file: in("setup.json"), hosts: in("hosts.json"), kit: in("kit.age"), kitKey: in("kit.key")}
	whole := s.Kit
	var hosts []setup.Leaf
	for i := range n {
		leaf, err := s.Issue(pki.HostIdentity(setup.Fleet, setup.Machine(i)), now)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, leaf)
		whole.Machines = append(whole.Machines, kit.Machine{Name: setup.Machine(i), Class: fleet.ClassLinux})
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	sealed, err := whole.Seal(id.Recipient())
	if err != nil {
		return nil, err
	}
	return f, errors.Join(
		setup.Write(f.file, s), setup.Write(f.hosts, hosts),
		os.WriteFile(f.kit, sealed, 0o600), os.WriteFile(f.kitKey, []byte(id.String()+"\n"), 0o600),
	)
}

// enrol makes the state of a coordinator that knows all hosts: it registers
// the key of a certificate of its CA on sight, and writes that in its own time,
// the latest when it ends. This is done once, so that no run measures it.
func (f *fixture) enrol(ctx context.Context) error {
	state := filepath.Join(f.dir, "state")
	for range 5 {
		known, err := f.connectOnce(ctx, state)
		if err != nil {
			return fmt.Errorf("making the hosts known: %w", err)
		}
		if known == f.n {
			f.state = state
			return nil
		}
	}
	return errors.New("making the hosts known: the coordinator forgets them")
}

// connectOnce starts a coordinator, counts the hosts that it knows, and
// connects all of them once.
func (f *fixture) connectOnce(ctx context.Context, state string) (known int, err error) {
	addr, err := freeAddress(ctx)
	if err != nil {
		return 0, err
	}
	server, err := start(ctx, f.ours().argv(addr, state)...)
	if err != nil {
		return 0, err
	}
	defer server.stop()
	if err := server.waitListening(ctx, addr); err != nil {
		return 0, err
	}
	op, closeOp, err := f.operator(addr)
	if err != nil {
		return 0, err
	}
	defer closeOp()
	stream, err := op.ListHosts(ctx, &fleetv1.ListHostsRequest{})
	if err != nil {
		return 0, err
	}
	for {
		h, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, server.failed("listing hosts", err)
		}
		if h.GetHost().GetEnrolled() {
			known++
		}
	}
	if known == f.n {
		return known, nil
	}
	agents, err := startHolder(ctx, f.bench.programs.agents, f, addr)
	if err != nil {
		return 0, err
	}
	defer agents.stop()
	_, err = agents.ask(setup.CmdConnect)
	return known, err
}

// operator connects as an operator.
func (f *fixture) operator(addr string) (fleetv1.OperatorServiceClient, func(), error) {
	leaf, err := f.Issue(pki.OperatorIdentity(setup.Fleet, setup.Operator), time.Now())
	if err != nil {
		return nil, nil, err
	}
	tc, err := f.ClientTLS(leaf)
	if err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(tc)))
	if err != nil {
		return nil, nil, err
	}
	return fleetv1.NewOperatorServiceClient(conn), func() { _ = conn.Close() }, nil
}

func (f *fixture) bare() *subject {
	return &subject{
		name: nameBare,
		argv: func(addr, _ string) []string {
			return []string{f.bench.programs.bare, "-setup", f.file, "-listen", addr}
		},
		stage: func(context.Context, fleetv1.OperatorServiceClient, int) error { return nil },
	}
}

func (f *fixture) ours() *subject {
	return &subject{
		name: nameOurs,
		argv: func(addr, state string) []string {
			return []string{f.bench.programs.coordinator, "run", "--kit", f.kit, "--kit-key", f.kitKey, "--listen", addr, "--state-dir", state}
		},
		stage: f.stage,
	}
}

// stage uploads one generation for each machine.
func (f *fixture) stage(ctx context.Context, op fleetv1.OperatorServiceClient, number int) error {
	return f.publish(ctx, op, number, []byte("bundle "+strconv.Itoa(number)))
}

// publish stages the same bundle for each machine.
func (f *fixture) publish(ctx context.Context, op fleetv1.OperatorServiceClient, number int, bundle []byte) error {
	if err := putBlob(ctx, op, bundle); err != nil {
		return err
	}
	stream, err := op.Stage(ctx)
	if err != nil {
		return err
	}
	signer := release.NewSigner(f.ReleaseKey)
	for i := range f.n {
		g := generation(setup.Machine(i), number, bundle)
		envelope, _, err := release.Seal(fleet.TypeGeneration, g, signer)
		if err != nil {
			return err
		}
		if err := stream.Send(&fleetv1.StageRequest{Release: releaseID(number), Generation: &fleetv1.SignedGeneration{Generation: envelope}}); err != nil {
			break // CloseAndRecv says why
		}
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if int(answer.GetCount()) != f.n {
		return fmt.Errorf("%d generations are staged, want %d", answer.GetCount(), f.n)
	}
	return nil
}

func generation(m fleet.MachineName, number int, bundle []byte) fleet.Generation {
	now := time.Now().UTC().Truncate(time.Second)
	return fleet.Generation{
		Type: fleet.TypeGeneration, Fleet: setup.Fleet, Machine: m, Profile: fleet.System,
		Number:  fleet.Number{Epoch: 1, Seq: uint64(number)},
		Release: fleet.ReleaseID(releaseID(number)), Issued: now, Expires: now.Add(fleet.DefaultExpiry),
		Source: fleet.Source{Driver: "bundle", Bundle: &fleet.BundleSource{Digest: fleet.DigestOf(bundle), Size: uint64(len(bundle))}},
	}
}

func putBlob(ctx context.Context, op fleetv1.OperatorServiceClient, data []byte) error {
	stream, err := op.PutBlob(ctx)
	if err != nil {
		return err
	}
	first := &fleetv1.PutBlobRequest{Digest: string(fleet.DigestOf(data)), Size: uint64(len(data))}
	if err := stream.Send(first); err == nil {
		for chunk := range slices.Chunk(data, 256<<10) {
			if err := stream.Send(&fleetv1.PutBlobRequest{Data: chunk}); err != nil {
				break // CloseAndRecv says why
			}
		}
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		return fmt.Errorf("uploading a blob: %w", err)
	}
	return nil
}
