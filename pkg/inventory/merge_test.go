package inventory_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/inventory"
)

// effective merges settings of a tag, a machine and a role.
func effective(t *testing.T, tag, machine, role string) (map[string]any, error) {
	t.Helper()
	inv, err := inventory.ParseInventory("i.json", fmt.Appendf(nil,
		`{"machines": {"m": {"machineClass": "nixos", "tags": ["web", "all"]}}, "instances": {"i": {"roles": {"r": {
"tags": {"web": {"settings": %s}},
"machines": {"m": {"settings": %s}},
"settings": %s}}}}}`, tag, machine, role))
	if err != nil {
		t.Fatal(err)
	}
	return inv.EffectiveSettings("i", "r", "m")
}

func TestMerge(t *testing.T) {
	force := func(priority int, content string) string {
		return fmt.Sprintf(`{"_type": "override", "priority": %d, "content": %s}`, priority, content)
	}
	for _, c := range []struct {
		name               string
		tag, machine, role string
		want               string
	}{
		{"nothing", `{}`, `{}`, `{}`, `{}`},
		{"different keys", `{"a": 1}`, `{"b": "x"}`, `{"c": null}`, `{"a": 1, "b": "x", "c": null}`},
		{"equal scalars", `{"a": 1, "b": true, "c": null}`, `{"a": 1, "b": true, "c": null}`, `{"a": 1}`, `{"a": 1, "b": true, "c": null}`},
		{"equal numbers", `{"a": 1}`, `{"a": 1.0}`, `{}`, `{"a": 1}`},
		{"lists are joined", `{"a": [1]}`, `{"a": [2, [3]]}`, `{"a": [1]}`, `{"a": [1, 2, [3], 1]}`},
		{"maps merge", `{"a": {"b": {"c": 1}}}`, `{"a": {"b": {"d": 2}}}`, `{"a": {"e": [3]}}`, `{"a": {"b": {"c": 1, "d": 2}, "e": [3]}}`},
		{"force beats normal", `{"a": 1}`, `{"a": ` + force(50, "2") + `}`, `{"a": 3}`, `{"a": 2}`},
		{"normal beats default", `{"a": ` + force(1000, "1") + `}`, `{"a": 2}`, `{}`, `{"a": 2}`},
		{"lowest number wins", `{"a": ` + force(50, "1") + `}`, `{"a": ` + force(49, "2") + `}`, `{"a": ` + force(51, "3") + `}`, `{"a": 2}`},
		{"equal priorities merge", `{"a": ` + force(50, "[1]") + `}`, `{"a": ` + force(50, "[2]") + `}`, `{"a": [3]}`, `{"a": [1, 2]}`},
		{"priority of normal written out", `{"a": ` + force(100, "[1]") + `}`, `{"a": [2]}`, `{}`, `{"a": [1, 2]}`},
		{"a forced map replaces", `{"a": {"x": 1}}`, `{"a": ` + force(50, `{"y": 2}`) + `}`, `{}`, `{"a": {"y": 2}}`},
		{"forced inside of a forced map", `{"a": {"x": 1}}`, `{"a": ` + force(50, `{"y": `+force(50, "2")+`}`) + `}`, `{}`, `{"a": {"y": 2}}`},
		{"forced below a map", `{"a": {"x": 1, "z": 3}}`, `{"a": {"x": ` + force(50, "2") + `}}`, `{}`, `{"a": {"x": 2, "z": 3}}`},
		{"another kind, forced", `{"a": {"x": 1}}`, `{"a": ` + force(50, "null") + `}`, `{"a": "text"}`, `{"a": null}`},
		{"alone", `{"a": ` + force(1000, "1") + `}`, `{}`, `{}`, `{"a": 1}`},
		{"in a list", `{"a": [` + force(50, "1") + `, 2]}`, `{}`, `{}`, `{"a": [1, 2]}`},
		{"all settings forced", `{"a": 1}`, force(50, `{"b": 2}`), `{"c": 3}`, `{"b": 2}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := effective(t, c.tag, c.machine, c.role)
			if err != nil {
				t.Fatal(err)
			}
			// JSON makes the numbers comparable.
			text, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			var gotJSON, want any
			if err := errors.Join(json.Unmarshal(text, &gotJSON), json.Unmarshal([]byte(c.want), &want)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, gotJSON); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMergeConflicts(t *testing.T) {
	for _, c := range []struct {
		name               string
		tag, machine, role string
		want               string
		kind               error
	}{
		{
			"scalars", `{"a": 1}`, `{"a": 2}`, `{}`,
			"i.json:3: instances.i.roles.r.settings.a is 2 here (machine m) and 1 at i.json:2 (tag web)", inventory.ErrConflict,
		},
		{
			"null and text", `{"a": null}`, `{}`, `{"a": "x"}`,
			`i.json:4: instances.i.roles.r.settings.a is "x" here (role r) and null at i.json:2 (tag web)`, inventory.ErrConflict,
		},
		{
			"kinds", `{"a": []}`, `{"a": {}}`, `{}`,
			"i.json:3: instances.i.roles.r.settings.a is a map here (machine m) and a list at i.json:2 (tag web)", inventory.ErrConflict,
		},
		{
			"deep", `{"a": {"b": true}}`, `{}`, `{"a": {"b": false}}`,
			"i.json:4: instances.i.roles.r.settings.a.b is false here (role r) and true at i.json:2 (tag web)", inventory.ErrConflict,
		},
		{
			"mkIf", `{}`, `{"a": {"_type": "if", "condition": true, "content": 1}}`, `{}`,
			`i.json:3: instances.i.roles.r.settings.a has _type "if"`, inventory.ErrInvalid,
		},
		{
			"mkOrder in a list", `{}`, `{"a": [{"_type": "order", "priority": 1, "content": []}]}`, `{}`,
			`i.json:3: instances.i.roles.r.settings.a[0] has _type "order"`, inventory.ErrInvalid,
		},
		{
			"no content", `{}`, `{"a": {"_type": "override", "priority": 1}}`, `{}`,
			`i.json:3: instances.i.roles.r.settings.a: an override without content`, inventory.ErrInvalid,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := effective(t, c.tag, c.machine, c.role)
			if got != nil || !errors.Is(err, c.kind) || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, %v\nwant %s", got, err, c.want)
			}
		})
	}
}
