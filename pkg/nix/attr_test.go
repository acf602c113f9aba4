package nix_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/nix"
)

func TestParseAttrPath(t *testing.T) {
	for text, want := range map[string][]string{
		"a": {"a"},
		"nixosConfigurations.box-1.config.system.build.toplevel": {"nixosConfigurations", "box-1", "config", "system", "build", "toplevel"},
		`a."b.c".d`: {"a", "b.c", "d"},
		`a.b"c"`:    {"a", "bc"},
		`"".a`:      {"", "a"},
		`a."${x}"`:  {"a", "${x}"},
	} {
		if got, err := nix.ParseAttrPath(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ".", "a.", ".a", "a..b", `a."b`, "a b", "a#b", "a^out", "-a", "a\nb", "a\x00", strings.Repeat("a", 1025)} {
		if got, err := nix.ParseAttrPath(text); !errors.Is(err, nix.ErrAttrPath) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func FuzzParseAttrPath(f *testing.F) {
	f.Add(`nixosConfigurations.a."b.c".d`)
	f.Add(`a.b"c"`)
	f.Fuzz(func(t *testing.T, text string) {
		names, err := nix.ParseAttrPath(text)
		if err == nil && len(names) == 0 {
			t.Errorf("%q has no names", text)
		}
	})
}
