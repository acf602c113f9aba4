package generate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes"
	"github.com/cameronraysmith/fleet/fleetctl/internal/sandbox"
	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// Sandbox runs scripts, several at once; [sandbox.Sandbox] is one.
type Sandbox interface {
	// Run makes all files of a job, or none and an error.
	Run(ctx context.Context, j sandbox.Job) (generator.Files, error)
	Close() error
}

// Script is what makes the files of a generator that is not built in.
type Script struct {
	// Text of bash, or Program, a file with it in the Nix store.
	Text, Program string
	// Build is what builds Program; nil where there is nothing to build.
	Build *flakes.Output
	// RerunOnChange says that another script, or another value that it reads, makes the
	// values stale.
	RerunOnChange bool

	// needs are the names of the generators that it reads.
	needs []string
}

// scriptKind is what a generator with a script has for a kind.
const scriptKind = "script"

// reads are the names of the generators that it reads, sorted.
func (g *Generator) reads() []string {
	if g.Script != nil {
		return slices.Sorted(slices.Values(g.Script.needs))
	}
	return g.Dependencies()
}

// scripted completes a generator that a fleet file declares with a script.
func scripted(g *Generator, d inventory.Generator, machine string) (*Generator, *inventory.Problem) {
	g.Script = &Script{Text: d.Script, RerunOnChange: d.RerunOnChange}
	for _, name := range d.Dependencies {
		if strings.Contains(name, inventory.MachineWord) && machine == "" {
			return nil, problemAt(d.Place, "name the machine", "generator %s is shared, and what it reads has %s in its name", g.Name, inventory.MachineWord)
		}
		g.Script.needs = append(g.Script.needs, strings.ReplaceAll(name, inventory.MachineWord, machine))
	}
	g.Generator = &generator.Generator{Kind: scriptKind, Share: d.Share}
	for _, p := range d.Prompts {
		g.Prompts = append(g.Prompts, generator.Prompt{Name: p.Name, Description: p.Description, Type: generator.PromptType(p.Type), Persist: p.Persist})
		if _, ok := d.Files[p.Name]; p.Persist && !ok {
			g.Files = append(g.Files, secretFile(p.Name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Files)) {
		f := secretFile(name)
		if s := d.Files[name].Secret; s != nil {
			f.Secret = *s
		}
		g.Files = append(g.Files, f)
	}
	if len(g.Files) == 0 {
		return nil, problemAt(d.Place, "declare them: files: {NAME: {}}", "generator %s has a script and makes no file", g.Name)
	}
	if d.Validation != nil {
		if err := json.Unmarshal(d.Validation, &g.Validation); err != nil {
			return nil, problemAt(d.Place, "", "generator %s: its validation: %v", d.Name, err)
		}
	}
	return completed(g, d)
}

// secretFile is what a file of a script is where nothing is said of it.
func secretFile(name string) generator.File {
	return generator.File{Name: name, Secret: true, Deploy: true, NeededFor: generator.ForServices, Owner: "root", Mode: fs.FileMode(0o400)}
}

// noSandbox is for runs without scripts.
type noSandbox struct{}

func (noSandbox) Run(context.Context, sandbox.Job) (generator.Files, error) {
	return nil, sandbox.ErrNone
}

func (noSandbox) Close() error { return nil }

// sandbox opens one where a generator that runs has a script.
func (r *Runner) sandbox(ctx context.Context, run []*Generator) (Sandbox, error) {
	i := slices.IndexFunc(run, func(g *Generator) bool { return g.Script != nil })
	if i < 0 {
		return noSandbox{}, nil
	}
	box, err := r.Sandbox(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", run[i], err)
	}
	if list := scriptsToBuild(run); len(list) > 0 {
		if err := r.Build(ctx, list); err != nil {
			return nil, errors.Join(fmt.Errorf("building the scripts of generators: %w", err), box.Close())
		}
	}
	return box, nil
}

// generate runs what makes the files.
func (g *Generator) generate(ctx context.Context, box Sandbox, random io.Reader, in generator.Inputs) (generator.Files, error) {
	if g.Script == nil {
		return g.Generate(ctx, random, in) //nolint:wrapcheck // The caller says which.
	}
	j := sandbox.Job{Name: g.String(), Script: g.Script.Text, Program: g.Script.Program, Inputs: in.Dependencies, Machine: g.Placement().Machine()}
	for _, p := range g.Prompts {
		if j.Prompts == nil {
			j.Prompts = map[string]generator.Value{}
		}
		j.Prompts[p.Name] = in.Prompts[p.Name]
		if p.Persist {
			j.Kept = append(j.Kept, p.Name)
		}
	}
	for _, f := range g.Files {
		j.Files = append(j.Files, f.Name)
	}
	return box.Run(ctx, j) //nolint:wrapcheck // As above.
}

// scriptHash is of a script and of what it reads. Secrets are in it by their versions, which
// are of what is encrypted: a hash of a password would be a way to guess it. "" where it is
// not wanted, or where something that it reads is missing.
func (g *Generator) scriptHash(version func(entry string) (string, error)) (string, error) {
	if g.Script == nil || !g.Script.RerunOnChange {
		return "", nil
	}
	of := struct {
		Script  string            `json:"script"`
		Program string            `json:"program,omitempty"`
		Files   []string          `json:"files"`
		Prompts []string          `json:"prompts"`
		Reads   map[string]string `json:"reads"`
	}{Script: g.Script.Text, Program: g.Script.Program, Reads: map[string]string{}}
	for _, f := range g.Files {
		of.Files = append(of.Files, f.Name)
	}
	for _, p := range g.Prompts {
		of.Prompts = append(of.Prompts, p.Name)
	}
	for _, d := range g.dependencies {
		for _, f := range d.Files {
			v, err := version(d.ID(f.Name).Path())
			if err != nil {
				return "", err
			}
			of.Reads[d.Name+"/"+f.Name] = v
		}
	}
	text, err := json.Marshal(of)
	if err != nil {
		return "", fmt.Errorf("hashing the script of %s: %w", g, err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// changed says whether the script, or what it reads, is another one than when it ran. What
// it reads and is missing has it run anyway.
func (g *Generator) changed(t *vars.Tree) bool {
	if g.partial {
		return false // Who knows all that it reads says so.
	}
	want, err := g.scriptHash(t.Version)
	return err == nil && want != t.ScriptHash(g.Placement(), g.Name)
}

// keepScript keeps of what script the values are.
func (r *Runner) keepScript(g *Generator) error {
	hash, err := g.scriptHash(r.Change.Version)
	if err == nil {
		err = r.Change.SetScriptHash(g.Placement(), g.Name, hash)
	}
	if err != nil {
		return fmt.Errorf("keeping which script %s ran: %w", g, err)
	}
	return nil
}
