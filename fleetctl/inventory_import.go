package fleetctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// clanAttr is where a clan flake has its evaluated inventory in serialised form.
const clanAttr = "clanInternals.inventoryClass.inventorySerialization"

const importHelp = `Evaluate the inventory of a clan flake and write it to the file that fleet.yaml
names (inventory: {file: inventory.json}). FLAKE is a reference as nix takes it; by
default it is the fleet's repository itself. With --from-file it is read instead:
what "nix eval --json FLAKE#` + clanAttr + `"
printed before, or on another machine ("-" is standard input).

What is written is the same for the same inventory: keys are sorted, and the
wrappers that Nix puts around settings, which name store paths, are left out. What
changes in the machines is shown first.

JSON: {file, added, removed, changed: [{machine, changes}], machines, dry_run,
written, warnings}`

type importOptions struct {
	FromFile, Attr string
	DryRun         bool
}

func newInventoryImportCommand(o *options) *cobra.Command {
	opts := &importOptions{}
	cmd := &cobra.Command{
		Use:   "import [FLAKE]",
		Short: "Take the machines from a clan flake",
		Long:  importHelp,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInventoryImport(cmd.Context(), o, opts, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.FromFile, "from-file", "", "read the evaluated inventory from a JSON `file`")
	f.StringVar(&opts.Attr, "attr", clanAttr, "`attribute` of the flake that is the inventory")
	f.BoolVarP(&opts.DryRun, "dry-run", "n", false, "show what would change; write nothing")
	return cmd
}

// importResult is the JSON form of import.
type importResult struct {
	File     string              `json:"file"`
	Added    []fleet.MachineName `json:"added"`
	Removed  []fleet.MachineName `json:"removed"`
	Changed  []machineChange     `json:"changed"`
	Machines int                 `json:"machines"`
	DryRun   bool                `json:"dry_run"`
	// Written is false where the file has it already, too.
	Written  bool     `json:"written"`
	Warnings []string `json:"warnings"`
}

// machineChange says what is different about one machine.
type machineChange struct {
	Machine fleet.MachineName `json:"machine"`
	Changes []string          `json:"changes"`
}

func runInventoryImport(ctx context.Context, o *options, opts *importOptions, args []string) error {
	r, err := repo.Open(o.Dir)
	if err != nil {
		return err
	}
	fleetFile := r.Path(repo.FleetFile)
	file, err := inventory.SourceFile(fleetFile)
	if err != nil {
		return err
	}
	if file == "" {
		return ui.WithHint(fmt.Errorf("%s names no inventory file", fleetFile), `add "inventory: {file: inventory.json}" to it`)
	}
	data, name, err := o.evaluatedInventory(ctx, r, opts, args)
	if err != nil {
		return err
	}
	form, inv, err := inventory.Canonical(name, data)
	if err != nil {
		return ui.WithHint(err, "it must be an evaluated clan inventory; docs/inventory.md says which")
	}
	before, err := inventory.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading the inventory of before: %w", err)
	}
	res := importResult{
		File: file, Added: []fleet.MachineName{}, Removed: []fleet.MachineName{}, Changed: []machineChange{},
		Machines: len(inv.Machines()), DryRun: opts.DryRun, Warnings: []string{},
	}
	res.compare(file, before, inv)
	res.checkFleetFile(fleetFile, file, form)
	p := o.printer()
	if !p.JSON() {
		res.show(p, inv)
	}
	if !opts.DryRun && !bytes.Equal(before, form) {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // What people commit is for everyone to read.
			return repo.ExplainWrite(fmt.Errorf("writing %s: %w", file, err), file)
		}
		if err := atomicfile.WriteFile(file, form, 0o644); err != nil {
			return repo.ExplainWrite(err, file)
		}
		res.Written = true
	}
	if p.JSON() {
		return p.Value(res)
	}
	for _, w := range res.Warnings {
		fmt.Fprintf(o.Stderr, "warning: %s\n", w)
	}
	switch {
	case res.Written:
		p.Printf("Wrote %s: %s. Commit it.\n", file, counted(res.Machines, "machine"))
	case opts.DryRun:
		p.Printf("Nothing was written: this was a dry run.\n")
	default:
		p.Printf("%s has it already: %s.\n", file, counted(res.Machines, "machine"))
	}
	return nil
}

