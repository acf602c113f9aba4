// Package nixtest is a stand-in for the nix program in tests: it answers the
// calls that were recorded from Nix 2.26.3 and refuses all others.
package nixtest

import (
	"embed"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// Ref is the flake of the recordings: machines a and b, and some mistakes.
const Ref = "git+file:///repo/flake"

// Rev and NarHash are what it was locked to.
const (
	Rev     = "436214026680e1bd534f299b3cff3df6c4d2aba8"
	NarHash = "sha256-pvaf4Ri6jjL+tV8XWoKte9EMSudT0+blWVlqowlH8UQ="
)

// SystemA and SystemB are the store paths of its two machines.
const (
	SystemA = "/nix/store/nkxbjifz8ci65dss1zjvlhyfbg51prmb-nixos-system-a"
	SystemB = "/nix/store/gmdg5a8xcx3h5bdy5w3729djrj8f8i3f-nixos-system-b"
)

//go:embed recorded
var recorded embed.FS

// standIn finds the recording by nix's subcommand and compares all arguments.
const standIn = `#!/bin/sh
cd 'DIR' || exit 98
case "$1" in --version) k=version ;; *) k=$3 ;; esac
echo "$k" >>calls
printf '%s\n' "$@" >asked.$$
if ! cmp -s asked.$$ "$k.argv"; then
  echo "error: no recording of nix $k with these arguments:" >&2
  cat asked.$$ >&2
  exit 97
fi
cat "$k.err" >&2
cat "$k.out"
exit "$(cat "$k.code")"
`

// Nix is one stand-in.
type Nix struct {
	// Program is its path.
	Program string

	t   testing.TB
	dir string
}

// New makes a stand-in that answers what was recorded under a name. Edits
// replace parts of a recording before: pairs of a file's name and its content.
func New(t testing.TB, name string, edits ...string) *Nix {
	t.Helper()
	text, err := recorded.ReadFile("recorded/" + name + ".txtar")
	if err != nil {
		t.Fatal(err)
	}
	n := &Nix{t: t, dir: t.TempDir()}
	for _, f := range txtar.Parse(text).Files {
		n.write(f.Name, string(f.Data), 0o600)
	}
	for i := 0; i+1 < len(edits); i += 2 {
		n.write(edits[i], edits[i+1], 0o600)
	}
	n.Program = n.write("nix", strings.ReplaceAll(standIn, "DIR", n.dir), 0o700)
	return n
}

func (n *Nix) write(name, data string, mode os.FileMode) string {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		n.t.Fatal(err)
	}
	return path
}

// InRepository are edits of a recording, which make it one of a flake in a git
// repository whose revision git told, and whose hash the evaluation says.
func InRepository(t testing.TB, name, path, rev string) []string {
	t.Helper()
	text, err := recorded.ReadFile("recorded/" + name + ".txtar")
	if err != nil {
		t.Fatal(err)
	}
	url := Ref + "?ref=refs/heads/main&rev=" + Rev
	to := strings.NewReplacer(
		url+"&narHash="+strings.NewReplacer("+", "%2B", "=", "%3D").Replace(NarHash), "git+file://"+path+"?ref=refs/heads/main&rev="+rev,
		Ref, "git+file://"+path, Rev, rev,
		"  nix = builtins.nixVersion;\n", "  nix = builtins.nixVersion;\n  trees = map (f: f.sourceInfo.narHash or \"\") flakes;\n",
		`{"nix":`, `{"trees":["`+NarHash+`"],"nix":`,
	)
	var edits []string
	for _, f := range txtar.Parse(text).Files {
		edits = append(edits, f.Name, to.Replace(string(f.Data)))
	}
	return edits
}

// ForSystem are edits of a recording of x86_64-linux, which make it one of another system.
func ForSystem(t testing.TB, name, system string) []string {
	t.Helper()
	text, err := recorded.ReadFile("recorded/" + name + ".txtar")
	if err != nil {
		t.Fatal(err)
	}
	var edits []string
	for _, f := range txtar.Parse(text).Files {
		edits = append(edits, f.Name, strings.ReplaceAll(string(f.Data), "x86_64-linux", system))
	}
	return edits
}

// Calls are the subcommands that were called, in order.
func (n *Nix) Calls() string {
	n.t.Helper()
	data, err := os.ReadFile(filepath.Join(n.dir, "calls"))
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(data)), " ")
}
