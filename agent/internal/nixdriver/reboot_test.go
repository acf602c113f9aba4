package nixdriver

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func TestRebootNeeded(t *testing.T) {
	const kernels = storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rl-linux-6.6."
	system := func(kernel, initrd, modules, params string) map[string]string {
		return map[string]string{"kernel": kernels + kernel, "initrd": initrd, "kernel-modules": modules, "kernel-params": params}
	}
	for name, tt := range map[string]struct {
		booted, now map[string]string
		want        []string
	}{
		"the same":                {system("1/bzImage", "i", "m", "a b"), system("1/bzImage", "i", "m", "a  b\n"), nil},
		"another kernel":          {system("1/bzImage", "i", "m", "a"), system("9/bzImage", "j", "n", "a"), []string{"kernel (linux-6.6.1 runs, linux-6.6.9 is installed)", "initrd", "kernel modules"}},
		"the same one's build":    {system("1/a", "i", "m", "a"), system("1/b", "i", "m", "a"), []string{"kernel"}},
		"parameters":              {system("1/a", "i", "m", "a"), system("1/a", "i", "m", "a quiet"), []string{"kernel parameters"}},
		"a container":             {nil, map[string]string{}, nil},
		"a container with params": {map[string]string{}, map[string]string{"kernel-params": "a"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "")
			for link, files := range map[string]map[string]string{bootedSystem: tt.booted, currentSystem: tt.now} {
				dir := filepath.Join(w.root, link)
				if files != nil {
					if err := os.MkdirAll(dir, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				for file, to := range files {
					put := os.Symlink
					if file == "kernel-params" {
						put = func(text, file string) error { return os.WriteFile(file, []byte(text), 0o600) }
					}
					if err := put(to, filepath.Join(dir, file)); err != nil {
						t.Fatal(err)
					}
				}
			}
			// As the agent asks, which knows no driver but by the contract.
			d, stop, err := driver.InProcess(NewNixOS(w.config()))
			if err != nil {
				t.Fatal(err)
			}
			defer stop() //nolint:errcheck // It is over.
			got, err := driver.RebootNeeded(t.Context(), d, fleet.System)
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
			if got, err := driver.RebootNeeded(t.Context(), d, "home/ada"); err != nil || got != nil {
				t.Errorf("another profile: %q, %v", got, err)
			}
		})
	}
}

// TestRebootIsBounded: what is no parameters is an error, and not read to its end.
func TestRebootIsBounded(t *testing.T) {
	w := newWorld(t, "")
	for _, link := range []string{bootedSystem, currentSystem} {
		dir := filepath.Join(w.root, link)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "kernel-params"), []byte(strings.Repeat("a", maxParamsBytes+1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := NewNixOS(w.config()).RebootNeeded(t.Context(), fleet.System); err == nil {
		t.Errorf("got %q", got)
	}
}
