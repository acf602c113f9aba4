package nixdriver

import (
	"errors"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	narHash = "sha256-DKeMfmSY9DMO9YRu1oYXirFfRbLj602aS3xCsi1zjHY="
	other   = "sha256-oOQp+/1GVoGyjO61E8Dktc7TR16Y/hOpdmSr5vntxhM="
)

func TestReference(t *testing.T) {
	for _, c := range []struct{ url, want, tree string }{
		{"git+https://example.org/fleet?rev=abc", "git+https://example.org/fleet?rev=abc", "git+https://example.org/fleet?rev=abc"},
		{"git+file:///srv/fleet?dir=hosts&rev=abc", "git+file:///srv/fleet?dir=hosts&rev=abc", "git+file:///srv/fleet?rev=abc"},
		{
			"path:/srv/fleet", "path:/srv/fleet?narHash=sha256-DKeMfmSY9DMO9YRu1oYXirFfRbLj602aS3xCsi1zjHY%3D",
			"path:/srv/fleet?narHash=sha256-DKeMfmSY9DMO9YRu1oYXirFfRbLj602aS3xCsi1zjHY%3D",
		},
		{
			"github:a/b/abc?dir=x", "github:a/b/abc?dir=x&narHash=sha256-DKeMfmSY9DMO9YRu1oYXirFfRbLj602aS3xCsi1zjHY%3D",
			"github:a/b/abc?narHash=sha256-DKeMfmSY9DMO9YRu1oYXirFfRbLj602aS3xCsi1zjHY%3D",
		},
		{"github:a/b/abc?narHash=" + narHash, "github:a/b/abc?narHash=" + narHash, "github:a/b/abc?narHash=" + narHash},
		{"path:/srv/fleet?dir=x&narHash=" + narHash, "path:/srv/fleet?dir=x&narHash=" + narHash, "path:/srv/fleet?narHash=" + narHash},
		{"git+https://example.org/fleet?dir=x", "git+https://example.org/fleet?dir=x", "git+https://example.org/fleet"},
	} {
		got, err := reference(fleet.FlakeSource{URL: c.url, NarHash: narHash})
		if err != nil || got != c.want {
			t.Errorf("%s: %s, %v; want %s", c.url, got, err, c.want)
		}
		if tree := withoutDir(got); tree != c.tree {
			t.Errorf("%s: tree %s, want %s", c.url, tree, c.tree)
		}
	}
	for _, url := range []string{"path:/x?narHash=" + other, "github:a/b/abc?narHash=sha256-x", "://"} {
		if got, err := reference(fleet.FlakeSource{URL: url, NarHash: narHash}); !errors.Is(err, driver.ErrSource) {
			t.Errorf("%s: %s, %v", url, got, err)
		}
	}
	// A plus that is not escaped, as nix itself prints it.
	if got, err := reference(fleet.FlakeSource{URL: "path:/x?narHash=" + other, NarHash: other}); err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestExpressionQuotes(t *testing.T) {
	got, err := expression(fleet.FlakeSource{
		URL: `git+https://example.org/a"b?rev=${x}\`, NarHash: narHash, Attr: `hosts."a.b".x`,
		OutPath: "/nix/store/65gka6fgrlfrrwbhd5ndycs96zs0m946-nixos-system-good",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`builtins.getFlake "git+https://example.org/a\"b?rev=\${x}\\"`, `[ "hosts" "a.b" "x" ]`,
		`if tree.narHash != "` + narHash + `"`, `if value.outPath != "/nix/store/65gka`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nlacks %s", got, want)
		}
	}
	for _, attr := range []string{"a..b", `a."b`, "."} {
		if got, err := expression(fleet.FlakeSource{URL: "git+https://example.org/a?rev=b", NarHash: narHash, Attr: attr}); !errors.Is(err, driver.ErrSource) {
			t.Errorf("%s: %s, %v", attr, got, err)
		}
	}
}
