package inventory_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/cameronraysmith/fleet/pkg/inventory"
)

const schemaFile = "../../docs/fleet.schema.json"

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := inventory.Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(inventory.SchemaURL, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(inventory.SchemaURL)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSchemaFile: the file that editors load is the one that is printed.
func TestSchemaFile(t *testing.T) {
	got, err := inventory.Schema()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; go test ./pkg/inventory -update writes it):\n%s", schemaFile, diff)
	}
}

// beyondSchema are bad files whose shape is right: a schema cannot see what is
// wrong with them.
var beyondSchema = map[string]bool{
	"broken-inventory.yaml": true, "missing-inventory.yaml": true, "redefined-machine.yaml": true,
	"conflict-kind.yaml": true, "conflict-scalar.yaml": true, "equal-forces.yaml": true,
	"coordinator-disabled.yaml": true, "incomplete.yaml": true, "policy-console-incomplete.yaml": true, "secret-paths.yaml": true, "witness.yaml": true, "secret-users-owner.yaml": true,
}

// unreadable are bad files of whose YAML or encoding nothing else is read.
var unreadable = map[string]bool{
	"alias.yaml": true, "alias-bomb.yaml": true, "byte-order-mark.yaml": true, "complex-key.yaml": true, "duplicate-key.yaml": true,
	"hex.yaml": true, "malformed.yaml": true, "malformed-indent.yaml": true, "merge-key.yaml": true, "tag-sign.yaml": true,
	"truncated.yaml": true, "two-documents.yaml": true,
}

