package hostile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/plugintest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

const ownLog = "the event log that hosts remember"

// statements are attacks with what is the newest, as the holder of the freshness
// key states it, and with heads of the event log.
func statements() []attack {
	stated := func(name, source string, code fleet.ReasonCode, signer func(*host) release.Signer, change func(*fleet.Freshness)) attack {
		return attack{name: name, source: source, refusal: code, before: freshened, lie: func(h *host) { h.state(signer(h), change) }}
	}
	fresh := func(h *host) release.Signer { return h.freshness }
	head := func(name string, seq uint64, hash string) attack {
		return attack{name: name, source: ownLog, refusal: fleet.ReasonRefused, lie: func(h *host) {
			h.coord.Lie(desired(func(m *response) { m.LogHead = &fleetv1.LogHead{Seq: seq, Hash: hash} }))
			h.poke()
		}}
	}
	return []attack{
		stated("a statement of what is the newest that a stranger signed", tufFreeze, release.ErrUnknownKey.Code, stranger, func(*fleet.Freshness) {}),
		stated("a statement of what is the newest that the release role signed", tufKeys, release.ErrUnknownKey.Code, releaseKey, func(*fleet.Freshness) {}),
		stated("another machine's statement of what is the newest", tufWrong, release.ErrWrongMachine.Code, fresh, func(f *fleet.Freshness) { f.Machine = "galena" }),
		stated("another fleet's statement of what is the newest", tufWrong, release.ErrWrongFleet.Code, fresh, func(f *fleet.Freshness) { f.Fleet = "other" }),
		stated("a statement of what is the newest from the future", ownTime, release.ErrFuture.Code, fresh, func(f *fleet.Freshness) {
			f.Issued, f.Expires = f.Issued.Add(30*24*time.Hour), f.Expires.Add(30*24*time.Hour)
		}),
		{
			name: "statements of what is the newest kept back", source: tufFreeze, refusal: fleet.ReasonStale, before: freshened,
			lie: func(h *host) { h.later(12 * time.Hour) }, truth: func(h *host) { h.state(h.freshness, func(*fleet.Freshness) {}) },
		},
		head("a head of the event log that is none", 7, "x"),
		head("a head of the event log of a megabyte", 7, string(bytes.Repeat([]byte("a"), 1<<20))),
		{
			name: "ever another head of the event log", source: ownLog, ignored: "one a day is kept, told to all who read reports",
			lie: func(h *host) {
				n := uint64(1)
				h.coord.Lie(desired(func(m *response) {
					n++
					m.LogHead = &fleetv1.LogHead{Seq: n, Hash: string(fleet.DigestOf(fmt.Append(nil, n)))[len("sha256:"):]}
				}))
			},
			seen: asksAgain,
			held: func(h *host) {
				h.coord.Hint(fleetv1.WakeReason_WAKE_REASON_REPORT)
				h.coord.Wait("a report with what it was told", func() bool {
					rs := h.coord.Reports()
					return len(rs) > 0 && len(rs[len(rs)-1].LogHeads) == 1
				})
			},
		},
	}
}

// freshened has a host whose fleet states what is the newest.
func freshened(h *host) {
	h.freshness = h.fleet.AddKey(release.RoleFreshness)
	h.fleet.NextRoot()
	h.enrolled()
	h.state(h.freshness, func(*fleet.Freshness) {})
	h.coord.WaitReason(fleet.ReasonUpToDate)
}

// state has the coordinator offer a statement that what runs is the newest, after
// change.
func (h *host) state(s release.Signer, change func(*fleet.Freshness)) {
	h.t.Helper()
	issued := h.fleet.Now().Add(h.setup.Clock).UTC().Truncate(time.Second)
	f := fleet.Freshness{
		Type: fleet.TypeFreshness, Fleet: agenttest.FleetID, Machine: agenttest.Machine,
		Issued: issued, Expires: issued.Add(6 * time.Hour), Root: 2, Highest: map[fleet.ProfileName]fleet.Ref{fleet.System: h.good.ref},
	}
	change(&f)
	env, _, err := release.Seal(fleet.TypeFreshness, f, s)
	check(h.t, err)
	h.coord.State(env)
	h.poke()
}

