package generator

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// maxSettingsBytes bounds the settings of one generator.
const maxSettingsBytes = 64 << 10

// Setting is one that a kind of generator knows.
type Setting struct {
	Name string
	// Type in the words of JSON: text, number, true or false, list of text.
	Type string
	// Default as JSON would have it; empty where it depends on others or the
	// setting must be given.
	Default string
	Doc     string
}

// newKind is a kind whose settings are the fields of S, with their defaults and
// docs in tags. build checks them.
func newKind[S any](k Kind, defaults S, build func(machine string, s S) (*Generator, error)) Kind {
	k.Settings = describe(reflect.ValueOf(defaults))
	k.build = func(machine string, settings []byte) (*Generator, error) {
		s := defaults
		if len(settings) > 0 {
			if err := strictjson.UnmarshalKnown(settings, maxSettingsBytes, &s); err != nil {
				return nil, fmt.Errorf("its settings: %w", err)
			}
		}
		if machine != "" {
			if _, err := fleet.ParseMachineName(machine); err != nil {
				return nil, err
			}
		}
		g, err := build(machine, s)
		if err != nil {
			return nil, err
		}
		g.Share = machine == ""
		return g, nil
	}
	return k
}

func describe(v reflect.Value) []Setting {
	var all []Setting
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			all = append(all, describe(v.Field(i))...)
			continue
		}
		s := Setting{Name: f.Tag.Get("json"), Doc: f.Tag.Get("doc")}
		switch f.Type.Kind() { //nolint:exhaustive // Settings have these types; a test describes all.
		case reflect.String:
			s.Type = "text"
		case reflect.Bool:
			s.Type = "true or false"
		case reflect.Slice:
			s.Type = "list of text"
		case reflect.Pointer, reflect.Int, reflect.Uint64:
			s.Type = "number"
		}
		if !v.Field(i).IsZero() || f.Type.Kind() == reflect.Bool {
			s.Default = strings.Trim(fmt.Sprint(v.Field(i).Interface()), "[]")
		}
		all = append(all, s)
	}
	return all
}

// wantMachine is for kinds of which each machine has one of its own.
func wantMachine(machine string) error {
	if machine == "" {
		return fmt.Errorf("it is for one machine, and can't be shared: declare it for machines")
	}
	return nil
}

// fileName checks what becomes a directory of the tree.
func fileName(setting, name string) error {
	ok := name != "" && len(name) <= 128 && name[0] != '.'
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	}
	if !ok {
		return fmt.Errorf("%s: %q is no name of a file or generator: want at most 128 letters, digits, dots, dashes and underscores, not beginning with a dot", setting, name)
	}
	return nil
}

// between checks a number of settings.
func between(setting string, n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%s: %d: want %d to %d", setting, n, least, most)
	}
	return nil
}

// oneOf checks a word of settings.
func oneOf(setting, word string, words ...string) error {
	if slices.Contains(words, word) {
		return nil
	}
	return fmt.Errorf("%s: %q: want one of %s", setting, word, strings.Join(words, ", "))
}

// domainName checks a DNS name in lower case.
func domainName(setting, name string) error {
	labels := strings.Split(name, ".")
	ok := len(name) > 0 && len(name) <= 253
	for _, label := range labels {
		ok = ok && label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
		for _, r := range label {
			ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		}
	}
	if !ok {
		return fmt.Errorf("%s: %q is no domain name in lower case, such as example.org", setting, name)
	}
	return nil
}
