package attest_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/attest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// FuzzRelease: whatever is in a release's file, only generations that were
// signed count, and what is read of it can be stated and is admitted.
func FuzzRelease(f *testing.F) {
	fl := agenttest.FixedFleet(f)
	signer := fl.AddKey(release.RoleFreshness)
	fl.NextRoot()
	trust, err := release.OpenChain(fl.Roots, fl.RootPin)
	if err != nil {
		f.Fatal(err)
	}
	src := fleet.Source{Driver: "bundle", Bundle: &fleet.BundleSource{Digest: fleet.DigestOf([]byte("b")), Size: 1}}
	sealed := map[fleet.Ref]fleet.ProfileName{}
	seed := func(state string, envelopes ...[]byte) {
		var gens []any
		for _, env := range envelopes {
			gens = append(gens, map[string]any{"machine": "pyrite", "generation": env})
		}
		data, err := json.Marshal(map[string]any{"id": "r", "state": state, "generations": gens})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	first, ref := fl.Seal(fl.Generation(1, src))
	sealed[ref] = fleet.System
	g := fl.Generation(7, src)
	g.Profile = "home/bob"
	home, ref := fl.Seal(g)
	sealed[ref] = g.Profile
	strangers, _ := fl.Seal(fl.Generation(9, src), fl.Stranger)
	seed("committed", first, home)
	seed("committed", strangers, first)
	seed("committed", []byte("{}"))
	seed("prepared", first)
	f.Add([]byte(`{"state":"committed","generations":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := &attest.Newest{Root: 2, Machines: map[fleet.MachineName]map[fleet.ProfileName]fleet.Ref{}}
		err := attest.Add(n, trust, data)
		for m, profiles := range n.Machines {
			for p, ref := range profiles {
				if of, ok := sealed[ref]; !ok || of != p || m != agenttest.Machine {
					t.Errorf("%s of %s has %+v, which nobody signed", p, m, ref)
				}
			}
		}
		if err != nil || len(n.Machines) == 0 {
			return
		}
		now := fl.Now()
		envs, err := n.Sign(agenttest.FleetID, now, now.Add(time.Hour), signer)
		if err != nil || len(envs) != 1 {
			t.Fatalf("%d statements, %v", len(envs), err)
		}
		s, err := trust.OpenFreshness(envs[0])
		if err == nil {
			err = trust.AdmitFreshness(agenttest.FleetID, agenttest.Machine, time.Time{}, now, s)
		}
		if err != nil {
			t.Errorf("what is stated is refused: %v", err)
		}
	})
}
