package fleetctl

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/generate"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const inventoryHelp = `Show or check what the fleet consists of. FILE is a fleet file, or a clan
inventory in JSON as "nix eval --json" prints it; by default it is the
repository's fleet.yaml.`

func newInventoryCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inventory",
		Short: "Show, check or import the fleet's machines and settings",
		Long:  inventoryHelp,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "show [FILE]",
			Short: "Show machines with class, tags, source and policy",
			Args:  cobra.MaximumNArgs(1),
			RunE:  func(_ *cobra.Command, args []string) error { return runInventoryShow(o, args) },
		},
		&cobra.Command{
			Use:   "check [FILE]",
			Short: "Name everything that is wrong, and exit with 1 where something is",
			Long: `Name everything that is wrong in the fleet file and its inventory, and exit with
1 where something is. Bundles and secrets are opened by publish only; "fleetctl
publish --dry-run" tries them.`,
			Args: cobra.MaximumNArgs(1),
			RunE: func(_ *cobra.Command, args []string) error { return runInventoryCheck(o, args) },
		},
		newInventoryImportCommand(o),
		&cobra.Command{
			Use:   "schema",
			Short: "Print the JSON Schema of fleet files",
			Long: `Print the JSON Schema of fleet files, for editors: yaml-language-server takes it
from a first line such as the one that init writes. It says the shape of each
value; "fleetctl inventory check" says everything.`,
			Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				text, err := inventory.Schema()
				if err == nil {
					_, err = o.Stdout.Write(text)
				}
				return err
			},
		},
	)
	return cmd
}

// inventoryFile is what show and check look at: a fleet file, or an inventory
// alone.
type inventoryFile struct {
	*inventory.Inventory
	// fleet is nil for an inventory alone.
	fleet    *inventory.Fleet
	machines []inventory.Machine
}

func (o *options) inventoryFile(args []string) (*inventoryFile, error) {
	if len(args) == 0 {
		w, err := o.open()
		if err != nil {
			return nil, err
		}
		return fleetInventory(w.fleet), nil
	}
	bare, err := inventory.IsInventory(args[0])
	if err != nil {
		return nil, err
	}
	if bare {
		inv, err := inventory.LoadInventory(args[0])
		if err != nil {
			return nil, err
		}
		return &inventoryFile{Inventory: inv, machines: inv.Machines()}, nil
	}
	f, err := inventory.Load(args[0])
	if err != nil {
		return nil, err
	}
	return fleetInventory(f), nil
}

func fleetInventory(f *inventory.Fleet) *inventoryFile {
	return &inventoryFile{Inventory: f.Inventory(), fleet: f, machines: f.Machines()}
}

func (i *inventoryFile) check() error {
	if i.fleet != nil {
		if err := i.fleet.Check(); err != nil {
			return err
		}
		_, err := generate.Resolve(i.fleet, nil)
		return err
	}
	return i.Check()
}

// inventoryView is the JSON form of show.
type inventoryView struct {
	Fleet       fleet.FleetID          `json:"fleet,omitempty"`
	Coordinator *inventory.Coordinator `json:"coordinator,omitempty"`
	Machines    []machineView          `json:"machines"`
	Instances   []inventory.Instance   `json:"instances"`
	Operators   []inventory.Operator   `json:"operators,omitempty"`
}

// machineView is one machine with its deployment, or with why there is none.
type machineView struct {
	inventory.Machine
	Deployment *inventory.Deployment `json:"deployment,omitempty"`
	Error      string                `json:"error,omitempty"`
}

func runInventoryShow(o *options, args []string) error {
	file, err := o.inventoryFile(args)
	if err != nil {
		return err
	}
	view := inventoryView{Machines: make([]machineView, 0, len(file.machines)), Instances: file.Instances()}
	if file.fleet != nil {
		coordinator := file.fleet.Coordinator()
		view.Fleet, view.Coordinator, view.Operators = file.fleet.ID(), &coordinator, file.fleet.Operators()
	}
	for _, m := range file.machines {
		row := machineView{Machine: m}
		if file.fleet != nil {
			if dep, err := file.fleet.Settings(m.Name); err != nil {
				row.Error = err.Error()
			} else {
				row.Deployment = &dep
			}
		}
		view.Machines = append(view.Machines, row)
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(view)
	}
	var rows [][]string
	for _, m := range view.Machines {
		rows = append(rows, m.row(p, file.fleet))
		if m.Deployment == nil {
			continue
		}
		for _, q := range m.Deployment.Profiles {
			rows = append(rows, []string{"  " + string(q.Name), "", "", "", showSource(file.fleet, q.Source), showPolicy(q.Policy), dashed(probeNames(q.Probes)), "-"})
		}
	}
	p.Table([]string{"MACHINE", "CLASS", "TAGS", "ENABLED", "SOURCE", "POLICY", "PROBES", "SECRETS"}, rows)
	return nil
}

func (m machineView) row(p *ui.Printer, f *inventory.Fleet) []string {
	enabled := "yes"
	if m.Disabled {
		enabled = p.Paint(ui.ToneDim, "disabled")
	}
	row := []string{string(m.Name), string(m.Class), strings.Join(m.Tags, ","), enabled}
	switch {
	case m.Error != "":
		return append(row, p.Paint(ui.ToneBad, "conflict: see fleetctl inventory check"), "", "", "")
	case m.Deployment == nil:
		return append(row, "-", "-", "-", "-")
	}
	secrets := make([]string, 0, len(m.Deployment.Secrets))
	for _, name := range slices.Sorted(maps.Keys(m.Deployment.Secrets)) {
		secrets = append(secrets, string(name))
	}
	return append(row, showSource(f, m.Deployment.Source), showPolicy(m.Deployment.Policy), dashed(probeNames(m.Deployment.Probes)), dashed(secrets))
}

