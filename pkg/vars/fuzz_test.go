package vars_test

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/pkg/vars"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func FuzzKeys(f *testing.F) {
	f.Add(readFile(f, "testdata/clan-tree/sops/users/alice/key.json"))
	f.Add([]byte(`{"publickey":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN","type":"AGE"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := vars.ParseKeys(data)
		if err != nil {
			return
		}
		text, err := vars.FormatKeys(keys)
		if err != nil {
			t.Fatalf("%q is read and not written: %v", data, err)
		}
		again, err := vars.ParseKeys(text)
		if err != nil || len(again) > len(keys) {
			t.Errorf("%q becomes %q: %v", data, text, err)
		}
	})
}

// A list of steps that somebody else wrote does nothing outside of the trees.
func FuzzChange(f *testing.F) {
	f.Add([]byte(`{"steps":[{"path":"vars/shared/a/b/value","do":"put","staged":"0"},{"path":"sops/groups/x/users/alice","do":"link","target":"../../../users/alice"},{"path":"vars/x","do":"remove"}]}`))
	f.Add([]byte(`{"steps":[{"path":"../outside","do":"remove"},{"path":"vars/out/outside","do":"remove"},{"path":"flake.nix","do":"remove"}]}`))
	f.Fuzz(func(t *testing.T, steps []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "tree")
		write(t, top, "outside", "outside")
		write(t, dir, "flake.nix", "flake")
		write(t, dir, "vars/x", "x")
		symlink(t, dir, "vars/out", "../..")
		write(t, dir, ".fleet-vars/staged/0", "staged")
		write(t, dir, ".fleet-vars/change.json", string(steps))
		c, err := vars.Begin(t.Context(), dir, vars.Options{})
		if err == nil {
			err = c.Close()
		}
		for p, want := range map[string]string{"outside": "outside", "tree/flake.nix": "flake"} {
			if got, rerr := os.ReadFile(filepath.Join(top, p)); rerr != nil || string(got) != want {
				t.Errorf("%q (%v): %s is %q, %v", steps, err, p, got, rerr)
			}
		}
		list, rerr := os.ReadDir(top)
		if rerr != nil || len(list) != 2 {
			t.Errorf("%q: beside the tree there are %v, %v", steps, list, rerr)
		}
	})
}
