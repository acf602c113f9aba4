package nix_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/nix"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

const (
	system = "/nix/store/nkxbjifz8ci65dss1zjvlhyfbg51prmb-nixos-system-a"
	dep    = "/nix/store/xh9cmaa8wnicqa70i8w97pwrki238xqr-dep"
)

// TestDecodePathInfo: one file was printed by Nix 2.26; the list has the same
// in the form of 2.18.
func TestDecodePathInfo(t *testing.T) {
	registered := time.Unix(1795657735, 0).UTC()
	want := []nix.PathInfo{
		{
			ClosurePath: fleet.ClosurePath{Path: system, NarHash: "sha256-52U0AbRg+JFJRGk3aQrzcKPxaZ0drW8U8zwd3rCznIg=", NarSize: 936, References: []string{dep}},
			Registered:  registered,
		},
		{
			ClosurePath: fleet.ClosurePath{Path: dep, NarHash: "sha256-e9vJ5kB9nT7UCtxk10a+Y2a19Y7maMawKGYAi771cgI=", NarSize: 120},
			Registered:  registered,
		},
	}
	for _, file := range []string{"testdata/path-info-2.26.json", "testdata/path-info-list.json"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := nix.DecodePathInfo(data)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

func TestDecodePathInfoRefuses(t *testing.T) {
	const hash = `"narHash":"sha256-e9vJ5kB9nT7UCtxk10a+Y2a19Y7maMawKGYAi771cgI="`
	for name, c := range map[string]struct {
		data string
		want error
	}{
		"a path that is not in the store":         {`{"` + dep + `":null}`, nix.ErrNotValid},
		"one that is not in the store, in a list": {`[{"path":"` + dep + `","valid":false}]`, nix.ErrNotValid},
		"no store path":                           {`{"/etc/passwd":{` + hash + `}}`, nix.ErrPathInfo},
		"no path":                                 {`[{` + hash + `}]`, nix.ErrPathInfo},
		"a path twice":                            {`[{"path":"` + dep + `",` + hash + `},{"path":"` + dep + `",` + hash + `}]`, nix.ErrPathInfo},
		"a path twice, by key":                    {`{"` + dep + `":{` + hash + `},"` + dep + `":{` + hash + `}}`, strictjson.ErrDuplicate},
		"no hash":                                 {`{"` + dep + `":{}}`, nix.ErrPathInfo},
		"a short hash":                            {`{"` + dep + `":{"narHash":"sha256-e9vJ"}}`, nix.ErrPathInfo},
		"another hash":                            {`{"` + dep + `":{"narHash":"md5:00"}}`, nix.ErrPathInfo},
		"a reference that is no path":             {`{"` + dep + `":{` + hash + `,"references":["../x"]}}`, nix.ErrPathInfo},
		"a size that is none":                     {`{"` + dep + `":{` + hash + `,"narSize":-1}}`, nix.ErrPathInfo},
		"the structured form of --json-format 2":  {`{"info":{"xh9cmaa8wnicqa70i8w97pwrki238xqr-dep":{}},"storeDir":"/nix/store","version":2}`, nix.ErrPathInfo},
		"text":                                    {`warning: something`, strictjson.ErrSyntax},
		"nothing":                                 {``, strictjson.ErrSyntax},
		"more than one document":                  {`{}{}`, strictjson.ErrSyntax},
		"a bomb":                                  {strings.Repeat("[", 1<<16), strictjson.ErrTooDeep},
		"a value that is none, control characters in": {`{"\u001b[2J":null}`, nix.ErrNotValid},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := nix.DecodePathInfo([]byte(c.data))
			if !errors.Is(err, c.want) {
				t.Errorf("%v, %v; want %v", got, err, c.want)
			}
		})
	}
}

// FuzzDecodePathInfo: whatever is accepted makes sense.
func FuzzDecodePathInfo(f *testing.F) {
	for _, file := range []string{"testdata/path-info-2.26.json", "testdata/path-info-list.json"} {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"` + dep + `":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		infos, err := nix.DecodePathInfo(data)
		if err != nil {
			return
		}
		for i, p := range infos {
			if fleet.ValidateStorePath(p.Path) != nil || i > 0 && infos[i-1].Path >= p.Path {
				t.Errorf("path %q at %d", p.Path, i)
			}
			for j, r := range p.References {
				if fleet.ValidateStorePath(r) != nil || j > 0 && p.References[j-1] >= r {
					t.Errorf("reference %q", r)
				}
			}
		}
	})
}
