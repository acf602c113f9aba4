package strictyaml_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/lexer"

	"github.com/cameronraysmith/fleet/pkg/strictyaml"
)

func TestCheck(t *testing.T) {
	deep := strings.Repeat("[", strictyaml.MaxDepth+1) + strings.Repeat("]", strictyaml.MaxDepth+1)
	for name, tt := range map[string]struct {
		text    string
		aliases bool
		want    string
	}{
		"plain":             {text: "a:\n  - b\n  - {c: [d, 1]}\n"},
		"anchor":            {text: "a: 1\nb: &x 2\n", want: "line 2: anchors (&) are not read"},
		"alias":             {text: "b: *x\n", want: "line 1: aliases (*) are not read"},
		"both, followed":    {text: "a: &x 2\nb: *x\n", aliases: true},
		"merge key":         {text: "a:\n  <<: {b: 1}\n", want: "line 2: merge keys (<<) are not read"},
		"tag":               {text: "a: !!str 1\n", want: "line 1: tags (!) are not read"},
		"directive":         {text: "%YAML 1.2\n---\na: 1\n", want: "line 1: directives (%) are not read"},
		"complex key":       {text: "? a\n: b\n", want: "line 1: complex keys (?) are not read"},
		"as deep as may be": {text: deep[1 : len(deep)-1]},
		"flow, too deep":    {text: deep, want: "line 1: nested more than 64 levels deep"},
		"rows of dashes":    {text: "a:\n" + strings.Repeat("- ", strictyaml.MaxDepth+1) + "b\n", want: "line 2: nested more than 64 levels deep"},
		"indented too far":  {text: "a:\n" + strings.Repeat(" ", 1025) + "b: 1\n", want: "line 2: nested more than 64 levels deep"},
		"no YAML":           {text: "a: secret\n\tb: 2\n", want: "line 2: not valid YAML"},
		"too long":          {text: strings.Repeat("- a\n", 60), want: "more words and signs than are read"},
	} {
		t.Run(name, func(t *testing.T) {
			most := 100
			if name != "too long" {
				most = 1000
			}
			err := strictyaml.Check(lexer.Tokenize(tt.text), most, tt.aliases)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			bad, ok := errors.AsType[*strictyaml.Error](err)
			if !ok || !strings.HasPrefix(bad.Error(), tt.want) {
				t.Fatalf("%v, and not %q", err, tt.want)
			}
			if strings.Contains(bad.Error(), "secret") {
				t.Errorf("%q quotes the document", bad)
			}
		})
	}
}
