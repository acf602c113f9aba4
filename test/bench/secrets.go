//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	secretsOfHost  = 100
	pairsOfSecrets = 15
	// mostForSecrets is the target, in milliseconds.
	mostForSecrets = 100
)

// secretsResult is what installing secrets costs a host: pairs by where they are kept.
type secretsResult struct {
	places []string
	pairs  map[string][]secretsPair
}

type secretsPair struct {
	Bare float64 `json:"bare"`
	Ours float64 `json:"ours"`
}

// secrets measures with the agent's own code, in a process of its own.
func (b *bench) secrets(ctx context.Context) (*secretsResult, error) {
	r := &secretsResult{places: []string{"disk"}, pairs: map[string][]secretsPair{}}
	if os.Geteuid() == 0 {
		r.places = append(r.places, "memory")
	}
	for _, place := range r.places {
		dir := filepath.Join(b.dir, "secrets-"+place)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
		out, err := exec.CommandContext(ctx, b.programs.secrets, "-dir", dir, "-secrets", fmt.Sprint(secretsOfHost),
			"-pairs", fmt.Sprint(pairsOfSecrets), "-memory="+fmt.Sprint(place == "memory")).Output()
		if err != nil {
			return nil, fmt.Errorf("measuring secrets in %s: %w", place, err)
		}
		var pairs []secretsPair
		if err := json.Unmarshal(out, &pairs); err != nil {
			return nil, err
		}
		r.pairs[place] = pairs
	}
	return r, nil
}

func (r *secretsResult) markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("### Secrets on a host\n")
	p("How: %d documents of sops for a machine and two people, of 64 bytes each, decrypted and installed by the agent's own code (checked against their digests, written below a directory of their own with modes, flushed, published by a rename) against decrypting them one after the other and writing a file each; %d interleaved pairs, in one process. The disk is that of this machine's temporary files.\n", secretsOfHost, pairsOfSecrets)
	p("| | fleet-agent | bare | ratio | range | target | |")
	p("| --- | ---: | ---: | ---: | --- | --- | --- |")
	for _, place := range r.places {
		var ours, bare, ratio []float64
		for _, pair := range r.pairs[place] {
			ours, bare, ratio = append(ours, pair.Ours), append(bare, pair.Bare), append(ratio, pair.Ours/pair.Bare)
		}
		p("| %d secrets to the %s, ms | %.1f | %.1f | %.2f | %.2f–%.2f | < %d | %s |", secretsOfHost, place,
			median(ours), median(bare), median(ratio), slices.Min(ratio), slices.Max(ratio), mostForSecrets, verdict(median(ours) < mostForSecrets))
	}
	p("")
	return b.String()
}
