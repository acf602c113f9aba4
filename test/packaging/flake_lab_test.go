//go:build lab

package packaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestNixFlake has Nix itself take flake.nix for a flake, with a stub of nixpkgs
// for its input, and the host's store.
func TestNixFlake(t *testing.T) {
	dir := t.TempDir()
	flake, nixpkgs := filepath.Join(dir, "fleet"), filepath.Join(dir, "nixpkgs")
	for to, from := range map[string]string{
		filepath.Join(flake, "packaging/nix"): filepath.Join(Root, "packaging/nix"), nixpkgs: "testdata/nix",
	} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(filepath.Join(Root, "flake.nix"))
	if err == nil {
		err = os.WriteFile(filepath.Join(flake, "flake.nix"), data, 0o644) //nolint:gosec // Of this test.
	}
	if err != nil {
		t.Fatal(err)
	}
	for attr, want := range map[string]string{
		"packages":                               `["aarch64-darwin","aarch64-linux","x86_64-darwin","x86_64-linux"]`,
		"nixosModules":                           `["default","fleet"]`,
		"darwinModules":                          `["default","fleet"]`,
		"flakeModules":                           `["default","fleet"]`,
		"checks.x86_64-linux":                    `["agent-unit","coordinator-unit","fleet"]`,
		"devShells.x86_64-linux":                 `["default"]`,
		"packages.aarch64-linux.default.args":    `["doCheck","env","ldflags","meta","pname","src","subPackages","tags","vendorHash","version"]`,
		"checks.x86_64-linux.agent-unit.service": `["after","description","documentation","restartIfChanged","serviceConfig","stopIfChanged","unitConfig","wantedBy"]`,
	} {
		cmd := exec.CommandContext(t.Context(), "nix", "--extra-experimental-features", "nix-command flakes", "eval", "--offline", "--json", //nolint:gosec // Of this test.
			"--no-write-lock-file", "--override-input", "nixpkgs", "path:"+nixpkgs, "path:"+flake+"#"+attr, "--apply", "builtins.attrNames")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if got := string(bytes.TrimSpace(out)); err != nil || got != want {
			t.Errorf("%s is %s, want %s: %v\n%s", attr, got, want, err, stderr.Bytes())
		}
	}
}