func probeNames(probes []fleet.Probe) []string {
	names := make([]string, len(probes))
	for i, probe := range probes {
		names[i] = probe.Name
	}
	return names
}

func dashed(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ",")
}

// showSource shortens paths inside of the fleet's repository.
func showSource(f *inventory.Fleet, s inventory.Source) string {
	if s.IsZero() {
		return "-"
	}
	short := func(path string) string {
		if rel, err := filepath.Rel(f.Dir(), path); err == nil && filepath.IsAbs(path) && filepath.IsLocal(rel) {
			if rel == "." {
				return rel
			}
			return "./" + filepath.ToSlash(rel)
		}
		return path
	}
	switch {
	case s.Bundle != "":
		return "bundle " + short(s.Bundle)
	case s.StorePath != "":
		return s.Driver + " " + short(s.StorePath)
	case s.IsExternal() && s.Files == "":
		return s.Driver
	case s.IsExternal():
		return s.Driver + " " + short(s.Files)
	}
	text := s.Driver + " " + short(s.Flake) + "#" + s.Attr
	if s.Build {
		text += " (built when published)"
	}
	return text
}

// showPolicy names the mode, and what differs from the defaults.
func showPolicy(p inventory.Policy) string {
	words := []string{string(fleet.ModeManage)}
	if p.Mode != "" {
		words[0] = string(p.Mode)
	}
	if p.ActivationDeadline != 0 {
		words = append(words, "activation "+shortDuration(p.ActivationDeadline))
	}
	if p.VerifyDeadline != 0 {
		words = append(words, "verify "+shortDuration(p.VerifyDeadline))
	}
	if p.OnInconclusive != "" {
		words = append(words, "inconclusive "+string(p.OnInconclusive))
	}
	if p.Reboot != "" {
		words = append(words, "reboot "+string(p.Reboot))
	}
	if p.Drift != "" {
		words = append(words, "drift "+string(p.Drift))
	}
	if p.Agent != "" {
		words = append(words, "agent "+string(p.Agent))
	}
	if p.KeepGenerations != 0 {
		words = append(words, fmt.Sprintf("keep %d", p.KeepGenerations))
	}
	if p.KeepFor != 0 {
		words = append(words, "keep for "+shortDuration(p.KeepFor))
	}
	if !p.Console.IsZero() {
		words = append(words, showConsole(p.Console))
	}
	if p.Expiry != fleet.Duration(fleet.DefaultExpiry) {
		words = append(words, "expiry "+shortDuration(p.Expiry))
	}
	return strings.Join(words, ", ")
}

// showConsole names what the person at the console is owed.
func showConsole(c fleet.ConsolePolicy) string {
	text := "console"
	if c.Notice != 0 {
		text += " notice " + shortDuration(c.Notice)
	}
	if c.Postpone != 0 {
		text += fmt.Sprintf(" postpone %d×%s", c.Postpone, shortDuration(fleet.Duration(c.PostponeFor.Or(fleet.DefaultPostponeFor))))
	}
	if c.Power != "" {
		text += " power " + string(c.Power)
	}
	if c.Idle != 0 {
		text += " idle " + shortDuration(c.Idle)
	}
	if c.AtMost != 0 {
		text += " at most " + shortDuration(c.AtMost)
	}
	return text
}

func shortDuration(d fleet.Duration) string {
	const day = 24 * time.Hour
	v := time.Duration(d)
	if v%day == 0 {
		return fmt.Sprintf("%dd", v/day)
	}
	s := v.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// inventoryVerdict is the JSON form of check.
type inventoryVerdict struct {
	OK        bool               `json:"ok"`
	Machines  int                `json:"machines"`
	Disabled  int                `json:"disabled"`
	Instances int                `json:"instances"`
	Problems  inventory.Problems `json:"problems,omitempty"`
	Warnings  inventory.Problems `json:"warnings,omitempty"`
}

func runInventoryCheck(o *options, args []string) error {
	p := o.printer()
	file, err := o.inventoryFile(args)
	var v inventoryVerdict
	if err == nil {
		err = file.check()
		v.Machines, v.Instances, v.Warnings = len(file.machines), len(file.Instances()), file.Warnings()
		for _, m := range file.machines {
			if m.Disabled {
				v.Disabled++
			}
		}
	}
	v.OK, v.Problems = err == nil, inventory.ProblemsOf(err)
	if err != nil && v.Problems == nil {
		return err
	}
	if p.JSON() {
		if err := p.Value(v); err != nil {
			return err
		}
	} else {
		for _, w := range v.Warnings {
			fmt.Fprintf(o.Stderr, "warning: %v\n", w)
		}
		for _, problem := range v.Problems {
			p.Printf("%v\n", problem)
		}
	}
	if n := len(v.Problems); n > 0 {
		return ui.WithHint(errors.New(counted(n, "problem")+" in the inventory"), "correct "+repo.FleetFile+" or the inventory and run check again")
	}
	if !p.JSON() {
		disabled := ""
		if v.Disabled > 0 {
			disabled = fmt.Sprintf(" (%d disabled)", v.Disabled)
		}
		p.Printf("ok: %s%s, %s\n", counted(v.Machines, "machine"), disabled, counted(v.Instances, "instance"))
	}
	return nil
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