// pinned are attacks with what generations pin beside their bundle: executables of
// plugins, and closure manifests. Nothing of another checksum may be executed, or
// believed.
func pinned() []attack {
	blob := func(name, source string, code fleet.ReasonCode, next func(*host) (r generation, of int), change func([]byte) []byte) attack {
		return attack{name: name, source: source, refusal: code, accepts: true, lie: func(h *host) {
			r, of := next(h)
			h.coord.SetBlob(fleet.DigestOf(r.blobs[of]), change(bytes.Clone(r.blobs[of])))
			r.blobs = append(r.blobs[:of:of], r.blobs[of+1:]...)
			h.publish(r)
		}, held: unstarted}
	}
	other := func(b []byte) []byte { return bytes.Replace(b, []byte("exit 0"), []byte("exit 1"), 1) }
	short := func(b []byte) []byte { return b[:len(b)-1] }
	long := func(b []byte) []byte { return append(b, bytes.Repeat([]byte("#"), 64<<20)...) }
	return []attack{
		blob("a plugin's executable with other content", tufArbitrary, fleet.ReasonFetchFailed, withPlugin, other),
		blob("a plugin's executable that ends early", uptanePart, fleet.ReasonFetchFailed, withPlugin, short),
		blob("a plugin's executable of 64 megabytes in the place of one", tufEndless, fleet.ReasonFetchFailed, withPlugin, long),
		blob("a closure manifest other than the pinned one", tufMix, fleet.ReasonFetchFailed, withClosure, other),
		blob("a closure manifest that ends early", uptanePart, fleet.ReasonFetchFailed, withClosure, short),
		blob("a closure manifest of 64 megabytes in the place of one", tufEndless, fleet.ReasonFetchFailed, withClosure, long),
	}
}

// executable is a plugin that leaves a trace when it is started.
var executable = []byte("#!/bin/sh\necho >>\"$0.started\"\nexit 0\n")

// unstarted checks that no plugin was ever started.
func unstarted(h *host) {
	h.t.Helper()
	err := filepath.WalkDir(h.setup.Dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".started") {
			h.t.Errorf("a plugin was started: %s", path)
		}
		return ignoreMissing(err)
	})
	check(h.t, err)
}

// withPlugin is the next generation, whose probe is a plugin; its executable is
// the second blob.
func withPlugin(h *host) (generation, int) {
	h.t.Helper()
	r := h.make(h.good.ref.Number.Seq+1, "evil", func(g *fleet.Generation) {
		g.Critical = []string{fleet.CriticalPlugins}
		g.Plugins = []fleet.Plugin{plugintest.Pin("look", fleet.PluginProbe, executable)}
		g.Probes = []fleet.Probe{{Name: "look", Kind: fleet.ProbePlugin, Plugin: "look", Config: json.RawMessage(`{}`)}}
	})
	r.blobs = append(r.blobs, executable)
	return r, 1
}

// withClosure is the next generation, a store path with a closure manifest; that
// is its only blob.
func withClosure(h *host) (generation, int) {
	h.t.Helper()
	manifest := []byte(`{"payload":"exit 0"}`)
	r := h.make(h.good.ref.Number.Seq+1, "evil", func(g *fleet.Generation) {
		g.Source = fleet.Source{Driver: storeDriver, StorePath: &fleet.StorePathSource{
			Path:    "/nix/store/l4dpkn4wz4gbqzpv2hpfdz9wsaclcmcv-evil",
			Closure: fleet.BlobRef{Digest: fleet.DigestOf(manifest), Size: uint64(len(manifest))},
		}}
	})
	r.blobs = [][]byte{manifest}
	return r, 0
}
