package nixdriver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func TestDrift(t *testing.T) {
	const (
		ours    = storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rl-nixos-system-web1-1"
		other   = storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rm-nixos-system-web1-2"
		third   = storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rn-nixos-system-web1-3"
		special = storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rq-nixos-system-web1-gpu"
		tool    = rootsDir + "/" + currentPrefix + "system"
	)
	nixos := func(c Config) driver.Driver { return NewNixOS(c) }
	outPath := func(c Config) driver.Driver { return NewOutPath(c) }
	for name, tt := range map[string]struct {
		make  func(Config) driver.Driver
		links map[string]string
		gone  bool
		want  driver.Drift
	}{
		"as it was left":            {make: nixos, links: map[string]string{currentSystem: ours, systemProfile: ours}},
		"a specialisation":          {make: nixos, links: map[string]string{currentSystem: special, systemProfile: ours}},
		"no profile":                {make: nixos, links: map[string]string{currentSystem: ours}},
		"nixos-rebuild switch":      {nixos, map[string]string{currentSystem: other, systemProfile: other}, false, driver.Drift{Runs: other, Boots: other}},
		"nixos-rebuild test":        {nixos, map[string]string{currentSystem: other, systemProfile: ours}, false, driver.Drift{Runs: other}},
		"nixos-rebuild boot":        {nixos, map[string]string{currentSystem: ours, systemProfile: other}, false, driver.Drift{Boots: other}},
		"both, one after the other": {nixos, map[string]string{currentSystem: other, systemProfile: third}, false, driver.Drift{Runs: other, Boots: third}},
		"collected":                 {nixos, map[string]string{currentSystem: other, systemProfile: other}, true, driver.Drift{Runs: other, Boots: other, Gone: true}},
		"an out path":               {make: outPath, links: map[string]string{tool: ours}},
		"another out path":          {outPath, map[string]string{tool: other}, false, driver.Drift{Runs: other}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "")
			tt.links[ours+"/specialisation/gpu"] = special
			if tt.gone {
				delete(tt.links, ours+"/specialisation/gpu")
			}
			for _, path := range []string{ours, other, third, special} {
				if path == ours && tt.gone {
					continue
				}
				if err := os.MkdirAll(filepath.Join(w.root, path), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for link, to := range tt.links {
				link = filepath.Join(w.root, link)
				if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(filepath.Join(w.root, to), link); err != nil {
					t.Fatal(err)
				}
			}
			d, stop, err := driver.InProcess(tt.make(w.config()))
			if err != nil {
				t.Fatal(err)
			}
			defer stop() //nolint:errcheck // It is over.
			got, err := driver.DriftOf(t.Context(), d, fleet.System, ours)
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
	w := newWorld(t, "")
	if got, err := NewNixOS(w.config()).Drift(t.Context(), "home/ada", ours); err != nil || got != (driver.Drift{}) {
		t.Errorf("another profile: %+v, %v", got, err)
	}
	link := filepath.Join(w.root, currentSystem)
	if err := os.MkdirAll(filepath.Join(w.root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(w.root, "etc"), link); err != nil {
		t.Fatal(err)
	}
	if got, err := NewNixOS(w.config()).Drift(t.Context(), fleet.System, ours); err == nil {
		t.Errorf("what leads out of the store: %+v", got)
	}
}
