//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/salsa20/salsa" //nolint:staticcheck // What ZeroTier's hash is made of is what is compared with.
	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/zerotier"
	"github.com/cameronraysmith/fleet/test/bench/setup"
)

// generateResult is what native generation costs.
type generateResult struct {
	stream, try []time.Duration // of pairs
	identities  []time.Duration // each of a whole search
	took        time.Duration   // all searches
	generators  int
	sets        []time.Duration
}

const (
	triesOfPair = 10
	pairsOfTry  = 15
	identities  = 101
	setsOfTen   = 7

	// expectedTries of a search: one key in so many is an identity.
	expectedTries = 256.0 / 17
)

// generate measures ZeroTier identities, and the generators of ten machines.
func (b *bench) generate(ctx context.Context) (*generateResult, error) {
	r := &generateResult{}
	id, err := zerotier.Generate(ctx, rand.Reader)
	if err != nil {
		return nil, err
	}
	text := []byte(id.Public().String())
	stream := &bareStream{}
	for range pairsOfTry {
		from := setup.Clock()
		for range triesOfPair {
			stream.run(text)
		}
		between := setup.Clock()
		for range triesOfPair {
			if _, err := zerotier.ParsePublic(text); err != nil {
				return nil, err
			}
		}
		r.stream = append(r.stream, time.Duration(between-from)/triesOfPair)
		r.try = append(r.try, time.Duration(setup.Clock()-between)/triesOfPair)
	}
	for range identities {
		from := setup.Clock()
		if _, err := zerotier.Generate(ctx, rand.Reader); err != nil {
			return nil, err
		}
		d := time.Duration(setup.Clock() - from)
		r.identities = append(r.identities, d)
		r.took += d
	}
	for range setsOfTen {
		set, made, err := tenMachines(ctx)
		if err != nil {
			return nil, err
		}
		r.generators = 0
		from := setup.Clock()
		for _, round := range set {
			if err := runRound(ctx, round, made); err != nil {
				return nil, err
			}
			r.generators += len(round)
		}
		r.sets = append(r.sets, time.Duration(setup.Clock()-from))
	}
	b.log("generation: a try %v, the bare stream %v, an identity %v, %d generators %v", median(r.try), median(r.stream), median(r.identities), r.generators, median(r.sets))
	return r, nil
}

// bareStream makes the key stream of the memory-hard hash and nothing of it, in
// the runs in which it costs least.
type bareStream struct{ buf [8 << 10]byte }

func (s *bareStream) run(public []byte) {
	sum := sha512.Sum512(public)
	key := [32]byte(sum[:32])
	for done := 0; done < 10<<20; done += len(s.buf) {
		salsa.XORKeyStream(s.buf[:], s.buf[:], (*[16]byte)(sum[32:]), &key)
	}
}

// job is a generator with the name that it has in a tree.
type job struct {
	name string
	*generator.Generator
}

// tenMachines are the generators of a fleet, in rounds of which each needs only
// what earlier ones made, and the machines' ZeroTier identities, which are made already.
func tenMachines(ctx context.Context) (rounds [2][]job, made map[string]generator.Files, err error) {
	made = map[string]generator.Files{}
	add := func(round int, name, kind, machine, settings string) {
		g, newErr := generator.New(kind, machine, []byte(settings))
		err = errors.Join(err, newErr)
		rounds[round] = append(rounds[round], job{name, g})
	}
	identity, newErr := generator.New("zerotier-identity", "", nil)
	if newErr != nil {
		return rounds, nil, newErr
	}
	add(0, "openssh-ca", "ssh-ca", "", "")
	add(0, "zerotier-network-zerotier", "zerotier-network", "", `{"controller": "m0"}`)
	for i := range 10 {
		m := fmt.Sprint("m", i)
		files, genErr := identity.Generate(ctx, rand.Reader, generator.Inputs{})
		if genErr != nil {
			return rounds, nil, genErr
		}
		made["zerotier-identity-"+m] = files
		add(0, "openssh", "ssh-host-key", m, "")
		add(0, "emergency-access", "emergency-access", m, "")
		add(0, "user-password-alice", "user-password", m, "")
		add(0, "tor_tor", "tor-onion", m, "")
		add(1, "openssh-cert", "ssh-host-certificate", m, `{"domains": ["zt"]}`)
		add(1, "zerotier-ip-"+m+"-zerotier", "zerotier-ip", m, `{"machine": "`+m+`"}`)
	}
	return rounds, made, err
}

// runRound runs what does not depend on each other at the same time. Machines
// share names, so the last host key is the one that all certificates are for.
func runRound(ctx context.Context, round []job, made map[string]generator.Files) error {
	results := make([]generator.Files, len(round))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, j := range round {
		group.Go(func() (err error) {
			results[i], err = j.Generate(ctx, rand.Reader, generator.Inputs{Dependencies: made, Now: time.Now()})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, j := range round {
		made[j.name] = results[i]
	}
	return nil
}

func (r *generateResult) markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("### Native generation\n")
	p("How: in this process, with random bytes of the system. A try of a search for a ZeroTier identity is timed by the check of a public one (`ParsePublic`), which is one memory-hard hash and some decoding, against the hash's key stream alone (SHA-512 and 10 MiB of Salsa20/20 in runs of 8 KiB): %d interleaved pairs of %d each. A search expects %.1f tries; the stream's identities per second are so many times that many streams on each of %d processors. %d searches; zerotier-idtool's median is the target. Ten machines are %d generators (each a host key and its certificate, a recovery and a user's password with their yescrypt hashes, an onion service and a ZeroTier address; one SSH CA and one network), in rounds of the dependency order, on all processors; the ZeroTier identities were made before; median of %d.\n",
		len(r.try), triesOfPair, expectedTries, runtime.GOMAXPROCS(0), len(r.identities), r.generators, len(r.sets))
	p("| | fleet | bare stream | ratio | range | target | |")
	p("| --- | ---: | ---: | ---: | --- | --- | --- |")
	var all []float64
	for i := range r.try {
		all = append(all, float64(r.try[i])/float64(r.stream[i]))
	}
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	p("| a try of a ZeroTier identity, ms | %.1f | %.1f | %.2f | %.2f–%.2f | ≤ 1.6 | %s |",
		ms(median(r.try)), ms(median(r.stream)), median(all), slices.Min(all), slices.Max(all), verdict(median(all) <= 1.6))
	perSecond := float64(len(r.identities)) / r.took.Seconds()
	bare := float64(runtime.GOMAXPROCS(0)) / median(r.stream).Seconds() / expectedTries
	p("| ZeroTier identities per second | %.1f | %.1f | %.2f |  |  |  |", perSecond, bare, perSecond/bare)
	p("| a ZeroTier identity, median, ms | %.0f |  |  | %.0f–%.0f | < 170 | %s |",
		ms(median(r.identities)), ms(slices.Min(r.identities)), ms(slices.Max(r.identities)), verdict(median(r.identities) < 170*time.Millisecond))
	p("| all generators of ten machines, ms | %.0f |  |  | %.0f–%.0f | < 1000 | %s |",
		ms(median(r.sets)), ms(slices.Min(r.sets)), ms(slices.Max(r.sets)), verdict(median(r.sets) < time.Second))
	p("")
	return b.String()
}
