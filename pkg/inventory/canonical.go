package inventory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// Canonical checks an evaluated inventory in JSON, see [ParseInventory], and
// returns it in the form to be kept in a repository: keys sorted, indented, and
// without what Nix wraps settings in, which names store paths that change with
// every commit. Equal inventories have equal forms.
func Canonical(name string, data []byte) ([]byte, *Inventory, error) {
	if _, err := ParseInventory(name, data); err != nil {
		return nil, nil, err
	}
	var doc map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		return nil, nil, fmt.Errorf("%s: %w: %w", name, strictjson.ErrSyntax, err)
	}
	for _, instance := range children(doc["instances"]) {
		for _, role := range children(child(instance, "roles")) {
			unwrapIn(role)
			for _, list := range []string{"machines", "tags"} {
				for _, member := range children(child(role, list)) {
					unwrapIn(member)
				}
			}
		}
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	// As it will be read: it may have grown.
	inv, err := ParseInventory(name, out.Bytes())
	return out.Bytes(), inv, err
}

// children are the values of an object.
func children(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

func child(v any, key string) any { return children(v)[key] }

// unwrapIn replaces the settings of a role or member by what is in Nix's
// wrapper. Whether it is one, was checked.
func unwrapIn(v any) {
	m := children(v)
	settings := children(m["settings"])
	if settings["imports"] == nil {
		return
	}
	if content := sole(sole(settings)); content != nil {
		m["settings"] = content
	}
}

// sole is the only object in the imports of m.
func sole(m map[string]any) map[string]any {
	list, _ := m["imports"].([]any)
	if len(list) != 1 {
		return nil
	}
	return children(list[0])
}

// SourceFile says which file the fleet file has its inventory in, without
// reading that: as a path of this machine, empty where it names none.
func SourceFile(path string) (string, error) {
	data, err := ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the fleet file: %w", err)
	}
	n, err := readYAML(path, data)
	if err != nil {
		return "", err
	}
	file := n.get("inventory").get("file")
	if file == nil || file.kind == kindNull {
		return "", nil
	}
	d := &decoder{}
	name := d.path(file, "inventory.file")
	if err := d.err(); err != nil {
		return "", err
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(path), name)
	}
	return filepath.Clean(name), nil
}
