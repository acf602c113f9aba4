package packaging

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// settings are those of a unit: by section and name, in the order of the file.
type settings map[string][]string

// parseUnit reads what units of this repository have: no continued lines.
func parseUnit(text string) (settings, error) {
	s, section := settings{}, ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch name, value, ok := strings.Cut(line, "="); {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = strings.Trim(line, "[]")
		case !ok || section == "" || strings.HasSuffix(line, "\\"):
			return nil, fmt.Errorf("line %d: %q", i+1, line)
		default:
			s[section+"."+name] = append(s[section+"."+name], value)
		}
	}
	return s, nil
}

// module is a service as NixOS is told of it.
type module struct {
	Enable           *bool          `json:"enable"`
	Description      string         `json:"description"`
	Documentation    []string       `json:"documentation"`
	After            []string       `json:"after"`
	Before           []string       `json:"before"`
	Conflicts        []string       `json:"conflicts"`
	WantedBy         []string       `json:"wantedBy"`
	RestartIfChanged *bool          `json:"restartIfChanged"`
	StopIfChanged    *bool          `json:"stopIfChanged"`
	Unit             map[string]any `json:"unitConfig"`
	Service          map[string]any `json:"serviceConfig"`
}

// UnmarshalJSON takes nothing that is not compared.
func (m *module) UnmarshalJSON(data []byte) error {
	type plain module
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode((*plain)(m))
}

// settings are as the unit's file would have them.
func (m module) settings() settings {
	s := settings{"Unit.Description": {m.Description}, "Unit.Documentation": m.Documentation, "Unit.After": m.After, "Install.WantedBy": m.WantedBy}
	for name, units := range map[string][]string{"Unit.Before": m.Before, "Unit.Conflicts": m.Conflicts} {
		if len(units) > 0 {
			s[name] = units
		}
	}
	if m.RestartIfChanged != nil {
		// As NixOS writes it.
		s["Unit.X-RestartIfChanged"] = []string{fmt.Sprint(*m.RestartIfChanged)}
	}
	for section, values := range map[string]map[string]any{"Unit": m.Unit, "Service": m.Service} {
		for name, value := range values {
			list, ok := value.([]any)
			if !ok {
				list = []any{value}
			}
			for _, v := range list {
				s[section+"."+name] = append(s[section+"."+name], fmt.Sprint(v))
			}
		}
	}
	return s
}

// asSystemd is a value as systemd takes it, so that what means the same is equal.
func asSystemd(values []string) string {
	list := make([]string, len(values))
	for i, v := range values {
		switch v {
		case "yes", "true", "on", "1":
			v = "yes"
		case "no", "false", "off":
			v = "no"
		}
		list[i] = v
	}
	return strings.Join(list, " ")
}

func TestParseUnit(t *testing.T) {
	s, err := parseUnit("# a\n[Unit]\nAfter=b\n\n[Service]\nA=1\nA=~2 3\nB=\n")
	if err != nil || asSystemd(s["Service.A"]) != "yes ~2 3" || len(s["Service.B"]) != 1 || asSystemd(s["Unit.After"]) != "b" {
		t.Errorf("%v, %v", s, err)
	}
	for _, bad := range []string{"A=1\n", "[Unit]\nA\n", "[Unit]\nA=1 \\\n2\n"} {
		if s, err := parseUnit(bad); err == nil {
			t.Errorf("%q is %v", bad, s)
		}
	}
}
