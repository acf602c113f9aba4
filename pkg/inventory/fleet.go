package inventory

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// FileName is the name of a fleet file in the fleet's repository.
const FileName = "fleet.yaml"

// Fleet is a fleet file together with the inventory that it names. It never
// changes; read the file again to see changes.
type Fleet struct {
	file, dir   string
	id          fleet.FleetID
	coordinator Coordinator
	inventory   *Inventory
	machines    map[fleet.MachineName]*Machine
	operators   map[fleet.OperatorName]Operator
	settings    scopes
	vars        Vars
	// plugins that any scope has, as drivers' names.
	plugins []driverName
}

// Coordinator says where the fleet's coordinator is.
type Coordinator struct {
	// Machine that it runs on; empty where that is none of the fleet.
	Machine fleet.MachineName `json:"machine,omitempty"`
	// Address is host:port; empty where the file has none.
	Address string `json:"address,omitempty"`
}

// Operator is a person or program that may act on the fleet.
type Operator struct {
	Name fleet.OperatorName `json:"name"`
	Role fleet.Role         `json:"role"`
}

// Load reads a fleet file and the inventory that it names. Where there is
// anything wrong the error has all problems that could be found, as a
// [Problem] or [Problems]; where a file cannot be read it wraps the reason, as
// fs.ErrNotExist. Conflicts between settings are left to [Fleet.Settings] and
// [Fleet.Check], so that one machine's conflict stops only that machine.
func Load(path string) (*Fleet, error) {
	data, err := ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the fleet file: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("reading the fleet file: %w", err)
	}
	return Parse(path, data, dir, ReadFile)
}

// LoadInventory reads a bare inventory in JSON, see [ParseInventory].
func LoadInventory(path string) (*Inventory, error) {
	data, err := ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the inventory: %w", err)
	}
	return ParseInventory(path, data)
}

// IsInventory says whether a file is a bare inventory in JSON, and no fleet
// file: by the end of its name, else by its first byte.
func IsInventory(path string) (bool, error) {
	data, err := ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", path, err)
	}
	return looksLikeJSON(path, data), nil
}

// ReadFile reads a regular file, and of one that is too large no more than
// shows that.
func ReadFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxBytes+1))
}

// ID is the fleet's id.
func (f *Fleet) ID() fleet.FleetID { return f.id }

// File is the fleet file, as it was named to Load.
func (f *Fleet) File() string { return f.file }

// Dir is the directory that relative paths of the fleet file start from.
func (f *Fleet) Dir() string { return f.dir }

// Coordinator says where the coordinator is.
func (f *Fleet) Coordinator() Coordinator { return f.coordinator }

// Machines returns all machines by name: the inventory's, and those that the
// fleet file adds.
func (f *Fleet) Machines() []Machine { return machineList(f.machines) }

// Machine returns one machine. The error wraps [ErrUnknown] and says which
// name may have been meant.
func (f *Fleet) Machine(name fleet.MachineName) (Machine, error) {
	if m := f.machines[name]; m != nil {
		return m.clone(), nil
	}
	return Machine{}, fmt.Errorf("%w machine %s: %s", ErrUnknown, quote(string(name)), suggest(string(name), f.machineNames()))
}

func (f *Fleet) machineNames() []string { return names(slices.Sorted(maps.Keys(f.machines))) }

// Operators returns all operators by name.
func (f *Fleet) Operators() []Operator {
	list := make([]Operator, 0, len(f.operators))
	for _, name := range slices.Sorted(maps.Keys(f.operators)) {
		list = append(list, f.operators[name])
	}
	return list
}

// Inventory returns the inventory; an empty one where the file has none.
func (f *Fleet) Inventory() *Inventory { return f.inventory }

// Instances returns the inventory's instances by name.
func (f *Fleet) Instances() []Instance { return f.inventory.Instances() }

// EffectiveSettings is [Inventory.EffectiveSettings] of the fleet's inventory.
func (f *Fleet) EffectiveSettings(instance, role string, machine fleet.MachineName) (map[string]any, error) {
	return f.inventory.EffectiveSettings(instance, role, machine)
}

// Warnings are what is odd but no error.
func (f *Fleet) Warnings() Problems { return f.inventory.Warnings() }

// Check returns what [Load] leaves open: every conflict in the settings of
// machines and instances, and deployment settings that are incomplete. It is
// nil where all is well.
func (f *Fleet) Check() error {
	var c collector
	answers := map[string]fleet.MachineName{}
	for _, name := range slices.Sorted(maps.Keys(f.machines)) {
		m := f.machines[name]
		dep, witness := f.effective(m, &c)
		if dep.Witness != "" && !m.Disabled {
			if other := answers[dep.Witness]; other != "" {
				c.add(witness, ErrConflict, fmt.Sprintf("machines %s and %s have one witness address, %s", other, name, quote(dep.Witness)),
					"each answers at its own: "+witnessHint)
			}
			answers[dep.Witness] = name
		}
		// Machines share problems: keep each once.
		c.problems = sorted(c.problems)
	}
	f.inventory.check(&c)
	return c.err()
}