// evaluatedInventory is the inventory in JSON and what to call it in errors.
func (o *options) evaluatedInventory(ctx context.Context, r *repo.Repository, opts *importOptions, args []string) (data []byte, name string, err error) {
	switch {
	case opts.FromFile != "" && len(args) > 0:
		return nil, "", usageError{ui.WithHint(errors.New("a flake and --from-file"), "name one of them")}
	case opts.FromFile == "-":
		data, err = io.ReadAll(io.LimitReader(o.Stdin, inventory.MaxBytes+1))
		return data, "standard input", err
	case opts.FromFile != "":
		data, err = inventory.ReadFile(opts.FromFile)
		if err != nil {
			err = ui.WithHint(fmt.Errorf("reading the inventory: %w", err), "correct --from-file")
		}
		return data, opts.FromFile, err
	}
	ref, err := filepath.Abs(r.Dir())
	if len(args) > 0 {
		ref = args[0]
	}
	if err != nil {
		return nil, "", err
	}
	progress := o.progress()
	defer progress.Done()
	progress.Status("evaluating the inventory…")
	nix := &flakes.Nix{Program: o.Getenv("FLEET_NIX"), Progress: func(line string) { progress.Status("nix: " + clipText(line)) }}
	data, err = nix.Value(ctx, ref, opts.Attr, inventory.MaxBytes)
	return data, ref + "#" + opts.Attr, err
}

// compare fills in what changes in the machines.
func (res *importResult) compare(file string, before []byte, now *inventory.Inventory) {
	old := map[fleet.MachineName]inventory.Machine{}
	if len(before) > 0 {
		inv, err := inventory.ParseInventory(file, before)
		if err != nil {
			res.Warnings = append(res.Warnings, "what the file had before cannot be read, and is replaced: "+strings.SplitN(err.Error(), "\n", 2)[0])
		} else {
			for _, m := range inv.Machines() {
				old[m.Name] = m
			}
		}
	}
	for _, m := range now.Machines() {
		was, ok := old[m.Name]
		delete(old, m.Name)
		if !ok {
			res.Added = append(res.Added, m.Name)
		} else if changes := changesOf(was, m); len(changes) > 0 {
			res.Changed = append(res.Changed, machineChange{m.Name, changes})
		}
	}
	for name := range old {
		res.Removed = append(res.Removed, name)
	}
	slices.Sort(res.Removed)
}

func changesOf(a, b inventory.Machine) []string {
	var out []string
	field := func(what, a, b string) {
		if a != b {
			out = append(out, fmt.Sprintf("%s %q -> %q", what, a, b))
		}
	}
	field("class", string(a.Class), string(b.Class))
	for _, tag := range a.Tags {
		if !slices.Contains(b.Tags, tag) {
			out = append(out, "-tag "+tag)
		}
	}
	for _, tag := range b.Tags {
		if !slices.Contains(a.Tags, tag) {
			out = append(out, "+tag "+tag)
		}
	}
	field("description", a.Description, b.Description)
	field("targetHost", a.Deploy.TargetHost, b.Deploy.TargetHost)
	field("buildHost", a.Deploy.BuildHost, b.Deploy.BuildHost)
	return out
}

// checkFleetFile warns where fleet.yaml does not fit what will be there.
func (res *importResult) checkFleetFile(fleetFile, file string, form []byte) {
	data, err := inventory.ReadFile(fleetFile)
	if err == nil {
		var dir string
		if dir, err = filepath.Abs(filepath.Dir(fleetFile)); err == nil {
			_, err = inventory.Parse(fleetFile, data, dir, func(string) ([]byte, error) { return form, nil })
		}
	}
	if problems := inventory.ProblemsOf(err); len(problems) > 0 {
		res.Warnings = append(res.Warnings, fmt.Sprintf("%s does not fit it: %s: %v", fleetFile, counted(len(problems), "problem"), problems[0]))
	}
}

func (res *importResult) show(p *ui.Printer, inv *inventory.Inventory) {
	for _, name := range res.Added {
		m, _ := inv.Machine(name)
		p.Printf("%s\n", p.Paint(ui.ToneGood, fmt.Sprintf("+ %s (%s)", name, strings.Join(m.Tags, ", "))))
	}
	for _, name := range res.Removed {
		p.Printf("%s\n", p.Paint(ui.ToneBad, "- "+string(name)))
	}
	for _, c := range res.Changed {
		p.Printf("%s\n", p.Paint(ui.ToneWarn, fmt.Sprintf("~ %s: %s", c.Machine, strings.Join(c.Changes, ", "))))
	}
}