func TestSchemaAgainstFiles(t *testing.T) {
	s := compileSchema(t)
	validate := func(t *testing.T, data []byte) error {
		t.Helper()
		var v any
		if err := yaml.Unmarshal(data, &v); err != nil {
			t.Fatal(err)
		}
		return s.Validate(v)
	}
	good := map[string][]byte{}
	bad := map[string][]byte{}
	for pattern, to := range map[string]map[string][]byte{"testdata/fleets/*.yaml": good, "testdata/bad/*.yaml": bad} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, f := range files {
			if to[filepath.Base(f)], err = os.ReadFile(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	good["docs/inventory.md"] = []byte(documentedExample(t))
	for name, data := range good {
		if err := validate(t, data); err != nil {
			t.Errorf("%s is good, and the schema refuses it: %v", name, err)
		}
	}
	seen := 0
	for name, data := range bad {
		if unreadable[name] {
			seen++
			continue
		}
		err := validate(t, data)
		if beyondSchema[name] {
			seen++
			if err != nil {
				t.Errorf("%s has a right shape, and the schema refuses it: %v", name, err)
			}
		} else if err == nil {
			t.Errorf("%s has a wrong shape, and the schema takes it", name)
		}
	}
	if seen != len(beyondSchema)+len(unreadable) {
		t.Errorf("%d files are said not to be for the schema, of which %d are there", len(beyondSchema)+len(unreadable), seen)
	}
}

// TestSchemaSeesEachMistake: in files with many mistakes one would be enough to
// be refused.
func TestSchemaSeesEachMistake(t *testing.T) {
	s := compileSchema(t)
	for _, text := range []string{
		`{}`, `fleet: 7`, `fleet: First`, `fleet:`, `{fleet: a, fleets: b}`, `{fleet: a, machines: [x]}`, `{fleet: a, machines: {X: }}`,
		`{fleet: a, machines: {x: {class: linx}}}`, `{fleet: a, machines: {x: {tags: web}}}`, `{fleet: a, machines: {x: {tags: [Web]}}}`,
		`{fleet: a, disabled: x}`, `{fleet: a, coordinator: {}}`, `{fleet: a, coordinator: {address: host}}`,
		`{fleet: a, inventory: {file: ""}}`, `{fleet: a, inventory: {file: a, machines: {}}}`, `{fleet: a, inventory: {machines: {x: {clas: y}}}}`,
		`{fleet: a, operators: {me: admin}}`, `{fleet: a, operators: {me: {}}}`, `{fleet: a, operators: {me: {role: root}}}`,
		`{fleet: a, settings: {al: {}}}`, `{fleet: a, settings: {class: {bsd: {}}}}`, `{fleet: a, settings: {all: {age: age1x}}}`,
		`{fleet: a, settings: {all: {polici: {}}}}`, `{fleet: a, settings: {all: {policy: {mode: hope}}}}`, `{fleet: a, settings: {all: {policy: {expiry: 90}}}}`,
		`{fleet: a, settings: {all: {policy: {expiry: -5s}}}}`, `{fleet: a, settings: {all: {policy: {mode: {_type: merge}}}}}`,
		`{fleet: a, settings: {all: {policy: {mode: {_type: override, priority: low, content: manage}}}}}`,
		`{fleet: a, settings: {all: {policy: {mode: {_type: override, priority: 50, content: hope}}}}}`,
		`{fleet: a, settings: {all: {probes: {P: {}}}}}`, `{fleet: a, settings: {all: {probes: {p: {kind: ping}}}}}`,
		`{fleet: a, settings: {all: {probes: {p: {url: "ftp://x"}}}}}`, `{fleet: a, settings: {all: {probes: {p: {status: 99}}}}}`,
		`{fleet: a, settings: {all: {probes: {p: {argv: true}}}}}`, `{fleet: a, settings: {all: {probes: {p: {unit: "a b"}}}}}`,
		`{fleet: a, settings: {all: {secrets: {s: {mode: "0999"}}}}}`, `{fleet: a, settings: {all: {secrets: {s: {mode: 1777}}}}}`,
		`{fleet: a, settings: {all: {secrets: {s: {owner: "a b"}}}}}`, `{fleet: a, settings: {all: {secrets: {s: {path: /etc/x}}}}}`,
		`{fleet: a, settings: {all: {source: {bundel: x}}}}`, `{fleet: a, settings: {all: {source: {bundle: ""}}}}`,
		`{fleet: a, settings: {all: {source: {flake: ".#x"}}}}`, `{fleet: a, settings: {all: {source: {flake: "a b"}}}}`,
		`{fleet: a, settings: {all: {source: {url: ./x}}}}`, `{fleet: a, settings: {all: {source: {attr: "-x"}}}}`,
		`{fleet: a, settings: {all: {source: {build: "yes"}}}}`, `{fleet: a, settings: {all: {source: {driver: nix os}}}}`,
		`{fleet: a, settings: {all: {source: {flake: ., bundle: x}}}}`, `{fleet: a, settings: {all: {source: {storePath: x, build: true}}}}`,
		`{fleet: a, vars: {groups: [Admins]}}`, `{fleet: a, vars: {generators: {x: }}}`, `{fleet: a, vars: {generators: {x: {kind: }}}}`,
		`{fleet: a, vars: {generators: {.x: {kind: token}}}}`, `{fleet: a, vars: {generators: {"{host}": {kind: token}}}}`,
		`{fleet: a, vars: {generators: {x: {kind: token, share: 1}}}}`, `{fleet: a, vars: {generators: {x: {kind: token, settings: [a]}}}}`,
		`{fleet: a, vars: {generators: {x: {kind: token, machine: [a]}}}}`, `{fleet: a, vars: {generators: {x: {kind: token, files: {x: {mode: "999"}}}}}}`,
		`{fleet: a, vars: {generators: {x: {kind: token, files: {x: {neededFor: boot}}}}}}`,
		`{fleet: a, vars: {flake: .}}`, `{fleet: a, vars: {flake: {url: ".#x"}}}`,
		`{fleet: a, vars: {generators: {x: {kind: token, script: x}}}}`, `{fleet: a, vars: {generators: {x: {script: x, prompts: {y: {type: z}}}}}}`,
		`{fleet: a, vars: {generators: {x: {script: x, dependencies: [../x]}}}}`, `{fleet: a, vars: {generators: {x: {script: x, rerunOnChange: 1}}}}`,
	} {
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(v); err == nil {
			t.Errorf("the schema takes %s", text)
		}
	}
}

// documentedExample is the fleet file of the reference.
func documentedExample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/inventory.md")
	if err != nil {
		t.Fatal(err)
	}
	var file strings.Builder
	inside := false
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.HasPrefix(line, "```yaml")
		case inside:
			file.WriteString(line)
		}
	}
	return file.String()
}
