package nixdriver

import (
	"errors"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

func TestVersion(t *testing.T) {
	for text, want := range map[string]struct {
		major, minor int
		ok           bool
	}{
		"nix (Nix) 2.26.3":                       {2, 26, true},
		"nix (Nix) 2.19.0pre20231011_1234567":    {2, 19, true},
		"nix (Nix) 2.19pre20231011":              {2, 19, true},
		"nix (Lix, like Nix) 2.91.1":             {2, 91, true},
		"nix (Determinate Nix 3.6.0) 2.29.0":     {2, 29, true},
		"nix (Nix) 3.0":                          {3, 0, true},
		"":                                       {},
		"nix":                                    {},
		"nix (Nix) two.three":                    {},
		"nix (Nix) 2.":                           {},
		"nix (Nix) 99999999999999999999.1":       {},
		"error: something else is called nix v1": {},
	} {
		if major, minor, ok := version(text); ok != want.ok || ok && (major != want.major || minor != want.minor) {
			t.Errorf("%q: %d.%d, %t", text, major, minor, ok)
		}
	}
}

// TestTooOld: an old nix is the host's trouble, not the source's.
func TestTooOld(t *testing.T) {
	for says, old := range map[string]bool{"nix (Nix) 2.8.0": true, "nix (Nix) 2.17.9": true, "nix (Nix) 2.18.0": false, "what": false} {
		w := newWorld(t, `[ "$1" = --version ] && { echo "`+says+`"; exit 0; }; echo "error: unrecognised flag" >&2; exit 1`)
		_, err := NewNixOS(w.config()).Build(t.Context(), flake(unpinned), nil)
		if err == nil || strings.Contains(err.Error(), "too old") != old || errors.Is(err, driver.ErrSource) == old {
			t.Errorf("%s: got %v", says, err)
		}
	}
}
