package flakes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Declared is a generator of clan that a machine of a flake declares.
type Declared struct {
	Share        bool                      `json:"share"`
	Dependencies []string                  `json:"dependencies"`
	Prompts      map[string]DeclaredPrompt `json:"prompts"`
	Files        map[string]DeclaredFile   `json:"files"`
	// ValidationHash is empty where there is no validation.
	ValidationHash string `json:"validationHash"`
	// Script is what builds the script.
	Script Output `json:"script"`
}

// DeclaredPrompt is what a generator asks.
type DeclaredPrompt struct {
	Type        string `json:"type"`
	Description string `json:"description"`
	Persist     bool   `json:"persist"`
}

// DeclaredFile is what a generator makes.
type DeclaredFile struct {
	Secret       bool         `json:"secret"`
	Deploy       bool         `json:"deploy"`
	Owner        string       `json:"owner"`
	Group        string       `json:"group"`
	Mode         DeclaredMode `json:"mode"`
	NeededFor    string       `json:"neededFor"`
	RestartUnits []string     `json:"restartUnits"`
}

// DeclaredMode are permission bits: octal text, or a number of those bits.
type DeclaredMode uint32

// UnmarshalJSON reads either.
func (m *DeclaredMode) UnmarshalJSON(text []byte) error {
	base, digits := 10, string(text)
	if unquoted, err := strconv.Unquote(digits); err == nil {
		base, digits = 8, unquoted
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil || n > 0o7777 {
		return fmt.Errorf("%w: mode %.20s", ErrOutput, text)
	}
	*m = DeclaredMode(n)
	return nil
}

const (
	// maxDeclared bounds the generators of a machine, their files, and names and words of
	// these, in bytes.
	maxDeclared     = 4096
	maxDeclaredText = 4096
)

// clanSystems are what clan calls systems, by Go's names.
var clanSystems = map[string]string{
	"linux/amd64": "x86_64-linux", "linux/arm64": "aarch64-linux", "linux/riscv64": "riscv64-linux", "darwin/arm64": "aarch64-darwin",
}

// declared is applied to all machines of a system. What is not named is not evaluated.
const declared = `ms: builtins.mapAttrs (_: m: builtins.mapAttrs (_: g: {
  inherit (g) share dependencies;
  prompts = builtins.mapAttrs (_: p: { inherit (p) type description persist; }) g.prompts;
  files = builtins.mapAttrs (_: f: { inherit (f) secret deploy owner group mode neededFor; restartUnits = f.restartUnits or [ ]; }) g.files;
  validationHash = if g.validationHash == null then "" else g.validationHash;
  script = { Drv = g.finalScript.drvPath; Name = g.finalScript.outputName or "out"; Path = g.finalScript.outPath; };
}) m.config.clan.core.vars.generators) (builtins.intersectAttrs `

// Generators evaluates what machines of a clan flake declare, committed or not, in one
// process of nix, for scripts that run on goos and goarch. Machines that the flake does not
// have are left out. Nothing is built but what Nix code imports from a derivation; scripts
// are for Build. Errors are those of Value.
func (n *Nix) Generators(ctx context.Context, ref, goos, goarch string, machines []string) (map[string]map[string]Declared, error) {
	if ref == "" || strings.HasPrefix(ref, "-") || strings.ContainsAny(ref, "#\n\x00") {
		return nil, ui.WithHint(fmt.Errorf("%w: %q is no reference", ErrFetch, ref), "write a path such as ., or a URL")
	}
	system, ok := clanSystems[goos+"/"+goarch]
	if !ok {
		return nil, fmt.Errorf("%w: clan knows no system %s/%s", ErrNoAttr, goos, goarch)
	}
	var names strings.Builder
	names.WriteString("{")
	for _, m := range slices.Sorted(slices.Values(machines)) {
		names.WriteString(" " + quote(m) + " = null;")
	}
	names.WriteString(" } ms)")
	out, err := n.run(ctx, maxOutput, "eval", "--json", "--no-update-lock-file", ref+"#clanInternals.machines."+system, "--apply", declared+names.String())
	if err != nil {
		return nil, fmt.Errorf("evaluating the generators of %s: %w", ref, notEvaluated(err, "Without, leave vars.flake out"))
	}
	return decodeDeclared(out)
}

func decodeDeclared(text []byte) (map[string]map[string]Declared, error) {
	all := map[string]map[string]Declared{}
	err := strictjson.UnmarshalKnown(text, maxOutput, &all)
	for machine, generators := range all {
		if err == nil && len(generators) > maxDeclared {
			err = fmt.Errorf("machine %.100q has %d generators", machine, len(generators))
		}
		for name, g := range generators {
			if err == nil {
				if err = g.check(); err != nil {
					err = fmt.Errorf("generator %.100q of machine %.100q: %w", name, machine, err)
				}
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("evaluating generators: %w: %w", ErrOutput, err)
	}
	return all, nil
}

// check refuses what no clan says.
func (d Declared) check() error {
	if fleet.ValidateStorePath(d.Script.Drv) != nil || fleet.ValidateStorePath(d.Script.Path) != nil || d.Script.Name == "" || len(d.Script.Name) > maxDeclaredText {
		return fmt.Errorf("its script is no derivation: %.200q", d.Script.Drv)
	}
	if len(d.Files) > maxDeclared || len(d.Prompts) > maxDeclared || len(d.Dependencies) > maxDeclared || len(d.ValidationHash) > maxDeclaredText {
		return errors.New("it declares too much")
	}
	for name, p := range d.Prompts {
		if !slices.Contains([]string{"line", "hidden", "multiline", "multiline-hidden"}, p.Type) {
			return fmt.Errorf("the prompt %.100q is of type %.100q", name, p.Type)
		}
	}
	for name, f := range d.Files {
		if !slices.Contains([]string{"services", "users", "activation", "partitioning"}, f.NeededFor) {
			return fmt.Errorf("the file %.100q is needed for %.100q", name, f.NeededFor)
		}
	}
	text, err := json.Marshal(d)
	if err == nil && len(text) > 1<<20 {
		err = errors.New("it declares too much")
	}
	return err //nolint:wrapcheck // It cannot be: it was JSON.
}
