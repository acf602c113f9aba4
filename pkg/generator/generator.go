package generator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
)

// Phase is when a host needs a file: clan's neededFor.
type Phase string

// The phases. Those of activation and of partitioning are carried to the host by
// a person, and no built-in generator makes any.
const (
	ForServices     Phase = "services"
	ForUsers        Phase = "users"
	ForActivation   Phase = "activation"
	ForPartitioning Phase = "partitioning"
)

// File is a file that a generator makes.
type File struct {
	Name string
	// Secret files are encrypted, others are in the repository as they are.
	Secret bool
	// Deploy says that machines get it; of what is not deployed only people
	// are readers.
	Deploy    bool
	NeededFor Phase
	// Owner and Group on the host; an empty group is root's own, which is
	// called wheel on a Mac.
	Owner, Group string
	Mode         fs.FileMode
	// RestartUnits are restarted when the file changes, on hosts with systemd.
	RestartUnits []string
}

// secret is a secret file with the usual owner, mode and phase.
func secret(name string) File {
	return File{Name: name, Secret: true, Deploy: true, NeededFor: ForServices, Owner: "root", Mode: 0o400}
}

// public is the same of a file that is none.
func public(name string) File {
	f := secret(name)
	f.Secret = false
	return f
}

// kept is a file that does not go to machines.
func kept(f File) File {
	f.Deploy = false
	return f
}

// PromptType is how a prompt is asked, in clan's words.
type PromptType string

// The types of prompts.
const (
	Line            PromptType = "line"
	Hidden          PromptType = "hidden"
	Multiline       PromptType = "multiline"
	MultilineHidden PromptType = "multiline-hidden"
)

// Prompt is what a generator asks a person.
type Prompt struct {
	Name, Description string
	Type              PromptType
	// Persist says that the file of the same name holds what was answered, so
	// that the next run need not ask.
	Persist bool
}

// Read is a file of another generator that a generator reads.
type Read struct{ Generator, File string }

// Inputs are what a run is given.
type Inputs struct {
	// Prompts are the answers, by the names of the prompts. A missing one counts
	// as empty.
	Prompts map[string]Value
	// Dependencies are the files of the generators that are read, by their names.
	Dependencies map[string]Files
	// Now is the wall time, for what expires.
	Now time.Time
}

// Generator makes files.
type Generator struct {
	// Kind of which it is.
	Kind    string
	Files   []File
	Prompts []Prompt
	Reads   []Read
	// Share says that the fleet has one, not each machine one of its own.
	Share bool
	// Validation is clan's: JSON of which the hash is kept, and another hash
	// makes the generator run again. Nil where there is none.
	Validation map[string]any
	// EntropyBits of the passwords and tokens that it draws; 0 where it draws none.
	EntropyBits float64

	run func(context.Context, io.Reader, Inputs) (Files, error)
}

// Dependencies are the names of the generators that must have run before, sorted.
func (g *Generator) Dependencies() []string {
	names := map[string]bool{}
	for _, r := range g.Reads {
		names[r.Generator] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// Generate makes all files of Files, or none and an error, in which no value is.
// random must be cryptographically secure; keys of RSA and all that is of X.509
// take the system's random bytes instead. The inputs stay the caller's, who
// clears them, and the files, after use.
func (g *Generator) Generate(ctx context.Context, random io.Reader, in Inputs) (Files, error) {
	files, err := g.generate(ctx, random, in)
	if err != nil {
		return nil, fmt.Errorf("generating %s: %w", g.Kind, err)
	}
	return files, nil
}

func (g *Generator) generate(ctx context.Context, random io.Reader, in Inputs) (Files, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if g.run == nil {
		return nil, ErrUnknownKind
	}
	for _, r := range g.Reads {
		if _, ok := in.Dependencies[r.Generator][r.File]; !ok {
			return nil, fmt.Errorf("the file %s of the generator %s is missing: generate that one first", r.File, r.Generator)
		}
	}
	for name := range in.Prompts {
		if !slices.ContainsFunc(g.Prompts, func(p Prompt) bool { return p.Name == name }) {
			return nil, fmt.Errorf("an answer to %q, which is not asked", name)
		}
	}
	return g.run(ctx, random, in)
}

// read is what a dependency's file holds; Generate looked that it is there.
func (in Inputs) read(r Read) []byte { return in.Dependencies[r.Generator][r.File].Bytes() }

// Kind is a built-in generator before its settings are known.
type Kind struct {
	Name string
	// Summary says in a line what it makes.
	Summary string
	// Clan is the name of the generator that clan has for the same thing; empty
	// where it has none.
	Clan string
	// Settings that it knows.
	Settings []Setting

	build func(machine string, settings []byte) (*Generator, error)
}

// ErrUnknownKind is of a kind that there is none of.
var ErrUnknownKind = errors.New("no such generator is built in")

// Kinds are all that are built in, by name.
func Kinds() []Kind {
	kinds := []Kind{
		sshHostKeyKind(), sshHostKeyRSAKind(), sshUserKeyKind(), sshCAKind(), sshHostCertificateKind(), sshUserCertificateKind(),
		passwordKind(), emergencyAccessKind(), rootPasswordKind(), userPasswordKind(),
		ageKeyKind(), wireguardKeyKind(), tokenKind(), torOnionKind(),
		tlsCAKind(), tlsCertificateKind(),
		zerotierIdentityKind(), zerotierNetworkKind(), zerotierIPKind(),
	}
	slices.SortFunc(kinds, func(a, b Kind) int { return strings.Compare(a.Name, b.Name) })
	return kinds
}

// New is a generator of a kind. machine is the one that it is for, and empty for
// one that the fleet shares. settings is a JSON object; nothing stands for {}.
func New(kind, machine string, settings []byte) (*Generator, error) {
	var names []string
	for _, k := range Kinds() {
		if k.Name != kind {
			names = append(names, k.Name)
			continue
		}
		g, err := k.build(machine, settings)
		if err != nil {
			return nil, fmt.Errorf("the generator %s: %w", kind, err)
		}
		g.Kind = kind
		return g, nil
	}
	return nil, fmt.Errorf("%w: %q; there are %s", ErrUnknownKind, kind, strings.Join(names, ", "))
}
