package plugin_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/plugin"
)

// config is what a plugin's may be like.
type config struct {
	Path  string         `json:"path,omitempty"`
	Days  int            `json:"days,omitempty"`
	Modes map[string]int `json:"modes,omitempty"`
	List  []string       `json:"list,omitempty"`
}

func TestConfig(t *testing.T) {
	c := config{Days: 7}
	if err := plugin.Config(nil, &c); err != nil || c.Days != 7 {
		t.Errorf("none: %+v, %v", c, err)
	}
	if err := plugin.Config([]byte(`{"path":"/a"}`), &c); err != nil || c.Path != "/a" || c.Days != 7 {
		t.Errorf("a path: %+v, %v", c, err)
	}
	for name, text := range map[string]string{
		"unknown key":       `{"paht":"/a"}`,
		"twice":             `{"path":"/a","path":"/b"}`,
		"twice but in case": `{"path":"/a","Path":"/b"}`,
		"two of them":       `{} {}`,
		"a closing brace":   `{} }`,
		"a closing bracket": `{"path":"/a"}]`,
		"cut":               `{"path":`,
		"too large":         `{"path":"` + strings.Repeat("x", fleet.MaxPluginConfigBytes) + `"}`,
	} {
		if err := plugin.Config([]byte(text), &c); !errors.Is(err, driver.ErrSource) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzConfig: what a plugin takes is one JSON value within the bounds, and means
// the same when it is written again.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"path":"/etc/motd","days":7,"modes":{"a":420},"list":["x","y"]}`))
	f.Add([]byte(`{} }`))
	f.Add([]byte(`{"path":"/a","Path":"/b"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c config
		if err := plugin.Config(data, &c); err != nil {
			if !errors.Is(err, driver.ErrSource) {
				t.Errorf("refused as %v", err)
			}
			return
		}
		if len(data) > 0 && !json.Valid(data) || len(data) > fleet.MaxPluginConfigBytes {
			t.Errorf("%q is taken", data)
		}
		text, err := json.Marshal(c)
		if err != nil || len(text) > fleet.MaxPluginConfigBytes {
			return // Escapes may make it longer.
		}
		var again config
		if err := plugin.Config(text, &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, again, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
